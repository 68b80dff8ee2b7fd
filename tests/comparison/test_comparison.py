"""Comparison: equal chances for every arm, refusal of what is unequal, and going on after any interruption."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress

import numpy as np
import pytest
import torch
from plans import DATA, TWO, plan_of, shared
from runs import ALONE, CPU, create, exit_code, forked, settings, train

from gendiff import Sampler
from gendiff.comparison import look as look_module
from gendiff.comparison import measure as measure_module
from gendiff.comparison.directory import Comparison
from gendiff.comparison.engine import Engine
from gendiff.comparison.fairness import CONDITIONS, require_fair, unequal
from gendiff.comparison.listener import Silent
from gendiff.comparison.look import BANDS, look, targets
from gendiff.comparison.measure import rehearse
from gendiff.comparison.plan import Plan
from gendiff.comparison.result import by_frequency, result
from gendiff.comparison.settings import differing, same_process, sentences
from gendiff.data import Data
from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError, DataError, GendiffError, Stopped
from gendiff.features import Features
from gendiff.gaussian import GaussianScore
from gendiff.machine.stopping import stop_requests
from gendiff.metric import Metric
from gendiff.plugin.registry import default_registry
from gendiff.run.config import Config
from gendiff.run.directory import Run
from gendiff.run.generation import generate
from gendiff.run.layers import Layer, resolve
from gendiff.run.network import build_denoiser
from gendiff.run.trained import TrainedModel
from gendiff.storage.files import Files
from gendiff.storage.sealed import sealed
from gendiff.streams import ImageNoise
from gendiff.training.trainer import Trainer


def finished(path, plan: Plan) -> dict:
    """The result of a comparison, done or gone on with."""
    comparison = Comparison.create(plan, path, ["compare"])
    with comparison.working() as heed:
        engine = Engine(comparison, default_registry(), CPU, Silent(), heed)
        engine.finish()
        engine.looks()
    return result(comparison, unequal(plan))


def comparable(found: dict) -> dict:
    """What must be the same whatever the interruptions: all but names that are drawn and times."""
    found = json.loads(json.dumps(found))
    for key in ("created", "path", "reproduce"):
        del found[key]
    for arm in found["arms"]:
        for run in arm["runs"]:
            del run["path"], run["drawing"]["run"]
    return found


class TestEqualChances:
    """What an arm is given follows from the seed alone."""

    @pytest.fixture(scope="class")
    def plan(self):
        arms = (*TWO, "haar velocity=fine-to-coarse objective=v lr=1e-4 sampler=ddim:steps=4")
        return plan_of(*arms, below=shared(data="digits"))

    def test_the_same_data_steps_and_noise_in_every_step(self, plan):
        batches = [Trainer(contender.with_seed(5), CPU, ALONE).batches for contender in plan.contenders]
        for step in (1, 2, 300):
            first, *others = (one[step] for one in batches)
            for other in others:
                for name in ("index", "x_0", "i", "eps"):
                    assert torch.equal(getattr(first, name), getattr(other, name)), name
        other = Trainer(plan.baseline.with_seed(6), CPU, ALONE).batches[1]
        assert not torch.equal(other.eps, batches[0][1].eps)
        assert not torch.equal(other.index, batches[0][1].index)

    def test_the_same_initial_weights(self, plan):
        networks = [build_denoiser(contender.with_seed(5), CPU).network for contender in plan.contenders]
        first = networks[0].state_dict()
        for network in networks[1:]:
            assert all(torch.equal(weight, first[name]) for name, weight in network.state_dict().items())
        other = build_denoiser(plan.baseline.with_seed(6), CPU).network.state_dict()
        assert any(not torch.equal(other[name], first[name]) for name in first)

    def test_the_same_noise_in_event_space_at_every_step_of_the_sampler(self, plan, tmp_path, monkeypatch):
        drawn = []

        def recorded(self):
            noise = ImageNoise.__call__.__wrapped__(self)
            drawn[-1].append(noise)
            return noise

        recorded.__wrapped__ = ImageNoise.__call__
        monkeypatch.setattr(ImageNoise, "__call__", recorded)
        for k, contender in enumerate(plan.contenders[:2]):
            drawn.append([])
            denoiser = build_denoiser(contender.with_seed(5), CPU).eval()
            run, sampler = Run(tmp_path / str(k), contender.config), Sampler.model_validate("ancestral:steps=4")
            list(generate(denoiser, run, sampler, 5, range(3), 3))
        first, second = drawn
        assert len(first) == len(second) == 4  # the prior and three noisy steps
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))

    def test_cells_go_seed_by_seed(self, plan):
        assert [(cell.seed, cell.place) for cell in plan.cells()] == [(s, p) for s in (0, 1) for p in (0, 1, 2)]
        assert len({cell.name for cell in plan.cells()}) == 6


class TestFairness:
    @pytest.mark.parametrize(
        ("change", "condition"),
        [
            ("data=gaussian-field:size=[4,8],channels=1,seed=3", "data"),
            ("data.flip=true", "data"),
            ("N=30", "N"),
            ("steps=5", "images"),
            ("batch=16", "images"),
            ("ema=0.5", "ema"),
            ("precision=bf16", "precision"),
            ("sampler=ancestral:steps=5", "nfe"),
            ("model=mlp:width=18,depth=1", "weights"),
            ("model=mlp:width=16,depth=1,frequency_features=true", "weights"),
        ],
    )
    def test_what_is_unequal_is_refused_by_name_and_allowed_by_name(self, change, condition):
        plan = plan_of("identity", f"dct {change}")
        with pytest.raises(ConfigError, match="not a fair comparison") as refused:
            require_fair(plan)
        assert CONDITIONS[condition] in str(refused.value)
        assert f"--allow {condition}" in str(refused.value)
        assert {one.condition for one in unequal(plan)} == {condition}
        allowed = require_fair(plan_of("identity", f"dct {change}", allowed=(condition,)))
        assert [one.condition for one in allowed] == [condition]
        assert len(require_fair(plan_of("identity", f"dct {change}", allowed=("all",)))) == 1

    def test_a_network_that_is_told_of_classes_is_another_experiment(self):
        plain, told = "identity data=digits", "dct data=digits condition=label"
        assert {one.condition for one in unequal(plan_of(plain, told))} == {"condition", "weights"}
        with pytest.raises(
            ConfigError, match=r"what the network is told of events of .* is label, left out for 10%, of the"
        ) as no:
            require_fair(plan_of(plain, told))
        assert "--allow condition --allow weights" in str(no.value)
        seldom = plan_of("identity data=digits condition=label", f"{told} train.condition_dropout=0.5")
        assert {one.condition for one in unequal(seldom)} == {"condition"}
        assert require_fair(plan_of("identity data=digits condition=label", told)) == []

    def test_what_an_arm_is_about_is_fair(self):
        assert require_fair(plan_of(*TWO, "dct lr=1e-4 noise=cosine objective=v")) == []

    def test_a_start_from_the_data_is_another_start_than_noise(self):
        plan = plan_of("identity", "dct sampler.prior=data")
        with pytest.raises(ConfigError, match="not a fair comparison") as refused:
            require_fair(plan)
        assert "the prior that chains start from of dct sampler.prior=data is data, of the baseline standard" in str(
            refused.value
        )
        assert "--allow prior" in str(refused.value)
        assert len(require_fair(plan_of("identity", "dct prior=data", allowed=("prior",)))) == 1
        assert require_fair(plan_of("identity prior=data", "dct prior=data")) == []
        assert plan_of("identity", "dct prior=data").contenders[1].findings == ()

    def test_priors_of_noise_are_told_apart_and_allowed(self):
        (one,) = require_fair(plan_of("identity", "dct prior=matched"))
        assert (one.condition, one.arm, one.baseline) == ("prior", "matched", "standard")

    def test_a_start_where_the_process_never_ends_is_found(self):
        long = [*shared(), Layer("long", {"N": 1000})]
        plan = plan_of("identity", "heat-dissipation", "heat-dissipation prior=matched label=m", below=long)
        assert [[one.rule for one in contender.findings] for contender in plan.contenders] == [[], ["never-ends"], []]

    def test_a_preset_in_an_arm_is_held_against_the_baseline(self):
        plan = plan_of("identity", f"preset=cold data={DATA} model=mlp:width=16,depth=1")
        assert plan.contenders[1].config.objective.name == "x0-l1"
        with pytest.raises(ConfigError, match="not a fair comparison") as refused:
            require_fair(plan)
        assert all(f"--allow {name}" in str(refused.value) for name in ("N", "images", "nfe"))

    def test_events_of_different_shapes_are_never_compared(self):
        with pytest.raises(ConfigError, match="no number compares events of different shapes"):
            require_fair(plan_of("identity", "dct data=gaussian-field:size=[8,4]", allowed=("all",)))

    def test_a_condition_that_is_none(self):
        with pytest.raises(ConfigError, match="did you mean 'weights'"):
            require_fair(plan_of(*TWO, allowed=("wieghts",)))

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"seeds": ()}, "no seeds"),
            ({"seeds": (1, 1)}, "no seeds"),
            ({"n": 3}, "too few"),
            ({"evaluations": (0,)}, "one step at least"),
        ],
    )
    def test_a_plan_that_makes_no_sense(self, changed, said):
        with pytest.raises(ConfigError, match=said):
            plan_of(*TWO, **changed)
        with pytest.raises(ConfigError, match="two arms at least"):
            plan_of("identity")
        with pytest.raises(ConfigError, match="a seed of its own"):
            plan_of("identity", "dct seed=4")

    def test_a_basis_that_somebody_chose_is_refused_and_one_that_a_process_needs_is_said(self):
        chosen = plan_of("identity objective=wiener:basis=process", "dct schedule=log")
        with pytest.raises(ConfigError, match="--allow basis"):
            require_fair(chosen)
        (needed,) = require_fair(plan_of("identity", "haar schedule=log"))
        assert (needed.condition, needed.arm, needed.baseline, needed.severe) == ("basis", "haar", "dct", False)
        both = plan_of("identity objective=wiener:basis=process", "identity objective=eps:basis=process")
        assert require_fair(both) == []


class TestSettings:
    """In what arms differ, which of it was asked for, and what does nothing."""

    def test_those_that_differ(self):
        settings = {one.path: one for one in differing(plan_of("identity", "dct schedule=log lr=1e-4").contenders)}
        assert settings["rotation.name"].values == ("identity", "dct")
        assert settings["velocity.schedule.name"].values == (None, "log")  # with D = 1 it does nothing
        assert settings["train.lr"].values == (1e-3, 1e-4)
        assert {one.group for one in settings.values()} == {"process", "training"}
        assert all(one.asked for one in settings.values())
        assert not any("seed" in path for path in settings)

    def test_what_does_nothing_is_found_by_the_numbers(self):
        """A rotation that is a name, a schedule without blur, a velocity that comes to the same, and what only watches."""

        def paths(*arms):
            return {one.path: one.values for one in differing(plan_of(*arms).contenders)}

        assert paths("identity", "dct schedule=none") == {}
        assert paths("identity", "haar velocity=isotropic") == {}
        assert paths("identity", "identity schedule=log:f_max=0.6 label=b") == {}
        assert paths("dct schedule=log", "dct schedule=log train.keep=7 train.preview.steps=9 label=b") == {}
        assert "velocity.sigma" not in paths("identity", "identity velocity.sigma=0.9 label=b")
        assert paths("dct", "dct velocity.sigma=0.9 label=b") == {"velocity.sigma": (0.4, 0.9)}
        assert paths("dct schedule=none", "dct")["velocity.schedule.name"] == ("none", "quartic")
        noise = paths("identity", "haar velocity=isotropic label=b", "identity velocity.noise=cosine label=c")
        assert noise["velocity.noise.name"] == ("linear", "linear", "cosine")
        assert noise["velocity.name"] == (None, "isotropic", None)  # a blur with D = 1 is isotropic, whatever its noise
        assert "velocity.sigma" not in noise
        three = paths("identity", "dct schedule=quartic", "dct schedule=log label=c")
        assert three["velocity.schedule.name"] == (None, "quartic", "log")

    def test_equal_processes_are_named(self):
        plan = plan_of("identity", "dct schedule=none", "dct")
        assert [same_process(one, plan.baseline) for one in plan.contenders] == [True, True, False]
        assert "dct schedule=none is the process of identity." in sentences(plan.contenders)
        assert not same_process(*plan_of("identity", "identity N=30 label=b").contenders)
        assert sentences(plan_of("identity", "identity lr=1e-4 label=b").contenders) == [
            "as asked, the arms differ in training: train.lr 0.001 | 0.0001; in nothing besides."
        ]
        assert sentences(plan_of("identity", "identity label=b").contenders) == [
            "the arms differ in nothing that does anything."
        ]

    def test_what_is_asked_for_is_told_from_what_comes_with_it(self):
        plan = plan_of("identity", f"preset=heat-dissipation data={DATA} model=mlp:width=16,depth=1 N=20")
        settings = {one.path: one for one in differing(plan.contenders)}
        assert settings["objective.name"].values == ("wiener", "residual")
        assert not settings["objective.name"].asked
        asked, besides = sentences(plan.contenders)[:2]
        assert "objective" not in asked
        assert "objective: objective wiener | residual" in besides
        assert "sampler: sampler ancestral | heat-dissipation" in besides
        process = [one for one in differing(plan_of("identity", "blur-diffusion").contenders) if not one.asked]
        assert process == []  # a process is its rotation and its velocity

    def test_another_basis_is_a_setting_too(self):
        (basis,) = (
            one for one in differing(plan_of("identity", "haar schedule=log").contenders) if one.group == "basis"
        )
        assert (basis.values, basis.asked) == (("dct", "haar"), False)
        assert "besides, they differ in basis: basis of m and c dct | haar." in sentences(
            plan_of("identity", "haar schedule=log").contenders
        )

    def test_what_is_stored_of_a_plan_knows_what_was_asked(self):
        plan = plan_of("identity", "dct schedule=log")
        again = Plan.of_table(plan.table(), "the test")
        assert sentences(again.contenders) == sentences(plan.contenders)


class TestPlan:
    def test_it_is_made_again_from_what_is_stored(self):
        plan = plan_of(*TWO, evaluations=(5, 2), metrics=(Metric.model_validate("spectrum:bands=3"),), allowed=("ema",))
        again = Plan.of_table(json.loads(json.dumps(plan.table())), "plan.json")
        assert again.table() == plan.table()
        assert [contender.settings for contender in again.contenders] == [one.settings for one in plan.contenders]
        assert [one.spec for one in again.samplers(again.baseline)] == ["ancestral:steps=2", "ancestral:steps=5"]

    def test_all_arms_are_sampled_in_the_precision_of_the_plan(self, tmp_path):
        found = {}
        for precision in ("fp32", "bf16"):
            plan = plan_of(*TWO, seeds=(0,), precision=precision)
            found[precision] = finished(tmp_path / precision, plan)
            assert found[precision]["precision"] == precision
            drawings = [run["drawing"]["precision"] for arm in found[precision]["arms"] for run in arm["runs"]]
            assert drawings == [precision] * 2
            rules = [remark["rule"] for remark in found[precision]["remarks"]]
            assert ("lower-precision" in rules) == (precision == "bf16")
        values = [[arm["numbers"]["fd-pixels"]["value"]["value"] for arm in one["arms"]] for one in found.values()]
        assert values[0] != values[1]
        assert values[0] == pytest.approx(values[1], rel=0.1)
        with pytest.raises(ConfigError, match="holds another comparison") as refused:
            Comparison.create(plan_of(*TWO, seeds=(0,)), tmp_path / "bf16")
        assert "it differs in: precision" in str(refused.value)
        again = Comparison.open(tmp_path / "bf16")
        assert (again.plan.precision, again.plan.compiled) == ("bf16", False)

    def test_a_plan_from_before_precisions_is_one_of_fp32(self):
        table = plan_of(*TWO).table()
        del table["precision"], table["compiled"]
        assert Plan.of_table(table, "plan.json").table() == plan_of(*TWO).table()
        with pytest.raises(ConfigError, match="fp64"):
            Plan.of_table({**table, "precision": "fp64"}, "plan.json")

    def test_another_plan_does_not_go_on_in_its_place(self, tmp_path):
        Comparison.create(plan_of(*TWO), tmp_path / "c")
        Comparison.create(plan_of(*TWO), tmp_path / "c")
        with pytest.raises(ConfigError, match="holds another comparison") as refused:
            Comparison.create(plan_of(*TWO, n=17), tmp_path / "c")
        assert "it differs in: n" in str(refused.value)
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "thesis.tex").write_text("")
        with pytest.raises(ConfigError, match="is not empty"):
            Comparison.create(plan_of(*TWO), tmp_path / "d")

    def test_damage_is_noticed(self, tmp_path):
        Comparison.create(plan_of(*TWO), tmp_path / "c")
        file = tmp_path / "c" / "plan.json"
        file.write_bytes(file.read_bytes().replace(b'"n": 16', b'"n": 17'))
        with pytest.raises(DataError, match="is damaged"):
            Comparison.open(tmp_path / "c")
        with pytest.raises(ConfigError, match="not a comparison directory"):
            Comparison.open(tmp_path)


class TestEvaluations:
    """As many for every arm, whatever a grid drops and however often a method asks."""

    def test_steps_are_found_that_take_so_many(self):
        below = [*shared(), Layer("more", {"N": 300})]
        arm = "dct schedule=log:f_max=0.6 sampler=ddim:grid=arc-length"
        plan = plan_of("identity sampler=ddim:grid=arc-length", arm, below=below, evaluations=(10, 60))
        assert [[one.evaluations(s) for s in plan.samplers(one)] for one in plan.contenders] == [[10, 60]] * 2
        assert require_fair(plan) == []

    def test_what_a_method_cannot_reach_is_not_equal(self):
        plan = plan_of("identity sampler=ddim", "identity sampler=heun label=twice", evaluations=(8,))
        counts = [one.evaluations(plan.samplers(one)[0]) for one in plan.contenders]
        assert counts == [8, 7]
        with pytest.raises(ConfigError, match="--allow nfe"):
            require_fair(plan)


class TestRunsAsArms:
    @pytest.fixture(scope="class")
    def runs(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("runs")
        made = {}
        for seed in (0, 1):
            config = settings(data=DATA, steps=4, batch=8, seed=seed)
            made[seed] = create(folder / f"run{seed}", config)
            train(made[seed])
        return made

    def test_runs_of_several_seeds_are_one_arm_and_are_not_trained(self, runs, tmp_path):
        arm = f"{runs[0].path} {runs[1].path} label=old"
        plan = plan_of(arm, "dct", sampler=Layer("--sampler", {"sampler": "ancestral:steps=4"}))
        assert require_fair(plan) == []
        before = {seed: run.info for seed, run in runs.items()}
        found = finished(tmp_path / "c", plan)
        assert {seed: run.info for seed, run in runs.items()} == before
        assert found["baseline"] == "old"
        assert [run["path"] for run in found["arms"][0]["runs"]] == [str(run.path) for run in runs.values()]
        assert found["arms"][1]["numbers"]["fd-pixels"]["difference"]["seeds"] == 2
        assert finished(tmp_path / "c", Comparison.open(tmp_path / "c").plan) == found

    @pytest.mark.slow
    def test_a_run_that_is_trained_on_is_measured_again(self, runs, tmp_path):
        run = create(tmp_path / "run", settings(data=DATA, steps=4, batch=8))
        train(run)
        plan = plan_of(str(run.path), f"{run.path} sampler=ddim:steps=4 label=ddim", allowed=("nfe",))
        before = finished(tmp_path / "c", plan)
        train(run, 6)
        after = finished(tmp_path / "c", plan)
        steps = [found["arms"][0]["runs"][0]["drawing"]["step"] for found in (before, after)]
        assert steps == [4, 6]

    @pytest.mark.slow
    def test_seeds_that_do_not_meet_are_refused_and_then_not_paired(self, runs, tmp_path):
        plan = plan_of(f"{runs[0].path} label=a", f"{runs[1].path} label=b")
        with pytest.raises(ConfigError, match="--allow seeds"):
            require_fair(plan)
        found = finished(tmp_path / "c", plan_of(*(one.text for one in plan.contenders), allowed=("seeds",)))
        assert found["arms"][1]["numbers"]["fd-pixels"]["difference"]["method"] == "none"
        assert found["verdict"]["outcomes"] == {"b": "undecided"}

    def test_runs_that_are_no_arm(self, runs, tmp_path):
        other = create(tmp_path / "other", settings(data=DATA, steps=4, batch=8, rotation="dct", seed=7))
        with pytest.raises(ConfigError, match=r"not one arm: they differ in rotation\.name"):
            plan_of("identity", f"{runs[0].path} {other.path}")
        with pytest.raises(ConfigError, match="the same seed"):
            plan_of("identity", f"{runs[0].path} {runs[0].path}")


class TestGoingOn:
    @pytest.fixture(scope="class")
    def plan(self):
        torch.set_num_threads(1)
        return plan_of(*TWO, n=20, evaluations=(2, 4))

    @pytest.fixture(scope="class")
    def whole(self, plan, tmp_path_factory):
        """Never interrupted."""
        torch.set_num_threads(1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(measure_module, "BLOCK", 8)
            return comparable(finished(tmp_path_factory.mktemp("whole") / "c", plan))

    def test_killed_over_and_over_it_comes_to_the_same_bits(self, plan, whole, tmp_path, monkeypatch):
        """Each process dies of SIGKILL at one of its durable writes, now an early one, now a late one; the next one goes on."""
        monkeypatch.setattr(measure_module, "BLOCK", 8)
        written = Files.write

        deaths = 0

        def work():
            count = 0

            def write(self, path, content):
                nonlocal count
                count += 1
                if count == 1 + deaths * 7 % 19:
                    os.kill(os.getpid(), signal.SIGKILL)
                written(self, path, content)

            Files.write = write
            finished(tmp_path / "c", plan)

        while (code := exit_code(forked(work))) == -signal.SIGKILL:
            deaths += 1
            assert deaths < 60
        assert code == 0
        assert deaths > 8
        assert comparable(finished(tmp_path / "c", plan)) == whole
        assert not list((tmp_path / "c" / "measures").rglob("*.npy"))

    @pytest.mark.slow
    @pytest.mark.parametrize("moment", ["training", "last step", "sampling", "looking"])
    def test_asked_to_stop_it_stops_and_goes_on(self, plan, whole, tmp_path, monkeypatch, moment):
        monkeypatch.setattr(measure_module, "BLOCK", 8)
        with pytest.MonkeyPatch.context() as patch:
            self.interrupt(patch, moment)
            with pytest.raises(Stopped) as stop:
                finished(tmp_path / "c", plan)
        assert stop.value.exit_code == 75
        assert f"gendiff compare --resume {tmp_path / 'c'}" in str(stop.value)
        assert comparable(finished(tmp_path / "c", plan)) == whole
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    def interrupt(self, patch, moment):
        if moment == "sampling":
            generated = generate

            def interrupted(*arguments, **options):
                for events in generated(*arguments, **options):
                    yield events
                    signal.raise_signal(signal.SIGTERM)

            patch.setattr("gendiff.evaluation.measuring.generate", interrupted)
        elif moment == "looking":
            patch.setattr(look_module, "_losses", self.losses)
        else:
            train_step = Trainer.train_step

            def step(trainer, batch):
                if trainer.step == (1 if moment == "training" else 3):
                    signal.raise_signal(signal.SIGTERM)
                train_step(trainer, batch)

            patch.setattr(Trainer, "train_step", step)

    @staticmethod
    def losses(model, data, seed, heed):
        signal.raise_signal(signal.SIGTERM)
        heed()
        raise AssertionError("it went on")

    def test_two_cannot_work_on_one(self, plan, tmp_path):
        comparison = Comparison.create(plan, tmp_path / "c")
        with comparison.working(), pytest.raises(GendiffError, match="being worked on"):
            comparison.working().__enter__()

    def test_a_damaged_measure_is_measured_again(self, plan, whole, tmp_path, monkeypatch):
        monkeypatch.setattr(measure_module, "BLOCK", 8)
        finished(tmp_path / "c", plan)
        for folder in ("measures", "looks"):
            file = next(iter(sorted((tmp_path / "c" / folder).rglob("*.npz"))))
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 4
            file.write_bytes(content)
        assert comparable(finished(tmp_path / "c", plan)) == whole

    def test_what_is_not_measured_is_no_result(self, plan, tmp_path):
        comparison = Comparison.create(plan, tmp_path / "c")
        with pytest.raises(DataError, match="lacks measures"):
            result(comparison, [])

    def test_requests_inside_each_other_are_one(self):
        with stop_requests() as outer:
            with stop_requests() as inner:
                signal.raise_signal(signal.SIGTERM)
                assert inner == [signal.SIGTERM]
            assert outer == [signal.SIGTERM]
        with suppress(Exception), stop_requests() as later:
            raise ValueError
        assert later == []


class TestRehearsal:
    def test_it_names_every_number(self, tmp_path):
        plan = plan_of(*TWO, metrics=(Metric.model_validate("spectrum:bands=2"),))
        names = rehearse(plan, CPU)
        assert names[0] == "fd-pixels"
        assert list(finished(tmp_path / "c", plan)["better"]) == names

    def test_what_would_fail_after_hours_fails_at_once(self, monkeypatch, tmp_path):
        monkeypatch.setenv("GENDIFF_FID_WEIGHTS", str(tmp_path / "none.pth"))
        with pytest.raises(DataError, match=r"none\.pth"):
            rehearse(plan_of(*TWO, features=(Features.model_validate("inception"),)), CPU)


class TestLooks:
    @staticmethod
    def model(tmp_path, rotation="identity", **table):
        layers = [Layer("t", {**settings(rotation=rotation).table(), **table})]
        config: Config = resolve(layers).config
        return TrainedModel(Run(tmp_path, config), build_denoiser(config, CPU).eval(), 0, "model", "")

    @pytest.mark.parametrize("rotation", ["identity", "dct", "haar"])
    def test_the_best_affine_estimate_lies_on_the_floor(self, rotation, tmp_path, monkeypatch):
        data, model = Data.model_validate("digits"), self.model(tmp_path, rotation)
        if rotation == "identity":  # which has no coordinates of its own: those of the DCT are meant
            model.denoiser.diffusion = self.model(tmp_path, "dct", velocity="isotropic").denoiser.diffusion
        diffusion = model.denoiser.diffusion
        x_bar = diffusion.rotate(look_module._events(data, look_module.EVENTS).double())
        best = GaussianScore(diffusion, x_bar.mean(0), x_bar.var(0, correction=0))
        monkeypatch.setattr(look_module, "NetworkScore", lambda *arguments: best)
        levels, loss, floor = look_module._losses(model, data, 0, lambda: None)
        assert loss.shape == floor.shape == (len(levels), BANDS)
        torch.testing.assert_close(loss, floor, atol=1e-4, rtol=0, equal_nan=True)
        held = ~floor[0].isnan()
        assert held.any()
        assert 0.9 < float(floor[0][held].min()) < 1.01  # nothing of ε is known at i = 1
        assert (floor[1:] <= floor[:-1] + 1e-12)[:, held].all()

    def test_the_floor_is_the_error_of_the_best_affine_estimate(self, rng):
        a, s, m, c = 0.6, 0.7, -0.4, 0.3
        x_0 = m + c**0.5 * torch.randn(200_000, generator=rng, dtype=torch.float64)
        eps = torch.randn(200_000, generator=rng, dtype=torch.float64)
        x_i = a * x_0 + s * eps
        slope, offset = np.polyfit(x_i.numpy(), eps.numpy(), 1)
        error = (slope * x_i + offset - eps).square().mean()
        assert float(error) == pytest.approx(a**2 * c / (a**2 * c + s**2), rel=0.01)

    def test_a_network_that_says_nothing_stands_above_it(self, tmp_path):
        model = self.model(tmp_path, "dct", objective="eps")
        for weight in model.denoiser.parameters():
            weight.data.zero_()
        _levels, loss, floor = look_module._losses(model, Data.model_validate("digits"), 0, lambda: None)
        held = ~floor.isnan()
        torch.testing.assert_close(loss[held], torch.ones_like(loss[held]), atol=0.25, rtol=0)  # ε̂ = 0: E ε² = 1

    def test_both_ways_are_shown_at_the_same_steps_and_meet_in_the_noise(self, tmp_path):
        model, sampler = self.model(tmp_path, "dct"), Sampler.model_validate("ddim:steps=10,grid=uniform")
        wanted = targets(model.denoiser.diffusion, sampler, 6)
        assert wanted == [20, 16, 12, 8, 4, 0]
        found = look(model, sampler, wanted, Data.model_validate("digits"), 3, lambda: None)
        assert found.steps.tolist() == found.visited.tolist() == wanted
        assert found.forward.shape == found.reverse.shape == found.belief.shape == (6, 4, 1, 8, 8)
        diffusion: Diffusion = model.denoiser.diffusion
        a = diffusion.at(20).log_a.exp().max()
        x_0 = found.forward[-1]
        difference = found.forward[0] - found.reverse[0]
        assert difference.abs().max() <= a * x_0.abs().sum((1, 2, 3)).max()  # what a_N leaves of the event
        assert torch.equal(found.belief[0], torch.zeros_like(found.belief[0]))
        drawn = torch.cat(list(generate(model.denoiser, model.run, sampler, 3, range(4), 4)))
        torch.testing.assert_close(found.reverse[-1], drawn)

    def test_another_sampler_is_shown_where_it_passes_nearest(self, tmp_path):
        model = self.model(tmp_path, "dct")
        found = look(
            model,
            Sampler.model_validate("ddim:steps=3,grid=uniform"),
            [20, 12, 8, 0],
            Data.model_validate("digits"),
            3,
            lambda: None,
        )
        assert found.steps.tolist() == [20, 12, 8, 0]
        assert found.visited.tolist() == [20, 13, 7, 0]


def test_a_spectrum_is_read_by_frequency():
    power = torch.zeros(2, 6, 10, dtype=torch.float64)
    power[:, 0, 0] = 99  # the constant component is left out
    power[:, 0, 1] = torch.tensor([1.0, 3.0])
    found = by_frequency(power)
    assert len(found) == 10
    assert found[0] == pytest.approx(2 / 1)
    assert all(value == 0 for value in found[2:])


class TestStrangers:
    """What lies in a comparison may have been made by anybody."""

    @pytest.fixture
    def comparison(self, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "file").write_text("precious")
        yield Comparison.create(plan_of(*TWO), tmp_path / "c", ["compare"])
        assert (tmp_path / "out" / "file").read_text() == "precious"

    @pytest.mark.parametrize("name", ["runs", "measures", "looks", "figures", "cache"])
    def test_a_folder_that_leads_elsewhere(self, comparison, tmp_path, name):
        (comparison.path / name).symlink_to(tmp_path / "out")
        with pytest.raises(DataError, match="is a link") as raised, comparison.working():
            pass
        assert str(tmp_path / "out") in str(raised.value)

    def test_what_is_removed_is_never_elsewhere(self, comparison, tmp_path):
        cell = comparison.plan.cells()[0]
        path = comparison.run_path(cell)
        path.parent.mkdir()
        path.symlink_to(tmp_path / "out")  # no run: it is made again
        Engine(comparison, default_registry(), CPU, Silent(), lambda: None).train([cell])
        assert Run.open(path).info["status"] == "done"
        assert not path.is_symlink()

    @pytest.mark.parametrize(
        "change",
        [
            {"seeds": ["0/../../out"]},
            {"seeds": [0.5]},
            {"seeds": 3},
            {"n": "16"},
            {"evaluations": [True]},
            {"arms": [1]},
            {"features": [None]},
            {"metrics": [None]},
        ],
        ids=str,
    )
    def test_a_plan_of_other_types(self, comparison, change):
        plan = json.loads((comparison.path / "plan.json").read_text())
        del plan["sha256"]
        plan["plan"] |= change
        (comparison.path / "plan.json").write_bytes(sealed(plan))
        with pytest.raises(DataError, match="holds no plan"):
            Comparison.open(comparison.path)

    def test_a_plan_without_a_plan(self, comparison):
        (comparison.path / "plan.json").write_bytes(sealed({"format": 1}))
        with pytest.raises(DataError, match="holds no plan"):
            Comparison.open(comparison.path)
