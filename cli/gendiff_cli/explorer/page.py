"""Page: the widgets of the explorer, in NiceGUI. What they show is computed in threads, so that a slider is heard meanwhile.

Of several changes that come while something is computed the last one counts: what a slider has passed is not drawn. A thread is
given the explorer as it was when it was asked, since a slider does not wait for it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping
from concurrent.futures import Executor
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, TypeVar

from gendiff.errors import GendiffError
from gendiff.extra import extra
from gendiff_cli.explorer.choice import STEPS
from gendiff_cli.explorer.controls import Control, Kind
from gendiff_cli.explorer.drawing import line
from gendiff_cli.explorer.explorer import SIDES, Explorer, refusal
from gendiff_cli.explorer.reverse import STRONGEST, Reverse, Wish, nearest
from gendiff_cli.explorer.threads import Threads
from gendiff_cli.process.plot import At

SHOW = """const show = areas => { for (const [name, content] of Object.entries(areas))
  document.querySelector(`[data-area="${name}"], [data-text="${name}"]`).innerHTML = content; };"""
STYLE = Path(__file__).with_name("page.css")
PAUSE = 0.3  # seconds without a change after which errors are predicted
TITLE = "gendiff process explore"
LARGEST = 64 * 2**20  # bytes of a picture that is taken
OTHER_DATA = ("dead-leaves", "emoji", "digits")  # that need nothing
MEASURING = "measuring the data in this basis"

Outcome = TypeVar("Outcome")


class _Superseded(Exception):
    """What is drawn is no longer asked for."""


class Page:
    """One page: the explorer that it shows, and its widgets."""

    def __init__(self, explorer: Explorer, reverse: Reverse | None, folder: Path, threads: Threads) -> None:
        self.ui: Any = extra("nicegui", TITLE, name="explore").ui
        self.explorer, self.reverse, self.folder, self.threads = explorer, reverse, folder, threads
        self.wish = Wish()
        self.changes = 0
        self.stale = {*SIDES}  # what its pictures do not show yet
        self.due = {*SIDES}  # and what its numbers do not
        self.wake, self.wake_slow = asyncio.Event(), asyncio.Event()
        self.client: Any = None
        self.shown: dict[str, str] = {}  # by area
        self.boxes: dict[str, Any] = {}

    # --- building ------------------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Make the widgets."""
        ui = self.ui
        self.client = ui.context.client
        ui.add_css(STYLE.read_text(encoding="utf-8"))
        ui.add_head_html(f"<script>{SHOW}</script>")
        ui.dark_mode(None)
        with ui.element("main"):
            with ui.element("header"):
                ui.html(f"<h1>{TITLE}</h1>", sanitize=False)
                self._area("busy", "busy")
            with ui.element("section").classes("card picture"):
                self._picture()
            with ui.element("section").classes("card time"):
                self._time()
            with ui.element("div").classes("sides"):
                for side in SIDES:
                    with ui.element("section").classes(f"card side {side.lower()}"):
                        self._side(side)
            if self.reverse is not None:
                with ui.element("section").classes("card"):
                    self._reverse()
            with ui.element("div").classes("sides"):
                with ui.element("section").classes("card"):
                    ui.html(
                        "<h2>Where each band of the data is lost</h2><p>The first step at which a²C/s² is below 1, over i/N.</p>",
                        sanitize=False,
                    )
                    self._area("losses")
                with ui.element("section").classes("card"):
                    self._forecast()
            with ui.element("section").classes("card"):
                ui.html("<h2>Hold both against each other</h2>", sanitize=False)
                self._text("compare", "copy-compare")

    def _area(self, name: str, classes: str = "") -> None:
        self.ui.html("", sanitize=False).classes(classes).props(f'data-area="{name}"')

    def _picture(self) -> None:
        ui, explorer = self.ui, self.explorer
        config = explorer.subject(SIDES[0]).config
        own = config.data.spec
        specs = {own: own, **{one: one for one in OTHER_DATA if one != config.data.name}}
        ui.select(specs, value=own, label="data", on_change=lambda e: self._take_data(e.value)).props(
            "dense outlined"
        ).classes("wide")
        with ui.element("label").classes("control"):
            ui.label("event")
            self.index = ui.slider(
                min=0, max=explorer.events - 1, value=explorer.index, on_change=lambda e: self._take_event(int(e.value))
            )
            self.index.props('aria-label="which event" label')
        ui.upload(
            label="or your own picture", auto_upload=True, max_file_size=LARGEST, on_upload=self._take_file
        ).props('accept="image/*" flat bordered').classes("upload")

    def _time(self) -> None:
        ui = self.ui
        with ui.element("label").classes("control"):
            ui.label("i/N")
            self.slider = ui.slider(
                min=0, max=1, step=0.005, value=self.explorer.t, on_change=lambda e: self._set("t", e.value)
            )
            self.slider.props('aria-label="i/N" label label-always').classes("t")
        ui.toggle(
            {At.STEP: "equal steps", At.SNR: "equal SNR"},
            value=self.explorer.at,
            on_change=lambda e: self._strips(e.value),
        ).props("dense no-caps")

    def _side(self, side: str) -> None:
        ui, explorer = self.ui, self.explorer
        ui.html(f"<h2>{side}</h2>", sanitize=False)
        with ui.element("div").classes("controls"):
            select = ui.select(
                _described(explorer.names(side)),
                value=explorer.sides[side].name,
                label="process",
                on_change=lambda e: self._name(side, e.value),
            )
            select.props(f'dense outlined options-dense data-control="{side} process"').classes("wide")
            self._number(
                side, Control("N", Kind.WHOLE, explorer.sides[side].N, "steps of the diffusion", None, 10, STEPS, 10)
            )
            self.boxes[side] = ui.element("div").classes("controls wide")
        self._fill(side)
        self._area(f"error {side}", "error")
        for part in ("moment", "strip", "curves", "facts"):
            self._area(f"{part} {side}")
        self._text(f"train {side}", f"copy-{side}")
        with ui.expansion("the same as TOML").props("dense").classes("toml"):
            self._text(f"toml {side}", f"copy-toml-{side}")

    def _fill(self, side: str) -> None:
        """The controls of what a side is now."""
        box = self.boxes[side]
        box.clear()
        with box:
            for control in self.explorer.controls(side):
                match control.kind:
                    case Kind.NUMBER | Kind.WHOLE:
                        self._number(side, control)
                    case _:
                        self._other(side, control)

    def _number(self, side: str, control: Control) -> None:
        ui = self.ui
        with (
            ui.element("label")
            .classes("control")
            .props(f'title="{control.description}"' if '"' not in control.description else "")
        ):
            ui.label(control.label)
            slider = ui.slider(min=control.low, max=control.high, step=control.step, value=control.value)
            slider.props(f'aria-label="{side} {control.path}" data-control="{side} {control.path}"')
            field = ui.number(value=control.value, step=control.step, format="%g").props(
                f'dense borderless aria-label="{side} {control.path}, exactly"'
            )

        def take(other: Any, event: Any) -> None:
            if event.value is None:
                return
            value = int(event.value) if control.kind is Kind.WHOLE else float(event.value)
            if other.value != value and not (other is slider and not control.low <= value <= control.high):
                other.value = value
            else:
                self._value(side, control.path, value)

        slider.on_value_change(partial(take, field))
        field.on_value_change(partial(take, slider))

    def _other(self, side: str, control: Control) -> None:
        ui = self.ui

        def change(event: Any) -> None:
            self._value(side, control.path, event.value, again=control.kind is Kind.CHOICE)

        mark = f'data-control="{side} {control.path}"'
        match control.kind:
            case Kind.SWITCH:
                ui.switch(control.label, value=control.value, on_change=change).props(mark)
            case Kind.TEXT:
                ui.input(control.label, value=control.value, on_change=change).props(f"dense outlined {mark}")
            case _:
                options = _described(control.choices or {})
                ui.select(options, value=control.value, label=control.label, on_change=change).props(
                    f"dense outlined options-dense {mark}"
                )

    def _text(self, name: str, mark: str) -> None:
        """A text to select, and a button that copies it."""
        ui = self.ui
        with ui.element("div").classes("copy"):
            ui.html("", sanitize=False, tag="pre").props(f'data-text="{name}"')
            script = (
                f"() => navigator.clipboard.writeText(document.querySelector('[data-text=\"{name}\"]').textContent)"
            )
            button = ui.button("copy", icon="content_copy").props(
                f'dense flat no-caps data-copy="{name}" aria-label="copy: {name}"'
            )
            button.on("click", js_handler=script)
            button.on("click", lambda: ui.notify("copied", timeout=800))

    def _forecast(self) -> None:
        ui = self.ui
        ui.html(
            "<h2>Predicted error against steps</h2><p>What samples are off by, as of <code>process predict</code>: squared "
            "Wasserstein distance with a perfect network, or one that is off by 0.1. It takes a second or some.</p>",
            sanitize=False,
        )
        names = list(self.explorer.registry.names("sampler"))
        chosen = list(self.explorer._samplers(self.explorer.subject(SIDES[0])))
        ui.select(
            [*dict.fromkeys([*chosen, *names])],
            value=chosen,
            multiple=True,
            label="samplers",
            on_change=lambda e: self._samplers(e.value),
        ).props("dense outlined use-chips options-dense").classes("wide")
        ui.switch("a network that is off by 0.1", value=False, on_change=lambda e: self._network(e.value))
        self._area("errors")

    def _reverse(self) -> None:
        ui, reverse = self.ui, self.reverse
        assert reverse is not None
        ui.html("<h2>The trained network on its way back</h2>", sanitize=False)
        with ui.element("div").classes("controls"):
            if reverse.classes:
                ui.select(
                    reverse.classes,
                    value=self.wish.label,
                    label=reverse.condition,
                    on_change=lambda e: self._ask(label=e.value),
                ).props('dense outlined data-control="class"')
            if reverse.guidable:
                with ui.element("label").classes("control"):
                    ui.label("guidance")
                    ui.slider(
                        min=0,
                        max=STRONGEST,
                        step=0.25,
                        value=self.wish.weight,
                        on_change=lambda e: self._ask(weight=float(e.value)),
                    ).props('aria-label="guidance" label')
            ui.number(
                "seed", value=0, min=0, step=1, format="%d", on_change=lambda e: self._ask(seed=int(e.value or 0))
            ).props("dense outlined")
        self._area("error reverse", "error")
        self._area("reverse")
        self._text("sample", "copy-sample")

    # --- what a person does --------------------------------------------------------------------------------------------

    def _changed(self, *sides: str) -> None:
        self.changes += 1
        self.stale |= set(sides)
        self.wake.set()
        self.wake_slow.set()

    def _tried(self, side: str, change: Callable[[], None]) -> bool:
        """Whether a change was taken; what is refused is said on its side."""
        try:
            change()
        except GendiffError as error:
            self._put({f"error {side}": escape(refusal(error))})
            return False
        self._changed(side)
        return True

    def _value(self, side: str, path: str, value: Any, again: bool = False) -> None:
        if self._tried(side, lambda: self.explorer.set(side, path, value)) and again:
            self._fill(side)

    def _name(self, side: str, name: str) -> None:
        if self._tried(side, lambda: self.explorer.name(side, name)):
            self._fill(side)

    def _set(self, name: str, value: Any) -> None:
        setattr(self.explorer, name, value)
        self._changed()

    def _strips(self, at: At) -> None:
        self.explorer.at = at
        self._changed(*SIDES)

    def _samplers(self, names: list[str]) -> None:
        self._set("samplers", tuple(names))

    def _network(self, network: bool) -> None:
        self.explorer.network = network
        self._put({"errors": self.explorer.errors()})

    def _ask(self, **wish: Any) -> None:
        self.wish = Wish(**{**vars(self.wish), **wish})
        self._changed()

    def _take_event(self, index: int) -> None:
        self.explorer.index, self.explorer.picture = index, None
        self._changed(*SIDES)

    async def _take_data(self, spec: str) -> None:
        self._put({"busy": "measuring the data"})
        try:
            await self._drawn(self.explorer.take_data, spec)
        except GendiffError as error:
            self._put({"error A": escape(refusal(error))})
        self.index.props(f"max={self.explorer.events - 1}")
        self.index.value = 0
        self._changed(*SIDES)

    async def _take_file(self, event: Any) -> None:
        self.changes += 1
        place = self.folder / f"picture-{id(self)}-{self.changes}{Path(event.file.name).suffix[:8]}"
        place.write_bytes(await event.file.read())
        before, self.explorer.picture = self.explorer.picture, place
        try:
            await self._drawn(self.explorer.again().pictures, SIDES[0])
        except GendiffError as error:
            self.explorer.picture = before
            self.ui.notify(f"{event.file.name}: {refusal(error)}", type="negative")
            return
        self._changed(*SIDES)

    # --- what the page does --------------------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Show what is changed, as soon as it is: first the pictures, which are looked at, then the numbers.

        Either is sent at once. Numbers for which the data have to be measured first are left to `follow_slowly`.
        """
        t: float | None = None
        while True:
            await self.wake.wait()
            self.wake.clear()
            now, stale, self.stale = self.explorer.again(), self.stale, set()
            moved, t = now.t != t, now.t
            sides = [side for side in SIDES if moved or side in stale]
            self.due |= {*sides}
            if not all(map(now.is_measured, stale)):
                self._put({"busy": MEASURING})
            self._put(await self._drawn(self._pictures, now, sides, stale))
            known = [side for side in sides if now.is_measured(side)]
            self._put(await self._drawn(self._numbers, now, known, stale))
            self.due -= {*known}
            if not self.due:
                self._put({"busy": ""})

    async def _drawn(self, function: Callable[..., Outcome], *arguments: Any) -> Outcome:
        """What a function gives, in the thread that draws."""
        return await self._by(self.threads.drawing, function, *arguments)

    def _by(self, thread: Executor, function: Callable[..., Outcome], *arguments: Any) -> Awaitable[Outcome]:
        return asyncio.get_running_loop().run_in_executor(thread, function, *arguments)

    def _put(self, areas: Mapping[str, str]) -> None:
        """Show what is new in areas: in one message, which changes these alone.

        Set as the content of its widgets the library would have the browser go over the whole page.
        """
        new = {name: content for name, content in areas.items() if self.shown.get(name) != content}
        self.shown |= new
        if new:
            self.client.run_javascript(f"show({json.dumps(new)})")

    def _pictures(self, now: Explorer, sides: Iterable[str], stale: Container[str]) -> dict[str, str]:
        """What areas of pictures show: of each side at i, and of stale ones on their way too."""
        areas = self._reversed()
        for side in sides:
            try:
                pictures = now.pictures(side)
                areas[f"moment {side}"] = pictures.moment(now.t)
                if side in stale:
                    areas[f"strip {side}"] = pictures.strip
                    areas[f"error {side}"] = ""
            except GendiffError as error:
                areas[f"error {side}"] = escape(refusal(error))
        return areas

    def _numbers(self, now: Explorer, sides: Iterable[str], stale: Container[str]) -> dict[str, str]:
        """What areas of numbers and texts show."""
        areas, commands = dict[str, str](), now.commands()
        for side in sides:
            try:
                areas[f"curves {side}"] = now.numbers(side).curves(now.t)
                if side in stale:
                    areas[f"train {side}"] = line(commands[f"train {side}"])
                    areas[f"toml {side}"] = escape(now.toml(side))
            except GendiffError as error:
                areas[f"error {side}"] = escape(refusal(error))
        return areas | {"losses": now.losses(), "compare": line(commands["compare"])}

    async def follow_slowly(self) -> None:
        """Measure, draw and predict what takes longer, where nothing changes for a moment."""
        while True:
            await self.wake_slow.wait()
            self.wake_slow.clear()
            await asyncio.sleep(PAUSE)
            if not self.wake_slow.is_set():
                await self._predict(self.explorer.again(), self.changes)

    async def _predict(self, now: Explorer, at: int) -> None:
        """All that takes longer, as long as there are so many changes."""
        work = partial(self._by, self.threads.predicting)
        if due := {*self.due}:
            areas = await work(self._numbers, now, due, due)
            if self.changes != at:
                return
            self._put(areas)
            self.due -= due
            self._put({"busy": ""})
        await self._draw()
        for side in SIDES:
            try:
                facts = await work(self._facts, now, side)
            except GendiffError:
                facts = ""
            self._put({f"facts {side}": facts})
        rows = now.forecast(partial(self._is_still, at))
        while self.changes == at and await work(next, rows, rows) is None:
            self._put({"errors": await work(now.errors)})
        if self.changes == at:
            self._put({"errors": await work(now.errors)})

    @staticmethod
    def _facts(now: Explorer, side: str) -> str:
        return now.numbers(side).facts

    def _is_still(self, changes: int) -> bool:
        """Whether nothing was changed since there were so many changes."""
        return self.changes == changes

    async def _draw(self) -> None:
        """The chains of the network, where another class, guidance or seed is asked for."""
        if self.reverse is None:
            return
        wish = self.wish

        def heed() -> None:
            if self.wish != wish:
                raise _Superseded

        self._put({"error reverse": "" if wish in self.reverse.kept else "drawing"})
        try:
            await self._by(self.threads.predicting, self.reverse.way, wish, heed)
        except _Superseded:
            return
        except GendiffError as error:
            self._put({"error reverse": escape(refusal(error))})
            return
        self._put({"error reverse": ""})
        self._put(self._reversed())

    def _reversed(self) -> dict[str, str]:
        """What the areas of the network show of the chains at i, where they are drawn."""
        way = self.reverse.kept.get(self.wish) if self.reverse else None
        if self.reverse is None or way is None:
            return {}
        html = nearest(way, self.explorer.t * way[0].i).html
        return {"reverse": html, "sample": line(self.reverse.command(self.wish))}


def _described(choices: Mapping[str, str]) -> dict[str, str]:
    """What a list of choices shows."""
    return {name: f"{name}: {text}" if text else name for name, text in choices.items()}
