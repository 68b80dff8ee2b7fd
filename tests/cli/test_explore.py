"""The page of sliders: it shows what commands print, what is copied from it trains what it shows, and nobody else sees it."""

from __future__ import annotations

import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from browser import chromium
from command import run
from gendiff_cli.explorer.explorer import Explorer
from gendiff_cli.explorer.page import Page
from gendiff_cli.explorer.reverse import Reverse, Wish, nearest
from gendiff_cli.explorer.threads import Threads
from gendiff_cli.options import Given
from gendiff_cli.process.explore import explorer_of, listening
from PIL import Image
from runs import create, settings, train

from gendiff.errors import ConfigError, GendiffError
from gendiff.lab.forward import BandSNR
from gendiff.plugin.registry import default_registry
from gendiff.run.directory import Run
from gendiff.run.layers import Layer, resolve
from gendiff.run.trained import TrainedModel

SMALL = {"data": "dead-leaves:size=16"}


def explorer(arms=(), picture: Path | None = None, run: Path | None = None, **given) -> Explorer:
    return explorer_of(default_registry(), Given({**SMALL, **given}), list(arms), run, picture)


@pytest.fixture(scope="module")
def shown() -> Explorer:
    return explorer()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Run:
    """A run of digits that is told of labels."""
    config = settings(rotation="dct", steps=3)
    config = config.model_copy(update={"condition": ("label",)})
    made = create(tmp_path_factory.mktemp("explored") / "run", config)
    train(made)
    return made


