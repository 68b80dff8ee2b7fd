"""The report: compare.json, one page that needs nothing but itself, seen in a real browser, and figures for a paper."""

from __future__ import annotations

import base64
import copy
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import chromium
from command import run
from PIL import Image

from gendiff.comparison import report
from gendiff.comparison.directory import Comparison
from gendiff.comparison.engine import Engine
from gendiff.comparison.listener import Silent
from gendiff.comparison.report import charts, figures, page, sheets
from gendiff.evaluation.number import bounds
from gendiff.plugin.registry import default_registry

HOSTILE = "<b>bold</b> & \"co\" $x_1$ 'log'"
OPTIONS = (
    *("--arm", "identity"),
    *("--arm", f'dct schedule=log:f_max=0.6 label="{HOSTILE}"'.replace('"co"', r"\"co\"")),
    *("--data", "dead-leaves", "--size", "8x12"),
    *("--seeds", 2, "--steps", 5, "--batch", 8, "--model", "mlp:width=8,depth=1", "--set", "N=40"),
    *("--set", "train.sample_every=0", "--sampler", "ancestral:steps=8,grid=uniform"),
    *("--nfe", "4,8", "--n", 24, "--features", "pixels"),
)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A finished comparison: its directory, and what the command said."""
    folder = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = run("compare", *OPTIONS, "--gate", "fd-pixels<=baseline*100", "--device", "cpu")
    assert done.code == 0, done.err
    return folder / "comparisons" / "00001-dead-leaves", done


@pytest.fixture(scope="module")
def found(compared):
    return json.loads((compared[0] / "compare.json").read_text())


@pytest.fixture(scope="module")
def text(compared):
    return (compared[0] / "report.html").read_text(encoding="utf-8")


class TestCommand:
    def test_it_ranks_on_stdout_and_says_where_the_page_is(self, compared, found):
        folder, done = compared
        assert done.out.splitlines()[0] == found["verdict"]["headline"]
        ranked = [line for line in done.out.splitlines() if re.match(r"[12] +\S", line)]
        assert [line.split()[0] for line in ranked] == ["1", "2"]
        assert "comparisons/00001-dead-leaves/report.html" in done.out
        assert re.search(r"next: python -m webbrowser file://\S+comparisons/00001-dead-leaves/report.html\n", done.err)
        assert (folder / "runs" / "1-identity-s0" / "run.json").is_file()

    def test_it_says_in_its_first_lines_in_what_the_arms_differ_and_how_to_read_the_numbers(
        self, compared, found, text
    ):
        sentence = "as asked, the arms differ in process: rotation identity | dct; velocity.schedule - | log; in nothing besides."
        assert compared[1].err.splitlines()[0] == f"note: {sentence}"
        assert compared[1].out.splitlines()[1] == f"A{sentence[1:]}"
        assert found["differ"] == [sentence]
        assert found["differences"]["velocity.schedule.name"] == [None, "log"]
        assert found["groups"]["velocity.schedule.name"] == "process"
        assert "velocity.schedule.name" in found["asked"]
        assert f"A{sentence[1:]}" in text
        (real,) = (one for one in found["remarks"] if one["rule"] == "real-against-real")
        assert real["runs"] == 4
        assert f"real-against-real: {real['text']}" in compared[1].out
        assert real["text"] in text

    def test_what_is_not_shown_is_said_to_be_seen(self, found, text):
        undecided = [label for label, outcome in found["verdict"]["outcomes"].items() if outcome == "undecided"]
        assert found["verdict"]["seeds"].keys() == set(undecided)
        assert ("What is seen: " in text) == bool(undecided)

    def test_it_says_which_run_it_trains_and_of_how_many(self, compared):
        told = [line for line in compared[1].err.splitlines() if line.startswith("training ")]
        arms = ("identity", HOSTILE)
        assert sorted(told) == sorted(  # those that begin together say so in any order
            f"training {arm}, seed {seed} (run {2 * seed + place + 1} of 4)"
            for seed in (0, 1)
            for place, arm in enumerate(arms)
        )

    def test_a_gate_that_is_passed_is_said(self, compared):
        assert "gate passed: fd-pixels<=baseline*100" in compared[1].out

    def test_options_that_runs_do_not_heed_are_refused(self, compared):
        runs = sorted((compared[0] / "runs").iterdir())[:2]
        arms = ("--arm", runs[0], "--arm", f"{runs[1]} label=x", "--features", "pixels", "--n", 16)
        done = run("compare", *arms, "--steps", 99, "--lr", 1, "--seeds", 5, "--set", "N=7", "--dry-run")
        assert done.code == 2
        assert "--steps, --lr, --set, --seeds would have no effect" in done.err
        free = ("--allow", "seeds", "--sampler", "ddim:steps=4", "--dry-run")
        assert run("compare", *arms, *free).code == 0

    def test_json_is_the_same_and_all_there_is(self, compared, found, monkeypatch):
        monkeypatch.chdir(compared[0].parent.parent)
        monkeypatch.setattr(report.figures, "write", lambda *_: [])  # they are there
        again = run(
            "compare", "--resume", "comparisons/00001-dead-leaves", "--json", "--gate", "fd-pixels<=baseline*100"
        )
        assert again.code == 0, again.err
        assert again.json == found
        assert json.loads((compared[0] / "compare.json").read_text()) == found

    def test_a_gate_that_is_not_passed_is_exit_5(self, compared, monkeypatch):
        monkeypatch.chdir(compared[0].parent.parent)
        monkeypatch.setattr(report, "write", lambda *_: [Path("compare.json"), Path("report.html")])
        failed = run("compare", "--resume", "comparisons/00001-dead-leaves", "--gate", "fd-pixels<0.001")
        assert failed.code == 5
        assert "1 of 1 gates are not passed" in failed.err

    @pytest.mark.parametrize(
        ("line", "code", "said"),
        [
            ((), 2, "two arms at least"),
            (("--arm", "identity"), 2, "two arms at least"),
            (("--arm", "identity", "--arm", "identity"), 2, "two arms are called 'identity'"),
            (
                ("--arm", "identity", "--arm", "dct", "--seeds", "many"),
                2,
                "cannot read the numbers 'many' (from --seeds)",
            ),
            (("--arm", "identity", "--arm", "dct", "--seeds", ","), 2, "write --seeds 0,4,7"),
            (("--arm", "identity", "--arm", "dct", "--seeds", "0,-1"), 2, "from 0 on"),
            (("--arm", "identity", "--arm", "dct", "--seeds", "0"), 2, "from 1 on"),
            (("--arm", "identity", "--arm", "dct", "--nfe", ","), 2, "write --nfe 10,20,50"),
            (("--arm", "identity", "--arm", "dct", "--nfe", "9999"), 2, "9999"),
            (("--arm", "identity", "--arm", "dct steps=7"), 2, "--allow images"),
            (("--arm", "identity", "--arm", "dct", "--allow", "all-of-it"), 2, "no condition 'all-of-it'"),
            (("--arm", "identity", "--arm", "dct", "--gate", "fid<=1"), 2, "names 'fid'"),
            (("--arm", "identity", "--arm", "dct", "--features", "pixel"), 2, "did you mean 'pixels'"),
            (
                (
                    "--arm",
                    "identity",
                    "--arm",
                    "dct",
                    "--features",
                    "inception",
                    "--size",
                    "32",
                    "--data",
                    "dead-leaves",
                    "--fid-weights",
                    "none.pth",
                    "--dry-run",
                ),
                4,
                "none.pth",
            ),
            (("--arm", "identity", "--arm", "dct", "--gate", "fid<=1", "--dry-run"), 2, "names 'fid'"),
            (("--resume", "nowhere"), 2, "not a comparison directory"),
            (("--resume", "nowhere", "--steps", "3", "--arm", "dct"), 2, "--steps, --arm would change it"),
        ],
    )
    def test_mistakes_are_explained_before_anything_is_written(self, line, code, said, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        done = run("compare", *line)
        assert done.code == code
        assert said in done.err
        assert "Traceback" not in done.err
        assert not list(tmp_path.iterdir())

    def test_a_dry_run_refuses_a_directory_that_the_comparison_could_not_use(self, compared, tmp_path):
        (tmp_path / "thesis.tex").write_text("")
        foreign = run("compare", *OPTIONS, "--dry-run", "--out", tmp_path)
        assert (foreign.code, "is not empty" in foreign.err) == (2, True)
        other = run("compare", *OPTIONS, "--n", 25, "--dry-run", "--out", compared[0])
        assert (other.code, "holds another comparison" in other.err) == (2, True)
        assert run("compare", *OPTIONS, "--dry-run", "--out", compared[0]).code == 0

    def test_one_process_only(self, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "2")
        done = run("compare", "--arm", "identity", "--arm", "dct")
        assert done.code == 2
        assert "runs in one process" in done.err

    def test_what_would_be_done(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        done = run("compare", *OPTIONS, "--dry-run", "--json")
        assert done.code == 0
        assert done.json["arms"][0] == {
            "label": "identity",
            "train": [0, 1],
            "reuse": [],
            "samplers": ["ancestral:steps=4,grid=uniform", "ancestral:steps=8,grid=uniform"],
            "prior": "standard",
            "findings": done.json["arms"][0]["findings"],
        }
        assert [one["rule"] for one in done.json["arms"][0]["findings"]] == ["never-ends"]  # N = 40 is short
        assert done.json["differences"]["rotation.name"] == ["identity", "dct"]
        assert done.json["groups"]["rotation.name"] == "process"
        assert done.json["asked"] == list(done.json["differences"])
        assert done.json["differ"][0].startswith("as asked, the arms differ in process: rotation identity | dct")
        told = run("compare", *OPTIONS, "--dry-run").out
        assert "nothing was written" in told
        assert "warning: identity: the process does not end" in told
        assert not list(tmp_path.iterdir())


class TestData:
    def test_every_field_is_documented(self, found):
        told = Path("docs/compare.md").read_text(encoding="utf-8")
        keys = {*found, *found["arms"][0], *found["arms"][0]["runs"][0], *found["arms"][0]["curve"][0]}
        keys |= {*found["arms"][0]["numbers"]["fd-pixels"], *found["arms"][0]["numbers"]["fd-pixels"]["value"]}
        keys |= {*found["gates"][0], *found["reproduce"], *found["verdict"]}
        assert [key for key in sorted(keys) if f"`{key}`" not in told] == []

    def test_it_says_what_was_found_and_under_which_conditions(self, found):
        assert [arm["label"] for arm in found["arms"]] == ["identity", HOSTILE]
        assert sorted(arm["rank"] for arm in found["arms"]) == [1, 2]
        assert (found["n"], found["number"], found["seeds"]) == (24, "fd-pixels", [0, 1])
        assert found["reference"]["fingerprint"].startswith("dead-leaves/")
        for arm in found["arms"]:
            assert [run["seed"] for run in arm["runs"]] == [0, 1]
            assert [run["images"] for run in arm["runs"]] == [40, 40]
            assert [point["evaluations"] for point in arm["curve"]] == [4, 8]
            values = [run["numbers"]["fd-pixels"]["value"] for run in arm["runs"]]
            assert arm["numbers"]["fd-pixels"]["value"]["value"] == pytest.approx(np.mean(values))
            assert arm["curve"][-1]["value"] == arm["numbers"]["fd-pixels"]["value"]
            assert arm["curve"][-1]["numbers"] == arm["numbers"]
            assert arm["curve"][0]["numbers"].keys() == arm["numbers"].keys()
        first, second = ([run["numbers"]["fd-pixels"]["value"] for run in arm["runs"]] for arm in found["arms"])
        difference = found["arms"][1]["numbers"]["fd-pixels"]["difference"]
        assert difference["value"] == pytest.approx(np.mean(np.subtract(second, first)))
        assert found["gates"][0]["passed"] is True
        assert found["reproduce"]["command"][0] == "compare"


class TestStart:
    """Where the chains of an arm start, and whether its process ends there."""

    def test_a_wrong_start_is_said_in_the_ranking_before_training_and_on_the_page(self, compared, found, text):
        assert [[one["rule"] for one in arm["findings"]] for arm in found["arms"]] == [["never-ends"]] * 2
        assert "warning: identity: the process does not end: at N = 40" in compared[1].out
        assert "note: identity: the process does not end: at N = 40" in compared[1].err
        assert "Sampling starts in the wrong place" in text
        assert "identity: the process does not end: at N = 40" in text

    @pytest.mark.parametrize(
        ("priors", "said", "same"),
        [
            (("standard", "standard"), "Picture k of every arm began as the same noise in event space (seed 0).", True),
            (("matched", "matched"), "Chains of all arms began as noise with the mean and variance", False),
            (("standard", "data"), "began as an event of the training data brought to N without noise", False),
        ],
    )
    def test_the_page_says_of_what_pictures_are_made(self, found, priors, said, same):
        arms = [{**arm, "prior": prior} for arm, prior in zip(found["arms"], priors, strict=True)]
        starts = page._starts(arms)
        assert starts["same"] is same
        assert said in " ".join(starts["sentences"])
        assert ("began as the same noise" in " ".join(starts["sentences"])) is same

    def test_arms_without_a_common_seed_are_made_of_different_noise(self, found):
        first, second = found["arms"]
        starts = page._starts([first, {**second, "runs": [{**run_, "seed": 7} for run_ in second["runs"]]}])
        assert not starts["same"]
        assert "no seed in common" in starts["sentences"][0]


class TestFigures:
    def test_png_and_pdf_of_everything(self, compared):
        folder = compared[0] / "figures"
        names = {path.stem for path in folder.iterdir()}
        assert names == {"differences", "evaluations", "losses", "samples", "spectra", "trajectories"}
        for name in names:
            with Image.open(folder / f"{name}.png") as picture:
                assert picture.info["dpi"][0] == pytest.approx(300, abs=1)
                assert np.asarray(picture.convert("L")).std() > 5
            content = (folder / f"{name}.pdf").read_bytes()
            assert content.startswith(b"%PDF")
            assert b"CreationDate" not in content

    @pytest.mark.parametrize("values", [(3.4, 4.4), (0.2, 90.0), (5.01, 5.02)])
    def test_the_axis_of_qualities_has_numbers(self, found, values):
        result = copy.deepcopy(found)
        for arm in result["arms"]:
            for point, value in zip(arm["curve"], values, strict=True):
                point["value"].update(value=value, low=value * 0.99, high=value * 1.01)
        figure = figures._evaluations(result)
        figure.canvas.draw()
        axis = figure.axes[0]
        low, high = axis.get_ylim()
        shown = [label.get_text() for label in axis.get_yticklabels() if low <= label.get_position()[1] <= high]
        assert len(set(shown)) == len(shown) >= 2
        assert all(shown)

    def test_no_interval_leaves_what_a_number_can_be(self, found):
        for arm in found["arms"]:
            for name, of in arm["numbers"].items():
                low, high = bounds(name)
                assert of["value"]["low"] is None or low <= of["value"]["low"] <= of["value"]["high"] <= high

    def test_the_same_result_is_the_same_bytes(self, compared, found):
        folder = compared[0]
        before = {path: path.read_bytes() for path in [folder / "report.html", *(folder / "figures").iterdir()]}
        comparison = Comparison.open(folder)
        with comparison.working() as heed:
            looks = Engine(comparison, default_registry(), torch.device("cpu"), Silent(), heed).looks()
        report.write(comparison, found, looks)
        assert [path.name for path, content in before.items() if path.read_bytes() != content] == []


class TestPage:
    def test_it_needs_nothing_but_itself(self, text):
        assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:)""", text)
        assert not re.search(r"url\(|@import|<link|https?://", text)
        assert "default-src 'none'" in text
        assert len(text) < 1_000_000

    def test_what_a_user_writes_is_text(self, text):
        assert "<b>bold</b>" not in text
        assert "&lt;b&gt;bold&lt;/b&gt;" in text

    def test_it_says_what_the_result_says(self, text, found):
        for arm in found["arms"]:
            assert f"{arm['numbers']['fd-pixels']['value']['value']:.4g}" in text
            for run_ in arm["runs"]:
                assert run_["drawing"]["weights_hash"] in text
        assert "velocity.schedule.name" in text
        assert "gendiff compare --arm identity" in text

    def test_what_is_not_known_and_what_is_not_fair_is_said(self, compared, found):
        changed = json.loads(json.dumps(found))
        for arm in changed["arms"]:
            for of in arm["numbers"].values():
                for estimate in filter(None, of.values()):
                    estimate.update(low=None, high=None, method="none")
            arm["curve"] = arm["curve"][-1:]
        changed["unequal"] = [{"condition": "nfe", "label": "x", "arm": "8", "baseline": "9"}]
        changed["differences"] = {}
        comparison = Comparison.open(compared[0])
        with comparison.working() as heed:
            looks = Engine(comparison, default_registry(), torch.device("cpu"), Silent(), heed).looks()
        drawn = page.render(changed, looks, [torch.zeros(9, 3, 8, 12)] * 2, torch.zeros(9, 3, 8, 12))
        assert "no interval" in drawn
        assert "One seed:" in drawn
        assert "Not everything was equal" in drawn
        assert "every setting is the same" in drawn
        assert "Quality against network evaluations" not in drawn

    def test_large_pictures_do_not_make_a_large_page(self, found, compared):
        """Three arms of 64 x 64 colour pictures, all noise, which no PNG makes smaller."""
        generator = torch.Generator().manual_seed(1)
        noise = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
        M, rows, event = 25, 4, (3, 64, 64)
        steps, levels = torch.arange(M - 1, -1, -1), torch.arange(1, 21)
        looks = [
            page.Look(
                steps,
                steps,
                *(noise(M, rows, *event) for _ in range(3)),
                levels,
                torch.rand(20, 8).double(),
                torch.rand(20, 8).double(),
            )
            for _ in range(3)
        ]
        arms = [*found["arms"], {**found["arms"][1], "label": "third", "rank": 3}]
        large = page.render({**found, "arms": arms}, looks, [noise(64, *event)] * 3, noise(64, *event))
        assert 1_000_000 < len(large) < 5_000_000


