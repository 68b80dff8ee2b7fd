"""The scripts of the longer campaigns run, at their tiny size."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import curves
import data_benchmark
import determinism
import gpu
import growth
import hardware
import keeping
import minutes
import mutants
import oldest
import predicted_ranking
import pytest
import quality
import sliders
import threads_benchmark
import torch
import unet_benchmark
from baseline import Bare, Before, Plain
from browser import chromium
from PIL import Image
from runs import command, exit_code
from tape import Tape, recording


class TestBenchmark:
    """The same path as on a GPU, recorded on a tape."""

    LINE = ("--device", "cpu", "--scale", "tiny", "--out")

    def changed(self, out, change):
        """Set one number of what was measured."""
        file = out / "benchmark.json"
        content = json.loads(file.read_text())
        change(content["parts"])
        file.write_text(json.dumps(content))

    @pytest.mark.slow
    def test_it_measures_every_part_once_and_judges_what_it_measured(self, tmp_path, monkeypatch, capsys):
        tape, line = Tape(), [*self.LINE, str(tmp_path)]
        with monkeypatch.context() as patch:
            recording(patch, tape)
            for place in ("gendiff.run.generation.recorder_for", "unet_benchmark.recorder_for"):
                patch.setattr(place, lambda device: tape)
            assert unet_benchmark.main([*line, "--minutes", "0"]) == 75
            assert unet_benchmark.main(line) == 0
            arms = set(unet_benchmark.Bench(torch.device("cpu"), "tiny").arms)
        assert tape.events.count("record") > 10
        assert tape.events.count("replay") > tape.events.count("warm")
        known = json.loads((tmp_path / "benchmark.json").read_text())
        bench = unet_benchmark.Bench(torch.device("cpu"), "tiny")
        assert set(known["parts"]) == set(unet_benchmark.parts(bench))
        assert known["of"]["torch"] == torch.__version__
        assert known["parts"]["rate"]["flops"] > 1e6
        assert set(known["parts"]["steps, batch 2"]) == {"plain", "before", *arms}
        assert arms >= {"fp32, launched", "fp32, recorded"}
        assert "fp32" in bench.arms  # where nothing is recorded it is not called so
        recorded, before = (known["parts"]["curves"][name] for name in ("fp32, recorded", "before"))
        assert recorded == pytest.approx(before, rel=1e-4)
        assert [target["what"] for target in known["targets"]] == ["digits default, images/s over a bare loop"]
        text = (tmp_path / "benchmark.md").read_text()
        for title in (
            "Targets",
            "Training step",
            "Default run on digits",
            "Sampling",
            "Where the time",
            "relative diff",
        ):
            assert f"**{title}" in text or title in text
        with Image.open(tmp_path / "benchmark.png") as picture:
            assert picture.width > 800

        # Nothing is measured again, and what is known is judged again.
        monkeypatch.setattr(unet_benchmark, "turns", None)
        assert unet_benchmark.main(line) == 0
        self.changed(tmp_path, lambda parts: parts["digits"]["bare"].update(ratio=0.5))
        assert unet_benchmark.main(line) == 0
        monkeypatch.setattr(hardware, "is_hopper", lambda device: True)
        assert unet_benchmark.main(line) == 5
        assert "| at least 0.97 | 0.5 | MISSED |" in capsys.readouterr().out
        self.changed(tmp_path, lambda parts: parts["agreement"]["identity, fp32, recorded"].update(difference=0.01))
        assert unet_benchmark.main(line) == 1
        assert "predictions of identity, fp32, recorded differ by 1.0e-02" in capsys.readouterr().out

        # Numbers of other code are nobody's.
        monkeypatch.setattr(unet_benchmark, "identity", lambda bench: {"code": "another"})
        assert keeping.known(tmp_path / "benchmark.json", unet_benchmark.identity(bench)) == {}

    def test_a_part_that_fails_costs_no_other(self, tmp_path, monkeypatch, capsys):
        def fail():
            raise RuntimeError("out of luck")

        monkeypatch.setattr(unet_benchmark, "parts", lambda bench: {"process": fail, "rate": lambda: {"flops": 1.0}})
        monkeypatch.setattr(unet_benchmark, "page", lambda bench, known: "")
        monkeypatch.setattr(unet_benchmark, "draw", lambda bench, known, path: None)
        assert unet_benchmark.main([*self.LINE, str(tmp_path)]) == 1
        assert "process failed: RuntimeError: out of luck" in capsys.readouterr().out
        assert json.loads((tmp_path / "benchmark.json").read_text())["parts"] == {"rate": {"flops": 1.0}}

    @pytest.fixture
    def on_a_gpu(self, monkeypatch):
        monkeypatch.setattr(unet_benchmark.arithmetic, "chosen", lambda precision, device: "bf16")
        return unet_benchmark.Bench(torch.device("cuda"), "paper")

    def test_the_targets_of_a_gpu(self, on_a_gpu):
        arm = on_a_gpu.best_arm
        assert arm == "bf16, recorded, compiled"
        nothing = unet_benchmark.targets(on_a_gpu, {})
        assert {target.met for target in nothing} == {None}
        row = {"ms": 1.0, "images_per_s": 1000.0, "matrix": 800e12}
        known = {
            "rate": {"flops": 239e9},
            "steps, batch 16": {arm: {**row, "ratio": 5.1}},
            "steps, batch 64": {arm: {**row, "ratio": 2.7}},
            "steps, batch 128": {arm: {**row, "images_per_s": 1200.0}},
            "process": {"cost": 0.02, "batch": 64},
            "digits": {"before": {"ratio": 9.0}},
            "loader": {"ratio": 0.9},
            "memory": {arm: {"reserved": 3.0}, "before": {"reserved": 4.0}},
            "sampling": {
                "fp32, recorded": {"gendiff": 40.0, "over_network": 0.5},
                arm: {"gendiff": 14.0, "over_network": 0.04},
            },
        }
        met = [target.met for target in unet_benchmark.targets(on_a_gpu, known)]
        assert met == [True, False, True, False, True, False, True, True, True]
        assert "best batch 128" in unet_benchmark.targets(on_a_gpu, known)[2].what
        assert unet_benchmark.shares(known)[128] == pytest.approx(0.3585)

    def test_what_does_not_fit_into_memory_is_left_out(self, on_a_gpu, monkeypatch):
        """First beside the plain step, which takes more, then alone."""
        bench, tried = on_a_gpu, []

        def measured(bench, name, batch, beside):
            tried.append((batch, beside))
            if beside or batch == 256:
                raise torch.OutOfMemoryError
            return {name: [0.1], "product": [1.0]}

        monkeypatch.setattr(unet_benchmark, "beside_plain", measured)
        rows = unet_benchmark.steps(bench, 128)
        assert rows[bench.best_arm]["images_per_s"] == pytest.approx(1280)
        assert "ratio" not in rows[bench.best_arm]
        assert unet_benchmark.steps(bench, 256) == {}
        assert tried == [(128, True), (128, False), (256, True), (256, False)]
        wrong = RuntimeError("CUDA error: an illegal memory access was encountered")
        monkeypatch.setattr(unet_benchmark, "beside_plain", lambda *_: (_ for _ in ()).throw(wrong))
        with pytest.raises(RuntimeError, match="illegal"):
            unet_benchmark.steps(bench, 128)

    def test_turns_are_taken_there_and_back(self):
        order = []
        works = {name: lambda name=name: order.append(name) for name in "ab"}
        seconds = hardware.turns(works, 2, 1, torch.device("cpu"), warm=1)
        assert "".join(order) == "ab" + "ab" + "ba"
        assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}
        assert hardware.ratio({"new": [1.0, 2.0, 1.0], "old": [2.0, 2.0, 3.0]}, "new", "old") == 2

    @pytest.mark.parametrize(
        ("called", "kind"),
        [
            ("sm90_xmma_wgrad_implicit_gemm_bf16", "convolutions and matrix products"),
            ("nvjet_hsh_128x256", "convolutions and matrix products"),
            ("pytorch_flash::flash_fwd_kernel", "attention"),
            (
                "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedAdam>",
                "optimiser, clipping and averages",
            ),
            ("Memcpy DtoD (Device -> Device)", "copies"),
            ("triton_per_fused_native_group_norm_silu_3", "normalisation, activations and noising"),
        ],
    )
    def test_kernels_are_told_apart_by_name(self, called, kind):
        assert hardware._kind(called) == kind

    @pytest.mark.parametrize(
        ("name", "judged"),
        [
            ("NVIDIA H100 80GB HBM3", True),
            ("NVIDIA H200", True),
            ("NVIDIA GH200 480GB", True),
            ("NVIDIA A100-SXM4-80GB", False),
            ("NVIDIA GeForce RTX 4090", False),
        ],
    )
    def test_targets_are_judged_on_cards_of_their_class(self, monkeypatch, name, judged):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
        assert hardware.is_hopper(torch.device("cuda")) == judged
        assert not hardware.is_hopper(torch.device("cpu"))

    def test_time_without_a_kernel_counts_overlapping_ones_once(self):
        assert hardware._covered([(0, 4), (1, 2), (3, 6), (8, 9)]) == 7

    def test_the_baselines_are_the_step(self):
        """From the same weights and batches the same losses, up to rounding, for they predict the same."""
        config = unet_benchmark.Bench(torch.device("cpu"), "tiny").config("dct + quartic", 4, warmup=0, ema=0.9)
        bench = unet_benchmark.Bench(torch.device("cpu"), "tiny")
        batches = bench.batches(config, 4, 4)
        losses = {}
        for make in (Plain, Bare, Before):
            step = make(config, torch.device("cpu"))
            losses[make.__name__] = [(step(batch), float(step.loss))[1] for batch in batches]
        assert losses["Plain"] == pytest.approx(losses["Before"], rel=1e-4)
        assert losses["Bare"] == pytest.approx(losses["Before"], rel=1e-4)
        assert len(set(losses["Plain"])) == 4


def test_the_benchmark_of_data_agrees_with_its_sources(tmp_path, capsys):
    out = tmp_path / "table.md"
    assert data_benchmark.main(["--scale", "tiny", "--workers", "0", "--out", str(out)]) == 0
    rows = [line.split("|")[1:-1] for line in out.read_text().splitlines() if line.startswith("| ")]
    assert [row[0].strip() for row in rows[1:5]] == ["folder", "packed from folder", "lsun", "packed from lsun"]
    assert [row[0].strip() for row in rows[5:]] == ["dead leaves", "3x8x8 alone", "3x8x8 in a batch of 4"]
    assert all(float(cell.replace(",", "")) > 0 for row in rows[1:5] + rows[6:] for cell in row[1:] if cell.strip())
    assert "packed from folder" in capsys.readouterr().out


def test_the_benchmark_of_data_fails_where_an_event_differs(monkeypatch, capsys):
    monkeypatch.setattr("gendiff_plugins.data.packed.Packed.__getitem__", lambda self, index: torch.zeros(3, 16, 16))
    monkeypatch.setattr(data_benchmark, "measured", lambda every, scale, workers: [])
    assert data_benchmark.main(["--scale", "tiny", "--workers", "0"]) == 1
    assert "12 packed events differ from those of folder" in capsys.readouterr().out


def test_the_benchmark_of_data_fails_where_the_first_version_of_dead_leaves_is_another(monkeypatch, capsys):
    monkeypatch.setattr(data_benchmark, "plain", lambda data, index: data[index] + 1e-6)
    assert data_benchmark.main(["--scale", "tiny", "--workers", "0"]) == 1
    assert "differs from the plain way" in capsys.readouterr().out


class TestQuality:
    OPTIONS = [
        "--sets",
        "digits",
        "--arms",
        "dct, log 0.14",
        "--seeds",
        "0",
        "--steps",
        "2",
        "--count",
        "40",
        "--jobs",
        "1",
    ]

    def options(self, folder, *more):
        return quality.parse(["--out", str(folder / "out"), "--work", str(folder), *self.OPTIONS, *more])

    def test_a_cell_trains_measures_and_repeats_nothing(self, tmp_path, monkeypatch):
        threads = torch.get_num_threads()
        cell = quality.Cell("digits", "dct, log 0.14", "wiener", 0)
        few = ["--samplers", "dpmpp-2m", "heun", "--evaluations", "5"]
        found = quality.run_cell(cell, self.options(tmp_path, *few))
        assert [(one.sampler, one.wanted, one.spent) for one in found] == [("dpmpp-2m", 5, 5), ("heun", 5, 5)]
        assert all(one.distance > 1 for one in found)  # two steps of training are far from digits
        more = quality.run_cell(cell, self.options(tmp_path, *few, "--evaluations", "5", "6"))
        torch.set_num_threads(threads)
        assert more[:2] == found
        assert {(one.sampler, one.wanted) for one in more[2:]} == {("dpmpp-2m", 6), ("heun", 6)}
        monkeypatch.setattr(quality, "trained", None)  # nothing of this is done again
        assert quality.run_cell(cell, self.options(tmp_path, *few)) == more
        quality.write("digits", self.options(tmp_path))
        text = (tmp_path / "out" / "quality-digits.md").read_text()
        assert "| dct, log 0.14 | wiener | `heun` |" in text
        of_variance = text.partition("Variance of the samples")[2]
        assert f"| `heun` | {more[1].variance:.3f} | {more[3].variance:.3f} |" in of_variance
        facts = json.loads((tmp_path / "out" / "quality-digits.json").read_text())
        assert len(facts["measured"]) == 4
        figure = tmp_path / "samples.png"
        shown = ["--samplers", "heun", "--evaluations", "6", "--figure", str(figure)]
        quality.draw("digits", self.options(tmp_path, *shown))
        with Image.open(figure) as drawn:
            assert drawn.height < 200 < drawn.width  # one row: of the others nothing is known
        with pytest.raises(SystemExit, match="no samples of heun with 7 evaluations"):
            quality.draw("digits", self.options(tmp_path, *shown[:3], "7"))

    def test_nothing_begins_when_the_time_is_over(self, tmp_path):
        cell = quality.Cell("digits", "dct, log 0.14", "eps", 0)
        assert quality.run_cell(cell, self.options(tmp_path, "--minutes", "0")) == []
        assert not list(tmp_path.rglob("run.json"))

    def test_the_page_names_the_best_sampler_and_what_it_saves(self):
        def one(sampler, wanted, distance, seed=0):
            arm, objective = "identity (DDPM)", "eps"
            return quality.Measured(
                "digits", arm, objective, seed, sampler, wanted, wanted, distance, 40, 2, "unet", 1.0
            )

        seen = [one("heun", 10, 0.5), one("heun", 10, 0.7, seed=1), one("dpmpp-2m", 10, 0.4), one("heun", 20, 0.3)]
        text = quality.page("digits", [*seen, one(quality.BASELINES[0], 1000, 0.35)], [0.2, 0.3])
        assert "| identity (DDPM) | eps | 0.400 `dpmpp-2m` | 0.300 `heun` | 0.350 | 20 = N/50 | 10 = N/100 |" in text
        assert "| identity (DDPM) | eps | `heun` | 0.600 (0.500..0.700) | 0.300 | - |" in text
        assert "Variance" not in text
        assert "real against real 0.250 (0.200..0.300)" in text
        both = [one(spec, 1000, distance) for spec, distance in zip(quality.BASELINES, (0.35, 0.2), strict=True)]
        assert "| 0.350 | 0.200 | no | no |" in quality.page("digits", [*seen, *both], [0.2])


class TestMinutes:
    LINE = (
        "--arms",
        "identity (DDPM)",
        "--objectives",
        "wiener",
        "--variants",
        "rate 0.002",
        "batch 32",
        "averaging several",
    )

    @pytest.fixture
    def small(self, monkeypatch):
        """A default of ten steps, half a second each; those of half a batch cost half of it."""
        monkeypatch.setattr(minutes, "STEPS", 10)
        monkeypatch.setattr(minutes, "SHARES", (0.2, 0.4, 1.0))
        monkeypatch.setattr(minutes, "COUNT", 40)
        monkeypatch.setattr(minutes, "SAMPLER", "ddim:steps=2")
        monkeypatch.setattr(minutes, "cost", lambda shapes: {name: 0.5 if "64" in name else 0.25 for name in shapes})
        threads = torch.get_num_threads()
        yield
        torch.set_num_threads(threads)

    def called(self, folder, *more):
        paths = ("--out", str(folder / "out"), "--work", str(folder / "work"))
        return minutes.main([*paths, *self.LINE, *more])

    def rows(self, folder):
        return [minutes.Measured(**row) for row in json.loads((folder / "out/minutes.json").read_text())["measured"]]

    @pytest.mark.slow
    def test_the_better_half_goes_on_and_what_is_chosen_meets_every_seed(self, tmp_path, monkeypatch, small, capsys):
        assert self.called(tmp_path, "--minutes", "0") == 75
        assert not list(tmp_path.rglob("run.json"))
        assert self.called(tmp_path, "--parts", "screening", "--seeds", "0") == 0
        rows = self.rows(tmp_path)
        ends = {name: max(one.share for one in rows if one.variant == name) for name in {one.variant for one in rows}}
        assert sorted(ends.values()) == [0.2, 0.4, 1.0, 1.0]
        assert ends["default"] == 1.0
        halves = [one for one in rows if one.variant == "batch 32"]
        assert [one.step for one in halves][:1] == [4]  # twice as many steps of half the cost
        assert halves[0].minutes == pytest.approx(1 / 60)
        assert len({one.average for one in rows if one.variant == "averaging several"}) == 7

        chosen = ["--parts", "final", "--chosen", "rate 0.002", "--seeds", "0", "1"]
        assert self.called(tmp_path, *chosen) == 0
        page = (tmp_path / "out/minutes.md").read_text()
        assert "**identity (DDPM), wiener**" in page
        ends = [one for one in self.rows(tmp_path) if (one.variant, one.share) == ("rate 0.002", 1.0)]
        assert {one.seed for one in ends} == {0, 1}
        assert f"| {quality.spread([one.distance for one in ends])} |" in page
        with Image.open(tmp_path / "out/minutes.png") as picture:
            assert picture.width > 800
        monkeypatch.setattr(minutes, "opened", None)  # nothing is trained again
        assert self.called(tmp_path, *chosen) == 0

    @pytest.mark.slow
    def test_a_run_goes_on_from_its_last_mark(self, tmp_path, small):
        cell, timing = minutes.Cell("default", "identity (DDPM)", "wiener", 0), minutes.clock(tmp_path, ["default"])
        options = minutes.parse(["--out", str(tmp_path), "--work", str(tmp_path / "parts")])
        minutes.run_cell(cell, 0.4, timing, options)
        parts = minutes.run_cell(cell, 1.0, timing, options)
        options.work = tmp_path / "whole"
        whole = minutes.run_cell(cell, 1.0, timing, options)
        assert [(one.step, one.distance) for one in parts] == [(one.step, one.distance) for one in whole]
        assert parts[0].cpu < parts[1].cpu < parts[2].cpu
        assert [one.step for one in whole] == [2, 4, 10]

    def test_a_goal_is_reached_where_the_curve_first_comes_down_to_it(self):
        points = [(0.5, 1.6), (1.0, 0.8), (2.0, 0.2), (4.0, 0.4)]
        for goal, minutes_to in ((2.0, 0.5), (1.6, 0.5), (0.8, 1.0), (0.4, 2**0.5), (0.3, 1.0 * (0.8 / 0.3) ** 0.5)):
            assert minutes.crossing(points, goal) == pytest.approx(minutes_to)
        assert minutes.crossing(points, 0.1) == float("inf")

    def test_the_page_says_when_each_seed_is_where_the_default_ends(self):
        def one(name, seed, share, distance):
            cell = (name, "identity (DDPM)", "wiener", seed)
            return minutes.Measured(*cell, "ema", share, 10, 2 * share, 2 * share, distance, 0.9)

        middle, end = minutes.RUNGS[-2:]
        rows = [one("default", seed, share, 0.5 / share) for seed in (0, 1) for share in (middle, end)]
        rows += [one("rate 0.002", 0, middle, 0.45), one("rate 0.002", 0, end, 0.6), one("rate 0.002", 1, end, 0.51)]
        text = minutes.page(rows, minutes.Clock({minutes.Variant().shape: 0.06}), [0.4])
        first, second = (f"minutes to the default's at {share:g}, by seed" for share in (middle, end))
        assert f"| {first} | {second} | variance |" in text
        assert f"| {2 * middle:.2f}, 2.00 | {2 * middle:.2f}, no | 0.90 |" in text
        assert f"| {2 * middle:.2f}, {2 * middle:.2f} | 2.00, 2.00 | 0.90 |" in text
        fewer = [row for row in rows if (row.variant, row.seed, row.share) != ("default", 1, end)]
        assert second not in minutes.page(fewer, minutes.Clock({minutes.Variant().shape: 0.06}), [0.4])

    def test_a_new_network_is_timed_beside_the_default_and_the_axis_stays(self, tmp_path, monkeypatch):
        first, second = minutes.VARIANTS["default"].shape, minutes.VARIANTS["width 16"].shape
        monkeypatch.setattr(minutes, "cost", lambda shapes: dict.fromkeys(shapes, 0.1))
        assert minutes.clock(tmp_path, ["default"]).seconds == {first: 0.1}
        monkeypatch.setattr(minutes, "cost", lambda shapes: {first: 0.2, second: 0.1})  # all else is half as fast now
        assert minutes.clock(tmp_path, ["default", "width 16"]).seconds == {first: 0.1, second: 0.05}
        assert minutes.clock(tmp_path, ["width 16"]).step(minutes.VARIANTS["width 16"], 0.5) == minutes.STEPS


def test_predictions_are_held_against_what_was_measured(tmp_path, capsys):
    def one(arm, sampler, wanted, distance, seed=0):
        return {
            **{"arm": arm, "objective": "wiener", "sampler": sampler, "seed": seed},
            **{"wanted": wanted, "distance": distance},
        }

    arms = "identity (DDPM)", "dct, log 0.14"
    measured = [one(arm, "ddim", steps, 2 / steps + 0.3 * k) for k, arm in enumerate(arms) for steps in (5, 10, 20)]
    again = [one(arms[0], "ddim", 5, 0.6, seed=1), one(arms[0], quality.BASELINES[0], 1000, 0.1)]
    (tmp_path / "quality-digits.json").write_text(json.dumps({"measured": measured + again, "floor": [0.2, 0.3]}))
    figure = tmp_path / "prediction.png"
    predicted_ranking.main(["--out", str(tmp_path), "--figure", str(figure)])
    told = json.loads((tmp_path / "prediction-digits.json").read_text())
    assert [row["measured"] for row in told["rows"]] == pytest.approx([0.5, 0.2, 0.1, 0.7, 0.5, 0.4])
    errors = [row["predicted"]["0"] for row in told["rows"]]
    assert errors[0] > errors[1] > errors[2] > 0  # fewer steps of DDIM are worse
    assert told["correlations"][f"arm {arms[1]} (3)"]["0"] == pytest.approx(1)
    assert f"| {arms[0]} | wiener | `ddim` | {errors[0]:.3g} / " in capsys.readouterr().out
    assert figure.stat().st_size > 10_000


def processes_of(folder):
    """The command lines that name a folder."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            lines.append(file.read_bytes())
    return [line for line in lines if str(folder).encode() in line]


