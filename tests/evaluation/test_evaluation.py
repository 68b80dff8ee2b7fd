"""What evaluate measures, against the distances themselves; and the command that shows it."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import torch
from command import TINY, run
from gendiff_plugins.features.dct import DCT
from gendiff_plugins.features.pixels import Pixels
from gendiff_plugins.features.random_conv import RandomConv
from gendiff_plugins.metrics.moments import SampleMoments
from gendiff_plugins.metrics.spectrum import Spectrum
from runs import command, exit_code

from gendiff.errors import ConfigError, DataError, PluginError
from gendiff.evaluation import measuring
from gendiff.evaluation.distances import effective_events, frechet, interval, kid, precision_recall, share, subsets
from gendiff.evaluation.event_set import EventSet, KnownStatistics, spread
from gendiff.evaluation.measuring import evaluate, see
from gendiff.evaluation.number import Evaluation, comparable
from gendiff.evaluation.statistics import Statistics
from gendiff.metric import Metric

FEATURES = RandomConv(width=4)


def fields(n: int, rng: torch.Generator, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    """Smooth random pictures of 3 x 6 x 8."""
    x = torch.nn.functional.avg_pool2d(torch.randn(n, 3, 8, 10, generator=rng), 3, 1)
    return scale * x + shift


def events(x: torch.Tensor, spec: str = "these") -> EventSet:
    return EventSet.of_tensor(x, spec)


@pytest.fixture
def sets(rng) -> tuple[torch.Tensor, torch.Tensor]:
    return fields(90, rng, 0.9, 0.05), fields(120, rng)


class TestNumbers:
    def test_they_are_the_distances_with_their_intervals(self, sets):
        x, y = sets
        found = evaluate(events(x), events(y, "those"), [FEATURES], replicates=6, seed=3)
        a, b = FEATURES.extract(x), FEATURES.extract(y)
        reference = Statistics.of(b)
        expected = {
            "fd-random-conv": lambda c: frechet(Statistics.of(a[c]), reference),
            "kd-random-conv": lambda c: kid(a[c], b),
            "precision-random-conv": lambda c: precision_recall(a[c], b).precision,
            "recall-random-conv": lambda c: precision_recall(a[c], b).recall,
        }
        assert [number.name for number in found.numbers] == list(expected)
        for name, function in expected.items():
            number, wanted = found[name], interval(function, 90, replicates=6, seed=3)
            assert number.value == pytest.approx(wanted.value, rel=1e-4), name
            if number.better == "higher":
                parts = [function(c) for c in subsets(90, replicates=6, seed=3)]
                worth = 90 if "precision" in name else effective_events(wanted.value, parts, 90, 45, 90)
                assert (number.low, number.high) == pytest.approx(share(number.value, worth), rel=1e-4)
            else:
                assert number.high == pytest.approx(number.value + (wanted.high - wanted.low) / 2, rel=1e-3)
            assert (number.level, number.samples.n, number.reference.n) == (0.95, 90, 120)
            assert (number.samples.spec, number.reference.spec) == ("these", "those")
            assert number.instrument_fingerprint == FEATURES.fingerprint

    def test_a_share_of_none_or_all_has_an_interval_too(self, sets):
        x, y = sets
        apart = evaluate(events(x), events(y + 50), [Pixels()], replicates=4)
        same = evaluate(events(x), events(x), [Pixels()], replicates=4)
        for name in ("precision-pixels", "recall-pixels"):
            assert (apart[name].value, apart[name].low) == (0, 0)
            assert apart[name].high == pytest.approx(1 - 0.025 ** (1 / 90))
            assert (same[name].value, same[name].high) == (1, 1)
        assert same["precision-pixels"].low == pytest.approx(0.025 ** (1 / 90))

    def test_metrics_are_measured_on_the_events(self, sets):
        x, y = sets
        found = evaluate(events(x), events(y), [SampleMoments(), Spectrum(bands=2)], replicates=8, seed=1)
        for metric in (SampleMoments(), Spectrum(bands=2)):
            for key, value in metric.measure(x, y).items():
                wanted = interval(lambda c, m=metric, k=key: m.measure(x[c], y)[k], 90, replicates=8, seed=1)
                number = found[f"{metric.name}.{key}"]
                assert number.value == pytest.approx(value)
                assert (number.low, number.high) == pytest.approx((wanted.low, wanted.high))
                assert number.better == ("lower" if key == "error" else "")

    def test_bounds_hold(self, rng):
        x = fields(40, rng)
        found = evaluate(events(x), events(x), [Pixels()], replicates=5)
        assert (found["precision-pixels"].high, found["recall-pixels"].high) == (1, 1)
        assert found["fd-pixels"].value == pytest.approx(0, abs=1e-9)
        assert found["fd-pixels"].low == 0

    def test_large_sets_are_thinned_where_all_pairs_or_all_values_would_be_held(self, sets, monkeypatch):
        x, y = sets
        monkeypatch.setattr(measuring, "PAIRS", 50)
        monkeypatch.setattr(measuring, "METRIC_VALUES", 40 * x[0].numel())
        found = evaluate(events(x), events(y), [Pixels(), SampleMoments()], replicates=4)
        a, b = x.flatten(1)[spread(50, 90)], y.flatten(1)[spread(50, 120)]
        assert found["kd-pixels"].value == pytest.approx(kid(a, b), rel=1e-6)
        counts = {number.name: (number.samples.n, number.reference.n) for number in found.numbers}
        assert counts["fd-pixels"] == (90, 120)
        assert counts["kd-pixels"] == counts["recall-pixels"] == (50, 50)
        assert counts["moments.error"] == (40, 40)
        expected = SampleMoments().measure(x[spread(40, 90)], y[spread(40, 120)])
        assert found["moments.error"].value == pytest.approx(expected["error"])

    def test_statistics_stand_in_for_the_reference(self, sets, tmp_path):
        x, y = sets
        by = {"features": FEATURES.spec, "fingerprint": FEATURES.fingerprint}
        Statistics.of(FEATURES.extract(y), **by).save(tmp_path / "y.npz")
        known = KnownStatistics.load(tmp_path / "y.npz")
        found = evaluate(events(x), known, [FEATURES, SampleMoments()], replicates=4)
        assert [number.name for number in found.numbers] == ["fd-random-conv"]
        full = evaluate(events(x), events(y), [FEATURES], replicates=4)
        assert found.numbers[0].value == pytest.approx(full.numbers[0].value, rel=1e-5)
        assert found.numbers[0].reference.n == 120
        with pytest.raises(DataError, match="other features"):
            evaluate(events(x), known, [Pixels()])

    def test_a_reference_is_gone_through_once_for_many(self, sets):
        x, y = sets
        seen = see(events(y), [Pixels(), SampleMoments()])
        one = evaluate(events(x), seen, [Pixels(), SampleMoments()], replicates=3)
        two = evaluate(
            see(events(x), [Pixels(), SampleMoments()]), events(y), [Pixels(), SampleMoments()], replicates=3
        )
        assert one.numbers == two.numbers

    def test_numbers_of_other_conditions_are_not_comparable(self, sets):
        x, y = sets
        ask = lambda x, y, features: evaluate(events(x), events(y), [features], replicates=2).numbers[0]  # noqa: E731
        base = ask(x, y, Pixels())
        assert comparable(base, ask(x * 0.5, y, Pixels())) == ()
        for other in (ask(x[:80], y, Pixels()), ask(x, y[:80], Pixels()), ask(x, y + 1, Pixels()), ask(x, y, DCT())):
            assert comparable(base, other)
        assert comparable(base, ask(x, y, Pixels(downsample=2)))

    def test_what_cannot_be_measured_is_explained(self, sets):
        x, y = sets
        for wrong, other in ((x[:7], y), (x, y[:7]), (x, y[:, :2]), (x[..., 1:], y)):
            with pytest.raises(ConfigError):
                evaluate(events(wrong), events(other), [Pixels()])

        class Broken(Metric):
            """a metric that finds nothing."""

            name = "broken"

            def measure(self, samples, reference):
                return {"x": float("nan")}

        with pytest.raises(PluginError, match="broken"):
            evaluate(events(x), events(y), [Broken()])


class TestAlarm:
    def alarms(self, x: torch.Tensor, y: torch.Tensor, **options: float) -> list[str]:
        return [text.partition(" ")[0] for text in SampleMoments(**options).alarms(x, y)]

    def test_it_rings_for_dark_bright_tinted_pale_and_harsh_samples(self, rng):
        y, unit = fields(400, rng), fields(400, rng).std()
        red = torch.tensor([1.0, 0, 0])[:, None, None]
        x = fields(400, rng)
        assert self.alarms(x, y) == []
        assert self.alarms(x - 0.2 * unit, y) == ["dark"]
        assert self.alarms(x + 0.2 * unit, y) == ["bright"]
        assert self.alarms(x + 0.25 * unit * red, y) == ["tinted"]
        assert "red is off by +0.1" in SampleMoments().alarms(x + 0.25 * unit * red, y)[0]
        assert self.alarms(0.8 * x, y) == ["pale"]
        assert self.alarms(1.2 * x, y) == ["harsh"]
        assert self.alarms(0.8 * x - 0.2 * unit, y) == ["dark", "pale"]
        assert self.alarms(x - 0.2 * unit, y, alarm=0.3) == []

    def test_chance_does_not_set_it_off(self, rng):
        rung = sum(bool(self.alarms(fields(8, rng), fields(400, rng))) for _ in range(60))
        assert rung <= 4

    def test_flat_pictures_are_no_trouble(self):
        assert self.alarms(torch.zeros(9, 1, 4, 5), torch.zeros(9, 1, 4, 5)) == []
        assert self.alarms(torch.ones(9, 1, 4, 5), torch.zeros(9, 1, 4, 5)) == ["bright"]

    def test_it_is_part_of_an_evaluation(self, rng):
        found = evaluate(events(fields(50, rng, shift=-0.5)), events(fields(60, rng)), [SampleMoments()], replicates=2)
        assert [text.partition(" ")[0] for text in found.alarms] == ["dark"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of three steps."""
    path = tmp_path_factory.mktemp("runs") / "r"
    done = run("train", *TINY, "--out", path)
    assert done.code == 0, done.err
    return path


