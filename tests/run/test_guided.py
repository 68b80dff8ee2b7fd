"""Guides on the pictures of a run: other checkpoints, recorded networks, and what is refused before anything is drawn."""

from __future__ import annotations

import shutil

import pytest
import torch
from command import run as command
from gendiff_plugins.guides.frequency import _weights as weights
from runs import MLP, create, settings, train
from tape import Tape

import gendiff
from gendiff import ClassifierGuide, Guide, as_guide
from gendiff.errors import ConfigError, DataError, PluginError
from gendiff.run import generation, others
from gendiff.run.asked import Asked
from gendiff.run.generation import generate
from gendiff.run.layers import Layer, resolve
from gendiff.run.trained import TrainedModel


def conditional(**train):
    """A run of seconds that is told of labels, with its checkpoints."""
    table = settings(MLP, steps=10, checkpoint_every=5, keep=9, **train).table()
    return resolve([Layer("the test", {**table, "condition": ["label"]})]).config


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run that is told of labels, another of another seed, and others that will not do."""
    folder = tmp_path_factory.mktemp("guided")
    made = {
        "own": conditional(),
        "other": conditional(seed=1),
        "blind": settings(MLP, steps=5, checkpoint_every=5),
        "never-without": conditional(condition_dropout=0.0),
    }
    made["blurred"] = resolve([Layer("the test", {**made["own"].table(), "rotation": "dct"})]).config
    for name, config in made.items():
        train(create(folder / name, config))
    return folder


def opened(runs, name="own", **how) -> TrainedModel:
    return gendiff.load(runs / name, **how)


def drawn(model, *guides, n=4, **more):
    return model.sample(n, "ddim:steps=4", guide=list(guides), condition={"label": [3, 5]}, **more)


@pytest.mark.parametrize(
    ("name", "step", "ema", "run"),
    [
        ("@5", 5, True, "own"),
        ("@last", None, True, "own"),
        ("@5:raw", 5, False, "own"),
        ("@last:raw", None, False, "own"),
        ("{runs}/other@5", 5, True, "other"),
        ("{runs}/other@last:raw", None, False, "other"),
    ],
)
def test_a_weaker_network_is_that_of_its_checkpoint(runs, name, step, ema, run):
    """At weight 0 nothing is left but it."""
    weaker = TrainedModel.load(gendiff.Run.open(runs / run), torch.device("cpu"), ema, step=step)
    spec = f"autoguidance:weaker={name.format(runs=runs)},weight=0"
    assert torch.equal(drawn(opened(runs), spec), drawn(weaker))


def test_away_from_a_weaker_network(runs):
    own, weaker = opened(runs), TrainedModel.load(gendiff.Run.open(runs / "own"), torch.device("cpu"), step=5)
    one = drawn(own, "autoguidance:weaker=@5,weight=1")
    assert torch.equal(one, drawn(own))
    guided = drawn(own, "autoguidance:weaker=@5,weight=3")
    assert not torch.equal(guided, one)
    assert not torch.equal(guided, drawn(weaker))


@pytest.mark.parametrize(
    ("guide", "says"),
    [
        ("autoguidance:weaker=@6", "there is none of step 6"),
        ("autoguidance:weaker=five", "'five' names no checkpoint"),
        ("autoguidance:weaker=@five", "'@five' names no checkpoint"),
        ("autoguidance:weaker=@5:ema", "'@5:ema' names no checkpoint"),
        ("autoguidance:weaker={runs}/blind@5", "is told of other conditions than this run"),
        ("autoguidance:weaker={runs}/blurred@5", "was trained with another process than this run"),
        ("frequency:weights={many}", "some hold no component"),
    ],
)
def test_what_a_run_cannot_do_is_refused_before_anything_is_drawn(runs, guide, says):
    model = opened(runs)
    asked = Asked.of(model.config, None, [Guide(guide.format(runs=runs, many=[*range(99)]))])
    with pytest.raises(ConfigError, match=says) as caught:
        model.check(asked)
    assert caught.value.exit_code == 2
    assert caught.value.fix
    assert caught.value.where.startswith(f"--guide {guide.partition(':')[0]}:")
    assert len(str(caught.value).splitlines()) < 8


@pytest.mark.parametrize(
    ("run", "guide"),
    [
        ("own", "cfg:sigma_min=2,sigma_max=1"),
        ("own", "frequency:weights=[1,2,3],edges=[0.4]"),
        ("own", "autoguidance"),
        ("own", "autoguidance:weaker=@6"),
        ("own", "classifier"),
        ("blind", "cfg"),
        ("never-without", "frequency"),
    ],
)
def test_the_command_writes_nothing_where_it_refuses(runs, run, guide):
    """One screen that names the option, and exit code 2."""
    before = sorted((runs / run).rglob("*"))
    done = command("sample", runs / run, "--guide", guide)
    assert done.code == 2
    assert f"--guide {guide}" in done.err
    assert "Traceback" not in done.err
    assert len(done.err.splitlines()) < 8
    assert sorted((runs / run).rglob("*")) == before


def test_which_steps_there_are_is_said(runs):
    with pytest.raises(ConfigError, match="step 6") as caught:
        drawn(opened(runs), "autoguidance:weaker=@6")
    assert "5, 10" in caught.value.details[0]


def test_a_run_that_is_not_there(runs):
    with pytest.raises((ConfigError, DataError), match="nowhere"):
        drawn(opened(runs), f"autoguidance:weaker={runs}/nowhere@5")


@pytest.mark.parametrize("guide", ["cfg", "frequency"])
def test_a_run_without_conditions_or_without_dropout(runs, guide):
    with pytest.raises(ConfigError, match="this network is told of none"):
        opened(runs, "blind").sample(2, guide=guide)
    with pytest.raises(ConfigError, match="condition_dropout is 0 in this run"):
        opened(runs, "never-without").sample(2, guide=guide)


def test_a_run_without_conditions_has_other_guides(runs):
    own = opened(runs, "blind")
    assert torch.equal(own.sample(2, "ddim:steps=4", guide="autoguidance:weaker=@5"), own.sample(2, "ddim:steps=4"))
    lighter = own.sample(2, "ddim:steps=4", guide=as_guide(lambda x: 9 * x.flatten(1).sum(1)))
    assert lighter.mean() > own.sample(2, "ddim:steps=4").mean()


class Light(ClassifierGuide):
    """lighter pictures."""

    name = "light"

    def log_prob(self, x, i, condition):
        return x.flatten(1).sum(1) * (1 + condition["label"])


class LightClean(Light):
    """lighter clean pictures."""

    name = "light-clean"
    clean = True


GUIDES = ["cfg:weight=3", "frequency", "autoguidance:weaker=@5", Light(), LightClean(weight=0.5)]


@pytest.mark.parametrize("guide", GUIDES, ids=str)
def test_an_image_does_not_depend_on_which_others_are_drawn(runs, guide, monkeypatch):
    """To the bit: batches of 1 and of 4, and images in another order."""
    model = opened(runs)
    asked = Asked.of(model.config, {"label": [3, 5, 7]}, [Guide(guide)])
    images = [5, 0, 3, 2]

    def of(numbers, batch):
        return torch.cat(
            list(generate(model.denoiser, model.run, model.config.sampler, 0, numbers, batch, asked=asked))
        )

    assert torch.equal(of(images, 4), of(images, 1))
    assert torch.equal(of(sorted(images), 4)[[3, 0, 2, 1]], of(images, 4))


@pytest.mark.parametrize("guide", GUIDES, ids=str)
def test_networks_that_are_recorded_draw_the_same(runs, guide, monkeypatch):
    """Both of a contrast, each for itself; where a gradient goes through it the network is asked, and no recording."""
    model = opened(runs)
    plain, tape = drawn(model, guide), Tape()
    monkeypatch.setattr(generation, "recorder_for", lambda device: tape)
    assert torch.equal(drawn(model, guide), plain)
    replays = tape.events.count("replay")
    assert replays == 0 if guide == GUIDES[-1] else replays > 0


def test_a_classifier_that_cannot_steer_is_its_author_s_affair(runs):
    with pytest.raises(PluginError, match="log_prob has no gradient"):
        drawn(opened(runs), as_guide(lambda x: x.detach().flatten(1).sum(1)))


def test_another_network_is_loaded_and_recorded_once_for_all_that_is_drawn(runs, monkeypatch):
    """Pictures are drawn a few at a time, and each time it is asked for."""
    model, tape, loads, load = opened(runs), Tape(), [], others.loaded
    plain = drawn(model, "autoguidance:weaker=@5")
    model = opened(runs)
    monkeypatch.setattr(others, "loaded", lambda *args, **how: loads.append(args) or load(*args, **how))
    monkeypatch.setattr(others, "recorder_for", lambda device: tape)
    for _ in range(3):
        assert torch.equal(drawn(model, "autoguidance:weaker=@5"), plain)
    assert len(loads) == 1
    assert tape.events.count("record") == 1
    drawn(model, "autoguidance:weaker=@5:raw")
    assert len(loads) == 2


def test_the_newest_of_another_network_is_looked_for_each_time(runs, tmp_path):
    copied = tmp_path / "other"
    shutil.copytree(runs / "other", copied)
    newest = max(copied.glob("checkpoints/step-*"))
    shutil.move(newest, tmp_path / newest.name)
    model, spec = opened(runs), f"autoguidance:weaker={copied}@last,weight=0"
    before = drawn(model, spec)
    shutil.move(tmp_path / newest.name, newest)
    assert not torch.equal(drawn(model, spec), before)
    assert torch.equal(drawn(model, spec), drawn(opened(runs, "other")))


def test_weights_of_bands_are_brought_to_the_device_once(runs):
    """A copy waits for all that the device has to do."""
    weights.cache_clear()
    drawn(opened(runs), "frequency:weights=[2,4]")
    assert (weights.cache_info().misses, weights.cache_info().hits) == (1, 3)