class TestGpu:
    """What waits for a GPU goes on from call to call, on any device."""

    def line(self, folder, *more):
        return ["--out", str(folder), "--device", "cpu", "--scale", "tiny", *more]

    @pytest.fixture
    def belongs(self, monkeypatch):
        """What results belong to, which asks no other process here."""
        of = {"hardware": "GPU", "torch": "2", "code": "a"}
        monkeypatch.setattr(gpu, "identity", lambda device, scale, environment: {**of, "scale": scale})
        return of

    def test_each_part_is_done_once_and_goes_on_until_it_is_done(self, tmp_path, monkeypatch, belongs, capsys):
        codes = {"tests": 0, "benchmark": 0, "determinism": None, "curves": 0, "growth": 0, "quality": 5}
        codes |= {"table1": 0, "twin": 0}
        begun, words_of = [], {str(words): name for name, words in gpu.parts(tmp_path, "cpu", 0, tiny=True).items()}

        def run(words, environment, seconds, held):
            assert 0 < seconds <= 540
            name = next(name for name in codes if any(word.endswith(f"/{name}") for word in words))
            begun.append(name)
            return codes[name]

        assert list(words_of.values()) == list(codes)
        monkeypatch.setattr(gpu, "run", run)
        assert gpu.main(self.line(tmp_path)) == 75
        assert begun == ["tests", "benchmark", "determinism"]
        assert re.search(r"benchmark +done .*\ndeterminism +goes on .*\ncurves +not begun", capsys.readouterr().out)
        codes["determinism"] = 0
        assert gpu.main(self.line(tmp_path)) == 5
        assert begun[3:] == ["determinism", "curves", "growth", "quality", "table1", "twin"]
        assert re.search(r"quality +done, a target is missed", capsys.readouterr().out)
        codes["growth"] = 3
        assert gpu.main(self.line(tmp_path, "--parts", "growth")) == 1
        assert gpu.main(self.line(tmp_path)) == 1  # it is not forgotten
        assert begun[9:] == ["growth"]
        assert re.search(r"growth +FAILED with 3", capsys.readouterr().out)
        codes["growth"] = 0
        belongs["code"] = "b"
        assert gpu.main(self.line(tmp_path)) == 5
        assert begun[10:] == list(codes)
        assert gpu.main(self.line(tmp_path / "other", "--minutes", "0.2")) == 75  # too little to begin anything
        assert len(begun) == 18

    def test_what_belongs_to_other_code_is_left_where_it_is_and_not_taken_over(self, tmp_path, monkeypatch, belongs):
        """Each part gets a folder that no other code, hardware, torch or scale has."""
        monkeypatch.setattr(gpu, "run", lambda words, *_: folders.append(words[words.index("--out") + 1]) or 0)
        folders = []
        line = self.line(tmp_path, "--parts", "quality")
        for key, value in {"code": "b", "torch": "3", "hardware": "another GPU"}.items():
            assert gpu.main(line) == 0
            belongs[key] = value
        assert gpu.main([*line, "--scale", "full"]) == 0
        assert len(set(folders)) == 4
        made = Path(folders[-1])
        made.mkdir(parents=True)
        assert gpu.main([*line, "--scale", "full"]) == 0  # asked for by its name it is done anew
        assert not made.exists()

    def test_a_call_that_is_asked_to_stop_ends_its_part_and_goes_on_later(self, tmp_path, monkeypatch, belongs, capsys):
        script, begun = tmp_path / "part.py", tmp_path / "begun"
        script.write_text(
            f"import os, signal, subprocess, sys, pathlib\n"
            f"again = pathlib.Path({str(begun)!r}).exists()\n"
            f"pathlib.Path({str(begun)!r}).touch()\n"
            f"again or os.kill(os.getppid(), signal.SIGTERM)\n"
            f"again or subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)', {str(tmp_path)!r}])\n"
        )
        monkeypatch.setattr(gpu, "parts", lambda *_: {"curves": [str(script)]})
        assert gpu.main(self.line(tmp_path)) == 75
        assert re.search(r"curves +goes on", capsys.readouterr().out)
        assert not processes_of(tmp_path)
        assert gpu.main(self.line(tmp_path)) == 0
        assert re.search(r"curves +done", capsys.readouterr().out)

    def test_two_calls_do_not_meet(self, tmp_path, belongs, capsys):
        with gpu.alone(tmp_path), pytest.raises(SystemExit) as end:
            gpu.main(self.line(tmp_path))
        assert end.value.code == 75
        assert "another call is at work" in capsys.readouterr().err

    @pytest.mark.slow
    def test_tests_that_passed_are_not_run_again(self, tmp_path):
        file = gpu.ROOT / "tests" / "gpu" / "test_gpu_pictures.py"
        words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rehearse", "--known", str(tmp_path), str(file)]
        environment = dict(os.environ) | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        assert gpu.run(words, environment, 600) == 0
        passed = (tmp_path / "passed.txt").read_text()
        assert passed.count("test_gpu_pictures.py::") > 1
        assert gpu.run(words, environment, 600) == 0
        assert (tmp_path / "passed.txt").read_text() == passed

    @pytest.mark.slow
    def test_loss_curves_are_drawn(self, tmp_path, capsys):
        """On a processor nothing is recorded, and all three are one."""
        assert curves.main(["--out", str(tmp_path), "--device", "cpu", "--scale", "tiny"]) == 0
        assert "captured and eager: 0.00% apart" in capsys.readouterr().out
        assert (tmp_path / "curves.png").stat().st_size > 10_000
        assert curves.apart([(k, 2.0) for k in range(8)], [(k, 1.0) for k in range(8)]) == 1.0

    def test_a_part_is_ended_in_time_with_all_that_it_started(self, tmp_path, monkeypatch):
        script = tmp_path / "part.py"
        monkeypatch.setattr(gpu, "GRACE", 1)
        for code, told in ((0, 0), (3, 3), (75, None)):
            script.write_text(f"raise SystemExit({code})")
            assert gpu.run([str(script)], dict(os.environ), 60) == told
        child = "import time; time.sleep(600)"
        script.write_text(
            f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', '{child}', '{tmp_path}']).wait()"
        )
        assert gpu.run([str(script)], dict(os.environ), 2) is None
        assert not processes_of(tmp_path)

    def test_no_other_test_sees_a_gpu(self):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
        assert not torch.cuda.is_available()

    @pytest.mark.slow
    def test_the_tests_of_a_gpu_are_sound(self):
        words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rehearse", "tests/gpu"]
        assert gpu.run(words, dict(os.environ), 600) == 0

    def test_every_part_has_its_script_and_time(self, tmp_path):
        every = gpu.parts(tmp_path, "cuda", 9, tiny=False)
        assert list(every) == ["tests", "benchmark", "determinism", "curves", "growth", "quality", "table1", "twin"]
        for words in every.values():
            assert words[0] == "-m" or (gpu.HERE / words[0]).is_file()
        assert every["quality"][every["quality"].index("--minutes") + 1] == "6.75"
        quality.parse(every["quality"][1:])

    def test_a_run_is_taken_to_its_end_however_it_was_ended(self, tmp_path):
        run, lines = tmp_path / "run", tmp_path / "lines"

        def line(word, state, code=0):
            """What `gendiff train` leaves."""
            write = f"import pathlib; r = pathlib.Path({str(run)!r}); r.mkdir(exist_ok=True); "
            write += f"(r / 'run.json').write_text('{{\"status\": \"{state}\"}}'); "
            write += f"pathlib.Path({str(lines)!r}).open('a').write('{word} '); raise SystemExit({code})"
            return [sys.executable, "-c", write]

        run.mkdir()
        (run / "config.toml").touch()  # ended before it was a run: the command would refuse the folder
        with pytest.raises(SystemExit) as end:
            keeping.train(run, line("begin", "stopped", 75), line("on", "done"))
        assert end.value.code == 75
        assert not (run / "config.toml").exists()
        for _ in range(2):  # the second time it is left as it is
            keeping.train(run, line("begin", "done"), line("on", "done"))
        assert lines.read_text() == "begin on "
        (run / "run.json").write_text("{")  # no record that can be read
        with pytest.raises(subprocess.CalledProcessError):
            keeping.train(run, line("begin", "failed", 1), [])

    def test_what_is_kept_belongs_to_one(self, tmp_path):
        file = tmp_path / "new" / "kept.json"
        assert keeping.known(file, {"code": "a"}) == {}
        keeping.keep(file, {"code": "a"}, {"part": 1.5}, more=2)
        assert keeping.known(file, {"code": "a"}) == {"part": 1.5}
        assert keeping.known(file, {"code": "b"}) == {}
        file.write_text(file.read_text()[:-9])
        assert keeping.known(file, {"code": "a"}) == {}
        folder = keeping.own(tmp_path / "runs", {"code": "a"})
        (folder / "run").mkdir()
        assert (keeping.own(folder, {"code": "a"}) / "run").exists()
        assert not (keeping.own(folder, {"code": "b"}) / "run").exists()

    @pytest.mark.slow
    def test_quality_says_that_it_goes_on(self, tmp_path, monkeypatch):
        monkeypatch.setattr(quality, "ProcessPoolExecutor", lambda jobs: ThreadPoolExecutor(jobs))
        words = gpu.parts(tmp_path, "cpu", 9, tiny=True)["quality"]
        assert quality.main([*words[1:], "--minutes", "0"]) == 75
        assert quality.main(words[1:]) == 0
        assert (
            "| dct, log 0.14 | wiener | `dpmpp-2m` |" in (tmp_path / "quality" / "quality-dead-leaves.md").read_text()
        )