class TestSheets:
    def test_pixels_are_pixels(self):
        events = torch.linspace(-1, 1, 6).reshape(6, 1, 1, 1).expand(6, 1, 3, 5)
        picture = sheets.sheet(events, 3)
        assert picture.size == (3 * 5 + 2, 2 * 3 + 1)
        assert picture.getpixel((0, 0)) == 0
        assert picture.getpixel((16, 6)) == 255
        assert picture.getpixel((5, 0)) == sheets.BACKGROUND
        shaded = np.unique(np.asarray(sheets.sheet(torch.rand(4, 3, 9, 9) * 2 - 1, 2, shades=4)))
        assert set(shaded) <= {0, 85, 128, 170, 255}

    def test_what_is_larger_than_a_page_needs_is_averaged(self):
        assert sheets.shown_size(torch.zeros(2, 3, 200, 100)).shape == (2, 3, 64, 32)
        assert sheets.shown_size(torch.zeros(2, 3, 50, 60)).shape == (2, 3, 50, 60)
        signal = torch.zeros(2, 1, 500)
        assert sheets.shown_size(signal) is signal
        assert sheets.sheet(signal, 2).mode == "RGB"

    def test_an_address_holds_the_picture(self):
        uri = sheets.data_uri(sheets.sheet(torch.zeros(1, 1, 4, 6), 1))
        with Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))) as picture:
            assert picture.size == (6, 4)

    def test_places_and_counts(self):
        assert sheets.chosen(3, 9) == [0, 4, 8]
        assert sheets.chosen(9, 3) == [0, 1, 2]
        assert sheets.squares([torch.zeros(64, 1, 8, 8)] * 3, 36, 10**6) == 36
        assert sheets.squares([torch.zeros(64, 3, 64, 64)] * 3, 36, 10**6) == 25
        assert sheets.squares([torch.zeros(64, 3, 64, 64)] * 3, 36, 0) == 4


