"""Arms: one line of text for one of several experiments."""

from __future__ import annotations

import pytest
from runs import create, settings

from gendiff.comparison.arm import Arm, parse_arms
from gendiff.errors import ConfigError, PluginError
from gendiff.run.layers import Layer


def config(text: str, **below):
    return Arm.parse(text).over([Layer("below", below)] if below else []).config


def test_a_rotation_with_words_of_the_command_line_and_keys_of_the_configuration():
    found = config("dct schedule=log:f_max=0.6 velocity.sigma=0.3 N=500 size=16x24", data="dead-leaves")
    assert found.rotation.spec == "dct"
    assert found.velocity.spec == 'blur:schedule="log:f_max=0.6",sigma=0.3'
    assert (found.N, found.data.event_shape) == (500, (3, 16, 24))


def test_a_named_process_and_then_its_parts():
    found = config("blur-diffusion:sigma=0.5 noise=cosine")
    assert (found.rotation.name, found.velocity.sigma, found.velocity.noise.name) == ("dct", 0.5, "cosine")
    assert config("ddpm").velocity.name == "isotropic"


def test_words_alone_change_what_is_below():
    assert config("noise=cosine", rotation="haar").rotation.name == "haar"
    assert config("blur-eigen:released_tiling=true").rotation.released_tiling is True
    assert config("train.ema=0.5 logger=tensorboard").train.loggers[0].name == "tensorboard"
    assert config("data='folder:path=\"my photos\"'").data.path.name == "my photos"


def test_a_preset_lies_below_the_words_of_its_arm_and_the_flags_of_all():
    found = config("preset=cold")
    assert (found.objective.spec, found.sampler.name, found.velocity.name, found.N) == ("x0-l1", "ddim", "cold", 50)
    assert config("N=40 preset=cold objective=x0").N == 40
    assert config("haar preset=cold objective=x0").rotation.name == "haar"
    shared = [Layer("preset mine", {"N": 7, "train": {"batch": 3}}), Layer.at("--steps", "train.steps", 9)]
    found = Arm.parse("preset=cold").over([*shared, Layer.at("--set train.lr", "train.lr", 0.5)]).config
    assert (found.N, found.train.batch, found.train.steps, found.train.lr) == (50, 64, 9, 0.5)
    with pytest.raises(ConfigError, match=r"unknown preset 'colt'(.|\n)*arm 'preset=colt'(.|\n)*did you mean 'cold'"):
        Arm.parse("preset=colt")


def test_labels():
    assert [arm.label for arm in parse_arms(["identity", "dct schedule=log label=paper"])] == ["identity", "paper"]
    with pytest.raises(ConfigError, match="two arms are called 'identity'"):
        parse_arms(["identity", "dct label=identity"])


def test_a_run_is_taken_as_it_was_trained(tmp_path):
    run = create(tmp_path / "a-run", settings(rotation="dct"))
    arm = Arm.parse(f"{run.path} label=mine")
    assert (arm.label, arm.run) == ("mine", run.path)
    found = arm.over([Layer("below", {"N": 77})]).config
    assert (found.N, found.rotation.name) == (20, "dct")
    with pytest.raises(ConfigError, match="changes 'schedule=log' of a run"):
        Arm.parse(f"{run.path} schedule=log")
    with pytest.raises(ConfigError, match="changes 'preset=cold' of a run"):
        Arm.parse(f"{run.path} preset=cold")
    with pytest.raises(ConfigError, match="changes 'dct' of a run"):
        Arm.parse(f"{run.path} dct")


def test_a_run_with_another_sampler_and_several_runs(tmp_path):
    one, other = (create(tmp_path / f"run{seed}", settings(rotation="dct", seed=seed)) for seed in (0, 1))
    arm = Arm.parse(f"{one.path} {other.path} sampler=ddim:steps=7")
    assert (arm.run, arm.runs) == (one.path, (one.path, other.path))
    found = arm.over([Layer("below", {"N": 77})]).config
    assert (found.sampler.spec, found.rotation.name, found.N) == ("ddim:steps=7", "dct", 20)
    with pytest.raises(ConfigError, match="no parameter 'stepps'"):
        Arm.parse(f"{one.path} sampler=ddim:stepps=7").over([])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "an arm is empty"),
        ("dct schedule='log", "cannot read the arm"),
        ("dct quartic", "cannot read 'quartic'"),
        ("dct schedule=", "gives 'schedule' no value"),
        ("dct size=big", "cannot read the size 'big'"),
        ("dcct", "did you mean 'dct'?"),
        ("runs/none", "no rotation, no process and no run"),
        ("dct shedule=log", "no parameter 'shedule'"),
        ("dct schedule=lgo", "did you mean 'log'?"),
    ],
)
def test_a_mistake_is_explained(text, said):
    with pytest.raises(ConfigError) as raised:
        config(text)
    assert said in str(raised.value)
    assert f"arm '{text}'" in str(raised.value) or not text


def test_a_broken_plugin_is_no_unknown_name(monkeypatch):
    def broken(kind, name):
        raise PluginError("it is broken")

    monkeypatch.setattr("gendiff.comparison.arm.component_class", broken)
    with pytest.raises(PluginError, match="it is broken"):
        Arm.parse("dct")
