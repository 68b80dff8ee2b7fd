"""Sliders: milliseconds from a key on a slider of ``gendiff process explore`` to the new picture, in headless Chromium.

    python tests/campaigns/sliders.py

Keys are pressed on every slider of the page: at rest (once the errors of the last value are predicted), quickly, and as a key
that is held, where what counts is how long after the last one the picture is that of its value. The clock is that of the
browser, from its event of the key to the frame in which the picture is another one; what else the machine does is in it. A page
that is served already is measured with ``--address``, so that two versions can take turns. It needs playwright and Chromium.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

WANTED = 150  # ms, that a picture is taken to follow the hand
REST, QUICK, REPEAT = 1.5, 0.2, 0.033  # seconds between keys; the last one is that of a key that is held
HELD = 30  # keys, a second of them
LONG = 5  # seconds after which a picture is taken to be the same
ARMS = (
    "dct schedule=quartic",
    "dct velocity=soft-conditioning:g_denoise=-30",
)  # none of whose sliders runs into another

#: Begin to watch an area, and give a slider the keys: which one leads to where more of its values are.
WATCH = """([name, area]) => {
  const slider = [...document.querySelectorAll('[role=slider]')].find(one => one.getAttribute('aria-label') === name);
  (slider.querySelector('[tabindex]') || slider).focus();
  const watch = window.watched = {key: null, first: null, last: null};
  watch.heard = () => { watch.key = performance.now(); watch.first = null; };
  addEventListener('keydown', watch.heard, {capture: true});
  watch.observer = new MutationObserver(() => requestAnimationFrame(() => {
    watch.last = performance.now();
    watch.first ??= watch.last;
  }));
  watch.observer.observe(document.querySelector(`[data-area='${area}']`), {childList: true, subtree: true});
  const [low, high, now] = ['min', 'max', 'now'].map(end => Number(slider.getAttribute('aria-value' + end)));
  return now - low < high - now ? 'ArrowRight' : 'ArrowLeft';
}"""
STOP = "() => { removeEventListener('keydown', watched.heard, {capture: true}); watched.observer.disconnect(); }"
NAMES = "() => [...document.querySelectorAll('[role=slider]')].map(one => one.getAttribute('aria-label'))"


@contextmanager
def served(size: int) -> Iterator[str]:
    """The address of a page of our own."""
    words = [word for arm in ARMS for word in ("--arm", arm)]
    line = [sys.executable, "-m", "gendiff_cli", "process", "explore", *words, "--data", "emoji", "--size", str(size)]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen([*line, "--port", "0"], stdout=subprocess.PIPE, text=True, cwd=folder) as server,
    ):
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


@contextmanager
def opened(address: str) -> Iterator[Any]:
    """A page in a browser."""
    from playwright.sync_api import sync_playwright

    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        load(page, address)
        yield page
        browser.close()


def load(page: Any, address: str) -> None:
    """The page as it begins, with all its pictures and predictions there."""
    page.goto(address)
    page.wait_for_selector("[data-area='strip B'] img", timeout=60_000)
    page.wait_for_selector("[data-area='errors'] td", timeout=60_000)
    time.sleep(REST)


def area(name: str) -> str:
    """The area that a slider changes last among those that are looked at."""
    side = name[0] if name[1:2] == " " else "B"
    return f"moment {side}" if name == "i/N" else f"strip {side}"


def each(page: Any, name: str, pause: float, presses: int) -> list[float]:
    """Milliseconds to the first new picture after each of several keys; none where it does not change."""
    key, times = page.evaluate(WATCH, [name, area(name)]), list[float]()
    for _ in range(presses):
        page.keyboard.press(key)
        until = time.monotonic() + max(pause, QUICK)
        took = None
        while took is None and time.monotonic() < until + LONG:
            time.sleep(max(until - time.monotonic(), QUICK / 4))  # the browser is not asked while it works
            took = page.evaluate("watched.first === null ? null : watched.first - watched.key")
        if took is None:
            break
        times.append(took)
    page.evaluate(STOP)
    return times


def held(page: Any, name: str, count: int) -> list[float]:
    """Milliseconds from the last of many keys to the last new picture; none where it does not change after it."""
    key, begin = page.evaluate(WATCH, [name, area(name)]), time.monotonic()
    for k in range(count):
        time.sleep(max(0.0, begin + k * REPEAT - time.monotonic()))
        page.keyboard.down(key)
    page.keyboard.up(key)
    time.sleep(REST)
    took = page.evaluate("watched.last === null ? -1 : watched.last - watched.key")
    page.evaluate(STOP)
    return [took] if took >= 0 else []


def told(times: Sequence[float]) -> str:
    """Median and most."""
    return f"{statistics.median(times):.0f} ({max(times):.0f})" if times else "no other picture"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", help="of a page that is served already")
    parser.add_argument("--size", type=int, default=64, help="of the pictures of a page of its own")
    parser.add_argument("--presses", type=int, default=8, help="of each slider, at rest and quickly")
    parser.add_argument("--only", default="", help="sliders whose name holds this")
    options = parser.parse_args(arguments)
    ways = ("at rest", "quickly", "held")
    took: dict[str, list[float]] = {way: [] for way in ways}
    page_at = nullcontext(options.address) if options.address else served(options.size)
    with page_at as address, opened(address) as page:
        print(f"| slider, ms: median (most) | {' | '.join(ways)} |\n|---|---|---|---|", flush=True)
        for name in [one for one in page.evaluate(NAMES) if options.only in one]:
            load(page, address)
            row = [
                each(page, name, REST, options.presses),
                each(page, name, QUICK, options.presses),
                held(page, name, HELD),
            ]
            print(f"| {name} | {' | '.join(map(told, row))} |", flush=True)
            for way, times in zip(ways, row, strict=True):
                took[way] += times
    for way, times in took.items():
        below = sum(one < WANTED for one in times)
        print(f"{way}: {below} of {len(times)} below {WANTED} ms, {told(times)}")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    return 0


if __name__ == "__main__":
    sys.exit(main())