class TestCharts:
    def test_curves_of_anything_finite(self):
        for y in ([1e-9, 1e9], [0.0, 0.0], [-3.0, 4.0], [5.0, 5.0]):
            drawn = str(charts.lines([charts.Line("a", [1, 100], y, place=0)], "x", "y", log_x=True))
            assert "nan" not in drawn
            assert "inf" not in drawn

    def test_a_map_shows_sign_and_strength(self):
        drawn = str(charts.heat_map([[1.0, -0.5], [None, 0.0]], [1, 2], 1.0, "x", "y", lambda r, c: f"cell {r} {c}"))
        assert drawn.count("<title>") == 3
        assert re.search(r'class="warm" fill-opacity="1\.000"><title>cell 0 0', drawn)
        assert re.search(r'class="cool" fill-opacity="0\.\d+"><title>cell 0 1', drawn)


# --- in a real browser --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium with a profile of its own."""
    with chromium(tmp_path_factory.mktemp("profile")) as context:
        yield context


@pytest.fixture(scope="module")
def tab(browser, compared):
    """The page, and all that it complained of or asked the network for."""
    tab = browser.new_page()
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda asked: complaints.append(asked.url) if asked.url.startswith("http") else None)
    tab.goto((compared[0] / "report.html").as_uri())
    yield tab
    assert complaints == []
    tab.close()