class Forked:
    """A ``gendiff`` command as `subprocess.Popen` has it, forked, for a process costs seconds to begin."""

    def __init__(self, line, **_):
        self.pid, self.returncode = command(line[4:]), None

    def poll(self):
        if self.returncode is None and os.waitpid(self.pid, os.WNOHANG)[0]:
            self.returncode = 0
        return self.returncode

    def send_signal(self, number):
        if self.returncode is None:
            os.kill(self.pid, number)

    def wait(self):
        if self.returncode is None:
            self.returncode = exit_code(self.pid)
        return self.returncode


@pytest.mark.slow
def test_runs_repeat_themselves_and_it_is_seen_where_they_do_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(determinism.subprocess, "call", lambda line, **_: Forked(line).wait())
    monkeypatch.setattr(determinism.subprocess, "Popen", Forked)
    line = ["--out", str(tmp_path), "--device", "cpu", "--scale", "tiny"]
    assert determinism.main(line) == 0
    told = json.loads((tmp_path / "determinism.json").read_text())["parts"]["digits"]
    assert [row["differ"] for row in told] == [0, 0, 0]
    assert all(row["tensors"] > 50 for row in told)
    assert re.search(r"\| digits \| killed after step (5|10|15|20|25|30) and gone on", capsys.readouterr().out)
    other = determinism.weights(tmp_path / "runs" / "digits" / "one")
    name = next(name for name in other if name.startswith("model/"))
    other[name] = other[name] * (1 + 1e-6)
    assert determinism.apart(determinism.weights(tmp_path / "runs" / "digits" / "one"), other)[0] == 1
    line[1] = str(tmp_path / "other")
    monkeypatch.setattr(
        determinism, "prove", lambda *_: [{"what": "", "tensors": 2, "differ": 1, "relative": 0.1, "must": True}]
    )
    assert determinism.main(line) == 1