QUICK = ("--n", 24, "--sampler", "ddim:steps=3", "--replicates", 3, "--reference-n", 60)


class TestCommand:
    def test_a_run_is_measured_against_its_data(self, trained):
        done = run("evaluate", trained, *QUICK, "--json")
        assert done.code == 0, done.err
        found = Evaluation.load(Path(done.json["file"]))
        assert Path(done.json["file"]).parent == trained / "eval"
        assert done.json == {**found.json(), "file": done.json["file"]}
        names = [number.name for number in found.numbers]
        assert names[:5] == [
            "fd-random-conv", "kd-random-conv", "precision-random-conv", "recall-random-conv", "moments.error",
        ]  # fmt: skip
        assert "spectrum.band_3" in names
        about = json.loads((trained / "run.json").read_text())
        for number in found.numbers:
            assert number.drawing.run == about["id"]
            assert (number.drawing.step, number.drawing.weights, number.drawing.seed) == (3, "ema", 0)
            assert (number.drawing.sampler, number.drawing.evaluations) == ("ddim:steps=3", 3)
            assert (number.samples.n, number.reference.n) == (24, 60)
            assert number.reference.fingerprint == about["data"]["fingerprint"]
        assert "too small for the Inception network" in done.err

    def test_batches_change_nothing_and_seed_and_weights_do(self, trained):
        base = run("evaluate", trained, *QUICK, "--json").json["numbers"]
        assert run("evaluate", trained, *QUICK, "--batch", 5, "--no-cache", "--json").json["numbers"] == base
        for change in (("--seed", 1), ("--no-ema",)):
            other = run("evaluate", trained, *QUICK, *change, "--json").json["numbers"]
            assert other[0]["value"] != base[0]["value"]
            assert other[0]["drawing"] != base[0]["drawing"]

    def test_the_pictures_of_sample_give_the_same_numbers(self, trained, tmp_path):
        assert run("sample", trained, "-n", 24, "--sampler", "ddim:steps=3", "--out", tmp_path / "s").code == 0
        ask = ("--replicates", 3, "--reference-n", 60, "--json")
        folder = run("evaluate", tmp_path / "s", "--data", "digits", *ask)
        assert folder.code == 0, folder.err
        drawn = run("evaluate", trained, *QUICK, "--json").json
        value = lambda numbers: [(n["name"], n["value"], n["low"], n["high"]) for n in numbers]  # noqa: E731
        assert value(folder.json["numbers"]) == value(drawn["numbers"])
        assert folder.json["numbers"][0]["drawing"] is None
        assert folder.json["alarms"] == drawn["alarms"]
        assert "file" not in folder.json

    def test_the_table_says_what_it_depends_on(self, trained):
        done = run("evaluate", trained, *QUICK, "--no-kid", "--no-precision-recall", "--metric", "moments")
        assert done.code == 0
        lines = done.out.splitlines()
        assert lines[0].split()[:4] == ["name", "value", "95%", "interval"]
        assert lines[1].startswith("fd-random-conv")
        assert not any(word in done.out for word in ("kd-", "recall", "spectrum"))
        for text in ("digits/1 ", "random-conv/1 width=32", "ddim:steps=3, 3 evaluations, seed 0", "step 3", "3 subsets",
                     "averaged weights", "as many samples, the same reference"):  # fmt: skip
            assert text in done.out
        assert "next: gendiff runs show" in done.err
        assert any(line.startswith("warning: ") for line in lines)  # three steps do not learn the contrast

    def test_runs_show_lists_them(self, trained):
        run("evaluate", trained, *QUICK)
        (trained / "eval" / "damaged.json").write_text("{")
        shown = run("runs", "show", trained)
        assert "fd-random-conv" in shown.out
        assert "ddim:steps=3, 3 evaluations, seed 0" in shown.out
        assert "damaged.json" in shown.err
        assert run("runs", "show", trained, "--json").json["evaluations"][0]["numbers"]
        (trained / "eval" / "damaged.json").unlink()

    def test_statistics_are_written_and_compared_with(self, trained, tmp_path):
        file = tmp_path / "digits.npz"
        done = run("evaluate", "digits", "--n", 60, "--features", "pixels", "--save-statistics", file)
        assert done.code == 0, done.err
        assert done.out.strip() == str(file)
        assert Statistics.load(file).features == "pixels"
        direct = run("evaluate", trained, *QUICK, "--features", "pixels", "--json").json["numbers"][0]
        found = run("evaluate", trained, *QUICK[:-2], "--reference", file, "--json").json["numbers"]
        assert [number["name"] for number in found] == ["fd-pixels"]
        assert found[0]["value"] == pytest.approx(direct["value"], rel=1e-6)
        wrong = run("evaluate", trained, *QUICK[:-2], "--reference", file, "--features", "dct")
        assert (wrong.code, "--features pixels" in wrong.err) == (4, True)
        wrong = run("evaluate", trained, *QUICK[:-2], "--reference", file, "--metric", "moments")
        assert (wrong.code, "need the events" in wrong.err) == (2, True)

    def test_data_take_the_shape_of_the_samples(self, trained, tmp_path):
        done = run("evaluate", trained, *QUICK, "--data", "dead-leaves", "--out", tmp_path / "e.json", "--json")
        assert done.code == 0, done.err
        assert done.json["file"] == str(tmp_path / "e.json")
        assert Evaluation.load(tmp_path / "e.json").numbers[0].reference.spec == "dead-leaves:size=8,channels=1"

    @pytest.mark.parametrize(
        ("options", "code", "said"),
        [
            (("--data", "digit"), 2, "did you mean 'digits'? "),
            (("--data", "digits", "--reference", "x"), 2, "both --data and --reference"),
            (("--features", "pixel"), 2, "(from --features)"),
            (("--metric", "spectra"), 2, "(from --metric)"),
            (("--data", "dead-leaves:size=16"), 2, "of shape (1, 8, 8) cannot be compared with"),
            (("--reference-n", 5000), 2, "digits has 1,797 events, not 5,000"),
            (("--features", "dct", "--fid-weights", "x.pth"), 2, "add --features inception"),
            (("--fid-weights", "none.pth"), 4, "none.pth"),
            (("--reference", "none.npz"), 4, "none.npz"),
            (("--save-statistics", "s.json"), 2, "does not end in .npz"),
            (("--out", "none/e.json"), 2, "there is no folder 'none'"),
        ],
    )
    def test_a_mistake_is_explained_before_anything_is_drawn(self, trained, options, code, said, monkeypatch):
        monkeypatch.setattr("gendiff.evaluation.measuring.generate", None)
        done = run("evaluate", trained, "--n", 24, *options)
        assert (done.code, said.strip() in done.err) == (code, True), done.err
        assert "Traceback" not in done.err

    def test_other_files_are_not_overwritten(self, trained, tmp_path):
        for option, name in (("--out", "notes.json"), ("--save-statistics", "mine.npz")):
            (tmp_path / name).write_text("mine")
            done = run("evaluate", trained, *QUICK, option, tmp_path / name)
            assert done.code == 2, done.err
            assert (tmp_path / name).read_text() == "mine"

    def test_absent_weights_are_told_and_how_to_do_without(self, trained, tmp_path, monkeypatch):
        def fail(*_, **__):
            raise OSError("no network")

        monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        monkeypatch.delenv("GENDIFF_FID_WEIGHTS", raising=False)
        done = run("evaluate", trained, "--n", 24, "--features", "inception")
        assert done.code == 4
        for text in ("pt_inception-2015-12-05-6726825d.pth", str(tmp_path), "--fid-weights", "--features random-conv"):
            assert text in done.err
        large = run("evaluate", "dead-leaves", "--data", "dead-leaves:seed=1", "--n", 24)
        assert (large.code, "inception" in large.err) == (4, True)  # 32 pixels: FID is the default

    def test_without_a_reference_it_asks(self, tmp_path):
        done = run("evaluate", "digits", "--n", 24)
        assert (done.code, "--reference" in done.err) == (2, True)
        assert run("evaluate", tmp_path / "none", "--data", "digits").code == 4
        assert run("evaluate", "digit", "--data", "digits").code == 2