SEEN = """() => [...document.images].map(image => {
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  return {width: image.naturalWidth, shown: image.clientWidth, values: new Set(pixels).size, alt: image.alt};
})"""
SOURCES = "() => [...document.querySelectorAll('figure[data-arm] img')].map(image => image.src)"
#: The tables that are cut, and the cells of which more is written than is seen.
CUT = """() => [...document.querySelectorAll('table')]
  .flatMap(table => [table, table.parentElement, ...table.querySelectorAll('th, td')])
  .filter(one => one.scrollWidth > one.clientWidth && one.clientWidth > 0)
  .map(one => `${one.tagName} ${one.className} ${one.textContent}: ${one.scrollWidth} in ${one.clientWidth}`)"""
COLOURS = """() => {
  const style = getComputedStyle(document.documentElement);
  return [style.backgroundColor, style.color];
}"""


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


class TestInABrowser:
    def test_every_picture_has_pixels(self, tab):
        seen = tab.evaluate(SEEN)
        assert len(seen) == 3 + 2 * 3  # two arms and the data; two arms with three views
        assert all(image["width"] > 8 and image["shown"] > 100 and image["alt"] for image in seen)
        assert all(image["values"] > 4 for image in seen)

    def test_the_slider_moves_the_pictures_of_all_arms(self, tab):
        slider = tab.locator("#step")
        slider.focus()
        tab.keyboard.press("Home")
        assert tab.locator("#at").text_content() == "i = 40"
        before = tab.evaluate(SOURCES)
        tab.keyboard.press("ArrowRight")
        assert tab.locator("#at").text_content() == "i = 35"
        after = tab.evaluate(SOURCES)
        assert all(one != other for one, other in zip(before, after, strict=True))
        tab.keyboard.press("End")
        assert [text.strip() for text in tab.locator("[data-step]").all_text_contents()] == ["at i = 0"] * 2
        assert all(image["values"] > 4 for image in tab.evaluate(SEEN))

    def test_it_plays(self, tab):
        tab.locator("#step").focus()
        tab.keyboard.press("Home")
        before = tab.evaluate(SOURCES)
        tab.locator("#play").click()
        for _ in range(50):
            tab.wait_for_timeout(100)
            if int(tab.locator("#step").input_value()) > 1:
                break
        assert int(tab.locator("#step").input_value()) > 1
        assert tab.locator("#play").get_attribute("aria-pressed") == "true"
        assert tab.evaluate(SOURCES) != before
        tab.locator("#play").click()
        assert tab.locator("#play").text_content() == "Play"

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [400, 821, 1100, 1600])
    def test_it_fits_and_can_be_read(self, tab, width, scheme):
        tab.set_viewport_size({"width": width, "height": 900})
        tab.emulate_media(color_scheme=scheme)
        tab.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        page_colour, ink = map(luminance, tab.evaluate(COLOURS))
        assert (page_colour > 0.5) == (scheme == "light")
        assert (max(page_colour, ink) + 0.05) / (min(page_colour, ink) + 0.05) > 10
        assert tab.evaluate(CUT) == []
        for chart in tab.locator("figure.chart > svg").all():
            box = chart.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
        smallest = tab.evaluate(
            "Math.min(...[...document.querySelectorAll('svg text')].map(text => text.getBoundingClientRect().height))"
        )
        assert smallest > 9

    @pytest.mark.parametrize(("width", "is_table"), [(400, False), (840, True), (1100, True)])
    def test_the_ranking_is_a_table_where_there_is_room(self, tab, width, is_table):
        tab.set_viewport_size({"width": width, "height": 900})
        cells = tab.locator("table.ranking tbody tr").first.locator("td").all()
        tops = {round(cell.bounding_box()["y"]) for cell in cells if cell.bounding_box()}
        assert (len(tops) == 1) == is_table
        assert tab.locator("table.ranking thead").is_visible() == is_table

    def test_a_keyboard_reaches_everything(self, tab):
        tab.evaluate("document.querySelectorAll('details').forEach(one => one.open = false)")
        tab.evaluate("document.activeElement.blur()")
        reached = set()
        for _ in range(40):
            tab.keyboard.press("Tab")
            reached.add(tab.evaluate("document.activeElement.id || document.activeElement.tagName"))
        assert {"step", "play", "SUMMARY", "DIV"} <= reached
        unnamed = (
            "[...document.querySelectorAll('[role=region], svg[role=img]')].filter(e => !e.getAttribute('aria-label'))"
        )
        assert tab.evaluate(f"{unnamed}.length") == 0