@pytest.mark.slow
def test_growth_is_measured_point_by_point_and_drawn(tmp_path, monkeypatch, capsys):
    cpu = torch.device("cpu")
    monkeypatch.setattr(growth, "apart", lambda point, device, rounds: growth.measured(point, cpu, 1))
    monkeypatch.setattr(growth, "together", lambda point, device, steps: {"processes 1": 10.0, "processes 2": 15.0})
    line = ["--out", str(tmp_path), "--device", "cpu", "--scale", "tiny"]
    assert growth.main([*line, "--minutes", "0"]) == 75
    assert growth.main(line) == 0
    known = json.loads((tmp_path / "growth.json").read_text())["parts"]
    assert set(known) == {*growth.points("tiny"), "together"}
    assert all(known[name][f"{kind} ms"] > 0 for name in growth.points("tiny") for kind in growth.WHAT)
    assert known["size 8"] == known["N 20"]  # the middle is measured once
    assert "1.50 times as many" in (tmp_path / "growth.md").read_text()
    with Image.open(tmp_path / "growth.png") as picture:
        assert picture.width > 800
    monkeypatch.setattr(growth, "apart", None)
    assert growth.main(line) == 0
    assert "| 16 |" in capsys.readouterr().out


class TestMutants:
    SOURCE = b"""
def f(x, y=3):
    \"\"\"One more than two.\"\"\"
    if x < 1:
        raise ValueError("x < 1", 1 + 2)
    x = math.sqrt(x)
    return math.sin(x) * (x - y) if y > 0 else -x.clamp_min(2.0)

def other(i, j):
    return i - 1
"""

    def test_every_kind_of_change_is_made_once(self):
        found = mutants.mutants("m.py", self.SOURCE)
        text = "\n".join(mutant.change for mutant in found)
        for change in (
            *("y=⟦3→4⟧", "y=⟦3→2⟧", "x ⟦<→<=⟧ 1", "x ⟦<→>=⟧ 1", "if ⟦x < 1→not (x < 1)⟧", "⟦x = math.sqrt(x)→pass⟧"),
            *(
                "= ⟦math.sqrt(x)→(x)⟧",
                "math.⟦sin→cos⟧(x)",
                "(x) ⟦*→/⟧ (x",
                "x ⟦-→+⟧ y",
                "⟦x - y→(x)⟧",
                "⟦x - y→(y)⟧",
                "⟦-x",
            ),
            *("⟦x.clamp_min(2.0)→(x)⟧", "clamp_min(⟦2.0→4.0⟧)", "return ⟦i→j⟧ - 1", "i - ⟦1→0⟧", "y ⟦>→>=⟧ 0"),
        ):
            assert text.count(change) == 1, change
        assert "raise" not in text
        assert "One more" not in text
        assert len({mutant.source for mutant in found}) == len(found)
        (default,) = [mutant for mutant in found if "3→4" in mutant.change]
        assert default.imported
        (term,) = [mutant for mutant in found if "i - ⟦1→0⟧" in mutant.change]
        assert (term.imported, term.line) == (False, 10)
        others = {mutant.change for mutant in mutants.mutants("m.py", self.SOURCE, {"other"})}
        terms = {"return i ⟦-→+⟧ 1", "return ⟦i - 1→(i)⟧", "return ⟦i - 1→(1)⟧"}
        assert others == terms | {"return ⟦i→j⟧ - 1", "return i - ⟦1→2⟧", "return i - ⟦1→0⟧"}

    @pytest.mark.slow
    def test_what_the_table_names_is_there_and_every_reason_belongs_to_a_change(self):
        for module, files in mutants.table().items():
            assert (mutants.ROOT / module).is_file(), module
            assert all((mutants.ROOT / file).is_file() for file in files), files
        assert len(mutants.table()) > 50
        for module in {module for module, _ in mutants.equivalents()}:
            known = {mutant.change for mutant in mutants.chosen(module, None, 0)}
            unknown = [change for one, change in mutants.equivalents() if one == module and change not in known]
            assert not unknown, module

    def test_a_sample_is_the_same_again(self):
        one, again = (mutants.chosen("gendiff/level.py", 5, 0) for _ in range(2))
        assert [mutant.change for mutant in one] == [mutant.change for mutant in again]
        assert one != mutants.chosen("gendiff/level.py", 5, 1)

    @pytest.mark.slow
    def test_a_change_is_made_and_noticed_or_told(self, tmp_path):
        """In a process of its own, for gendiff must not be imported before: a formula with a test, and a constant without."""
        program = """
import sys, mutants
lines = {"gendiff/schedule.py": set(range(999))}
mutants.seen = lambda files, modules, jobs: {file: [mutants.Test(sys.argv[1], 0.1, lines)] for file in files}
for grep in sys.argv[2:]:
    print("exit", mutants.main(["--modules", "gendiff/schedule.py", "--grep", grep, "--jobs", "1"]), flush=True)
"""
        noticed = "tests/test_diffusion.py::TestSchedules::test_ends_and_sums[linear]"
        done = subprocess.run(
            [sys.executable, "-c", program, noticed, "⟦values.cumsum(0)→(values)⟧", "⟦0.999→"],
            env={**os.environ, "PYTHONPATH": str(mutants.ROOT / "tests" / "campaigns")},
            **{"capture_output": True, "text": True, "check": True, "cwd": tmp_path},
        )
        first, second, _ = re.split(r"(?<=exit \d)\n", done.stdout)
        assert "| 1 | 0 | 1 | 1 | 100.0% |" in first
        assert first.endswith("exit 0")
        assert "NOT NOTICED" in second
        assert second.endswith("exit 5")