def test_two_processes_find_what_one_does(trained, tmp_path, monkeypatch):
    """Each draws its share, the first measures."""
    ask = ["evaluate", str(trained), "-n", "21", "--sampler", "ddim:steps=2", "--replicates", "2", "--device", "cpu"]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(2):
        for key, value in {"WORLD_SIZE": 2, "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "localhost"}.items():
            monkeypatch.setenv(key, str(value))
        monkeypatch.setenv("MASTER_PORT", str(port))
        children.append(command([*ask, "--batch", "4", "--out", str(tmp_path / "two.json")]))
    monkeypatch.undo()
    assert [exit_code(child) for child in children] == [0, 0]
    assert run(*ask, "--out", tmp_path / "one.json").code == 0
    one, two = (Evaluation.load(tmp_path / f"{name}.json") for name in ("one", "two"))
    assert two.numbers == one.numbers


@pytest.mark.parametrize(("source", "code"), [("nope", 2), ("runs/nope", 4), ("runs", 4)])
def test_where_nothing_is_found_a_run_is_named_too(source, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    done = run("evaluate", source)
    assert done.code == code
    assert "or a run directory: gendiff runs list shows them" in done.err
    assert "gendiff runs list" not in run("evaluate", "digits", "--data", source).err


@pytest.mark.filterwarnings("default")  # a note of the command line is a warning
@pytest.mark.parametrize("command", [("evaluate",), ("data", "info")])
def test_a_folder_that_is_called_like_data_is_pointed_at(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("data", "prepare", "digits", "packed").code == 0
    done = run("data", "info", "packed")  # data of that name cannot be without a path: what lies there is meant
    assert (done.code, "packed:path=packed" in done.out) == (0, True)
    Path("packed").rename("gaussian-field")
    done = run(*command, "gaussian-field:size=0")
    assert done.code == 2
    done = run(*command, "gaussian-field")
    assert "what is called so here is ./gaussian-field" in done.err
    assert run("data", "info", "./gaussian-field").code == 0