class TestWhatIsShown:
    def test_a_slider_changes_the_picture_and_its_numbers(self, shown):
        """Those of one side; the other stays, and going back is the same to the letter."""
        page = shown.again()
        before = {side: (page.pictures(side).strip, page.numbers(side).curves(0.3)) for side in "AB"}
        page.set("A", "velocity.schedule.f_max", 0.5)
        after = {side: (page.pictures(side).strip, page.numbers(side).curves(0.3)) for side in "AB"}
        assert all(new != old for new, old in zip(after["A"], before["A"], strict=True))
        assert after["B"] == before["B"]
        page.set("A", "velocity.schedule.f_max", 0.14)
        assert page.pictures("A").strip == before["A"][0]

    def test_bands_are_lost_where_process_show_says(self, shown):
        done = run(
            "process", "show", "--rotation", "dct", "--schedule", "log", "--data", SMALL["data"], "--bands", 6, "--json"
        )
        facts = done.json["processes"][0]
        assert shown.numbers("A").lost == facts["data_crossing"]
        for i in facts["data_crossing"]:
            assert f"A: i = {i}<" in shown.losses()

    def test_errors_are_those_of_process_predict(self):
        page = explorer(["identity"], N=None)
        page.samplers = ("ddim",)
        for _ in page.forecast(lambda: True):
            pass
        done = run("process", "predict", "--arm", "identity", "--data", SMALL["data"], "--sampler", "ddim", "--json")
        predicted = [f"{row['error']:.3g}" for row in done.json["predictions"]]
        for text in predicted:
            assert f"<td>{text}</td>" in page.errors()

    def test_a_picture_of_ones_own(self, shown, tmp_path):
        file = tmp_path / "mine.png"
        Image.new("RGB", (40, 30), (250, 10, 10)).save(file)
        assert explorer(picture=file).pictures("A").strip != shown.pictures("A").strip
        (tmp_path / "no.png").write_text("no picture")
        with pytest.raises(GendiffError, match="cannot read the picture"):
            explorer(picture=tmp_path / "no.png")

    def test_what_is_refused_leaves_all_as_it_was(self, shown):
        page = shown.again()
        with pytest.raises(GendiffError, match="f_max"):
            page.set("A", "velocity.schedule.f_max", -1.0)
        assert page.commands() == shown.commands()

    def test_only_what_is_changed_is_drawn_again(self, shown, tmp_path):
        """The pictures of a side that has changed; where i has moved, those at i."""
        page = Page(shown.again(), None, tmp_path, Threads())
        assert page._pictures(page.explorer, ["B"], {"B"}).keys() == {"moment B", "strip B", "error B"}
        assert page._pictures(page.explorer, ["A", "B"], {}).keys() == {"moment A", "moment B"}
        assert page._numbers(page.explorer, ["B"], {"B"}).keys() == {
            "curves B",
            "train B",
            "toml B",
            "losses",
            "compare",
        }

    def test_a_process_that_is_none_says_so_on_its_side(self, shown, tmp_path):
        page = Page(shown.again(), None, tmp_path, Threads())
        page.explorer.picture = tmp_path / "no.png"
        areas = page._pictures(page.explorer, ["A"], {"A"})
        assert areas.keys() == {"error A"}
        assert "cannot read the picture" in areas["error A"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread has no priority of its own")
def test_who_predicts_stands_back_for_who_draws():
    threads = Threads()
    nice = [one.submit(os.getpriority, os.PRIO_PROCESS, 0).result() for one in (threads.drawing, threads.predicting)]
    threads.end()
    assert nice == [os.getpriority(os.PRIO_PROCESS, 0), 19]


class TestWhatIsCopied:
    @pytest.mark.parametrize(
        "changes",
        [
            [],
            [("velocity.schedule.f_max", 0.3), ("N", 400)],
            [("velocity", "soft-conditioning")],
            [("rotation", "haar"), ("velocity.noise", "cosine")],
        ],
        ids=["as it begins", "sliders", "another velocity", "another basis"],
    )
    def test_the_command_and_the_file_train_what_is_shown(self, shown, changes, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        page = shown.again()
        for path, value in changes:
            page.set("A", path, value)
        config = page.subject("A").config
        words = shlex.split(page.commands()["train A"])
        assert words[:2] == ["gendiff", "train"]
        tiny = ["--model", "mlp:width=8,depth=1", "--batch", 2, "--steps", 1, "--out", "run"]
        done = run(*words[1:], *tiny)
        assert done.code == 0, done.err
        made = Run.open("run").config
        (tmp_path / "page.toml").write_text(page.toml("A"), encoding="utf-8")
        written = resolve([Layer.from_file(tmp_path / "page.toml")]).config
        for other in (made, written):
            assert (other.N, other.rotation.table(), other.velocity.table()) == (
                config.N,
                config.rotation.table(),
                config.velocity.table(),
            )
        assert written.data.table() == config.data.table()

    @pytest.mark.slow
    def test_the_comparison_is_of_both(self, shown, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        page = shown.again()
        page.name("B", "k-flow")
        words = shlex.split(page.commands()["compare"])
        done = run(*words[1:], "--dry-run", "--json", "--steps", 1)
        assert done.code == 0, done.err
        assert not list(tmp_path.iterdir())


class TestReverse:
    def test_a_run_is_watched_on_its_way_back(self, trained):
        """From N to 0, under one class and guidance; the same again is not drawn again."""
        reverse = Reverse(TrainedModel.load(Run.open(trained.path), torch.device("cpu")))
        assert reverse.condition == "label"
        assert reverse.classes[:2] == ["all", "0"]
        way = reverse.way(Wish("3"))
        assert (way[0].i, way[-1].i) == (20, 0)
        assert nearest(way, 0).html != nearest(way, 20).html
        assert reverse.way(Wish("3")) is way
        other = reverse.way(Wish("3", weight=4.0))
        assert not torch.equal(other[-1].events, way[-1].events)
        assert torch.equal(other[0].events, way[0].events)
        words = shlex.split(reverse.command(Wish("3", weight=4.0, seed=2)))
        assert {"--condition", "label=3", "--seed", "2"} <= set(words)

    def test_a_side_is_the_run(self, trained):
        page = explorer(run=trained.path)
        assert page.controls("A") == []
        assert str(trained.path) in page.commands()["train A"]
        own = BandSNR(page.subject("A").in_frequencies, 6).data_below(0.0)
        assert page.numbers("A").lost == own


class TestCommand:
    def test_nobody_else_can_connect(self):
        with listening(0) as listener:
            assert listener.getsockname()[0] == "127.0.0.1"

    def test_a_port_that_is_taken(self):
        with listening(0) as listener:
            port = listener.getsockname()[1]
            with pytest.raises(ConfigError, match=f"cannot serve at port {port}"), listening(port):
                pass

    @pytest.mark.parametrize(
        ("words", "what"),
        [
            (
                ["--arm", "identity", "--arm", "dct", "--arm", "haar"],
                "more processes are named than the page has sides",
            ),
            (["--no-ema"], "no run is named, and only a run has a network"),
            (["nowhere"], "nowhere"),
        ],
    )
    def test_bad_words(self, words, what):
        done = run("process", "explore", *words)
        assert done.code in (2, 4)
        assert what in done.err

    def test_without_the_library_it_is_said_how_to_have_it(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "nicegui", None)
        done = run("process", "explore")
        assert done.code == 3
        assert "pip install 'gendiff[explore]'" in done.err
        assert "gendiff process show" in done.err


@pytest.fixture(scope="module")
def address(trained, tmp_path_factory):
    """The page of a run, served by the command, which says no more than that; Ctrl-C ends it."""
    said = tmp_path_factory.mktemp("served") / "stderr"
    words = [sys.executable, "-m", "gendiff_cli", "process", "explore", str(trained.path), "--arm", "dct schedule=log"]
    with said.open("w") as stderr:
        served = subprocess.Popen([*words, "--port", "0"], stdout=subprocess.PIPE, stderr=stderr, text=True)
    ready, _, _ = select.select([served.stdout], [], [], 120)
    assert ready, "it said no address within two minutes"
    yield served.stdout.readline().strip()
    served.send_signal(signal.SIGINT)
    assert served.wait(timeout=30) == 130
    served.stdout.close()
    assert "deprecated" not in said.read_text()


#: Where the keys of a slider go.
FOCUS = """name => {
  const slider = [...document.querySelectorAll('[role=slider]')].find(one => one.getAttribute('aria-label') === name);
  (slider.querySelector('[tabindex]') || slider).focus();
}"""


@pytest.mark.slow
class TestInABrowser:
    def test_a_slider_changes_the_picture_and_the_command_that_is_copied_runs(
        self, address, tmp_path_factory, tmp_path, monkeypatch
    ):
        """Nothing is asked of another machine, in the dark and at the width of a telephone too."""
        monkeypatch.chdir(tmp_path)
        with chromium(tmp_path_factory.mktemp("profile")) as context:
            context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
            tab = context.new_page()
            asked, complaints, frames = list[str](), list[str](), list[str]()
            tab.on("websocket", lambda one: one.on("framereceived", lambda frame: frames.append(str(frame))))
            tab.on("request", lambda one: asked.append(one.url))
            tab.on("pageerror", lambda error: complaints.append(str(error)))
            tab.goto(address)
            tab.wait_for_selector("[data-area='strip B'] img")
            source = "document.querySelector(\"[data-area='strip B'] img:nth-of-type(1)\").parentElement.parentElement.innerHTML"
            before = tab.evaluate(source)
            tab.evaluate(FOCUS, "B velocity.schedule.f_max")
            frames.clear()
            tab.keyboard.press("ArrowRight")
            tab.wait_for_function(f"before => {source} !== before", arg=before)
            (pictures,) = [frame for frame in frames if "signal of x_" in frame]  # each costs a pass over the page
            assert {"moment B", "strip B"} <= set(re.findall(r"(?:moment|strip) [AB]", pictures))
            tab.locator("[data-copy='train B']").click()
            tab.wait_for_function("async () => (await navigator.clipboard.readText()).startsWith('gendiff train')")
            copied = tab.evaluate("navigator.clipboard.readText()")
            tab.wait_for_selector("[data-area='reverse'] img")
            tab.set_viewport_size({"width": 390, "height": 800})
            tab.emulate_media(color_scheme="dark")
            assert tab.evaluate("document.documentElement.scrollWidth") <= 390
            ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
            assert max(map(int, re.findall(r"\d+", ground)[:3])) < 80
        assert complaints == []
        assert {url.split("/")[2] for url in asked if url.startswith("http")} == {address.split("/")[2]}
        words = shlex.split(copied)
        done = run(*words[1:], "--model", "mlp:width=8,depth=1", "--batch", 2, "--steps", 1, "--out", "run")
        assert done.code == 0, done.err

    def test_another_name_of_this_machine_is_refused(self, address):
        """A page of somebody else that points its name here reads nothing."""
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
            assert b" 400 " in connection.recv(64)