class TestThreads:
    def test_ratios_are_of_a_round_and_the_page_has_all(self, tmp_path, monkeypatch, capsys):
        speeds = iter([100.0, 95.0, 90.0, 50.0, 60.0, 55.0])
        monkeypatch.setattr(
            threads_benchmark, "trainings", lambda way, seconds, count, joined=False: {"images_per_s": next(speeds)}
        )
        rounds = [{"1": 20.0, "auto": 10.0, "load": 0.1}, {"1": 30.0, "auto": 20.0, "load": 0.2}]
        monkeypatch.setattr(threads_benchmark, "commands", lambda *_: {"compare": rounds})
        assert threads_benchmark.main(["--ways", "auto", "--rounds", "2", "--out", str(tmp_path)]) == 0
        page = (tmp_path / "threads.md").read_text()
        assert page.strip() in capsys.readouterr().out
        assert "| auto | 75 | 78 | 72 | 1.07 and 1.00 |" in page
        assert "| compare | 25.0 | 15.0 | 1.75 | 0.2 |" in page

    @pytest.mark.slow
    def test_a_training_measures_from_the_moment_that_it_is_told(self):
        found = threads_benchmark.trainings("one thread", 0.2, 1)
        assert found["threads"] == [1]
        assert found["images_per_s"] > 0


@pytest.mark.slow
def test_sliders_are_measured_in_three_ways(tmp_path, capsys):
    with chromium(tmp_path):  # skips where there is none
        pass
    assert sliders.main(["--size", "16", "--presses", "1", "--only", "A velocity.sigma"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\| A velocity\.sigma( \| \d+ \(\d+\)){3} \|", lines[2])
    assert [line.partition(":")[0] for line in lines[3:6]] == ["at rest", "quickly", "held"]


def test_the_oldest_version_is_the_one_that_is_promised():
    for name, library in oldest.LIBRARIES.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", oldest.promised(name))
        assert all((oldest.ROOT / "tests" / test).is_file() for test in library.tests)
    with pytest.raises(SystemExit, match="promises 0 oldest versions of nothing"):
        oldest.promised("nothing")
