"""Rate and optimiser are those of the settings, a function of the step, and go on as they were."""

from __future__ import annotations

import math

import pytest
import torch
from runs import ALONE, CPU, UNET, asked_to_stop_in, create, final, rows, settings, train

from gendiff.errors import ConfigError, Stopped
from gendiff.run.directory import Run
from gendiff.run.layers import Layer, resolve
from gendiff.run.settings import TrainSettings
from gendiff.training.recipe import learning_rate
from gendiff.training.trainer import Trainer

DECAYED = {
    "optimizer": "adamw",
    "weight_decay": 0.1,
    "decay": "cosine",
    "lr_end": 1e-5,
    "warmup": 3,
    "betas": (0.8, 0.9),
}


class TestLearningRate:
    def test_falls_in_a_line(self):
        config = TrainSettings(lr=1.0, warmup=10, steps=110, decay="linear", lr_end=0.2)
        assert [learning_rate(config, step) for step in (1, 5, 10)] == [0.1, 0.5, 1.0]
        assert [learning_rate(config, step) for step in (60, 85, 110)] == pytest.approx([0.6, 0.4, 0.2])

    def test_falls_along_a_cosine(self):
        config = TrainSettings(lr=1.0, warmup=0, steps=120, decay="cosine")
        wanted = [(1 + math.cos(math.pi * step / 120)) / 2 for step in range(1, 121)]
        assert [learning_rate(config, step) for step in range(1, 121)] == pytest.approx(wanted, abs=1e-12)
        assert learning_rate(config, 40) == pytest.approx(0.75)
        assert learning_rate(config, 120) == 0

    @pytest.mark.parametrize("decay", ["linear", "cosine"])
    def test_never_falls_before_the_warm_up_ends_and_never_below_its_end(self, decay):
        config = TrainSettings(lr=1.0, warmup=100, steps=100, decay=decay, lr_end=0.3)
        rates = [learning_rate(config, step) for step in range(1, 201)]
        assert rates[:99] == pytest.approx([step / 100 for step in range(1, 100)])
        assert min(rates[99:]) >= 0.3
        assert rates[150] == pytest.approx(0.3)

    def test_reaches_the_optimiser_and_the_log(self, tmp_path):
        run = create(tmp_path / "run", settings(lr=1e-2, warmup=2, decay="linear", steps=12))
        trainer = train(run)
        assert float(trainer.weights.optimizer.param_groups[0]["lr"]) == 0
        assert [row["lr"] for row in rows(run)] == pytest.approx([9e-3, 6e-3, 3e-3, 0])


def by_hand(weight, gradients, lr, decay, betas, eps=1e-8):
    """AdamW after Loshchilov, Hutter 2019, algorithm 2, in float64."""
    w, m, v = weight.double(), 0.0, 0.0
    for t, gradient in enumerate(gradients, 1):
        g = gradient.double()
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g**2
        w = w - lr * (m / (1 - betas[0] ** t) / ((v / (1 - betas[1] ** t)).sqrt() + eps) + decay * w)
    return w


def test_weights_decay_and_biases_and_norms_do_not():
    config = settings(UNET, lr=1e-2, warmup=0, grad_clip=0, optimizer="adamw", weight_decay=0.5, betas=(0.8, 0.95))
    trainer = Trainer(config, CPU, ALONE)
    begin = {name: weight.detach().clone() for name, weight in trainer.network.named_parameters()}
    gradients = {name: [] for name in begin}
    for step in range(1, 4):
        trainer.train_step(trainer.batches[step])
        for name, weight in trainer.network.named_parameters():
            gradients[name].append(weight.grad.clone())
    for name, weight in trainer.network.named_parameters():
        decay = 0.0 if name.endswith("bias") or ".norm." in name or weight.ndim == 1 else 0.5
        wanted = by_hand(begin[name], gradients[name], 1e-2, decay, (0.8, 0.95))
        torch.testing.assert_close(weight.detach().double(), wanted, rtol=1e-4, atol=1e-6)
    assert {weight.ndim for weight in trainer.network.parameters()} >= {1, 2, 4}


def test_nothing_decays_in_a_step_that_is_not_applied():
    trainer = Trainer(settings(**DECAYED), CPU, ALONE)
    batch = trainer.batches[1]
    batch.x_0[0] = math.nan
    before = {name: weight.clone() for name, weight in trainer.network.state_dict().items()}
    trainer.train_step(batch)
    assert trainer.failures == 1
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.network.state_dict().items())


def test_a_run_with_all_of_it_goes_on_to_the_same_bits(tmp_path):
    plain, stopped = (create(tmp_path / name, settings(UNET, **DECAYED)) for name in ("plain", "stopped"))
    train(plain)
    with pytest.raises(Stopped):
        train(stopped, prepare=asked_to_stop_in(7))
    train(stopped)
    assert final(stopped) == final(plain)
    assert rows(stopped) == rows(plain)
    plain.write_card()
    assert "AdamW 0.001, weight decay 0.1, cosine to 1e-05" in (plain.path / "README.md").read_text()


def test_adamw_without_decay_is_adam_but_for_rounding():
    adam, adamw = (Trainer(settings(optimizer=name), CPU, ALONE) for name in ("adam", "adamw"))
    for trainer in (adam, adamw):
        for step in range(1, 11):
            trainer.train_step(trainer.batches[step])
    torch.testing.assert_close(adamw.network.state_dict(), adam.network.state_dict())


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"weight_decay": 0.1}, "weight_decay = 0.1 is of optimizer=adamw, and this is adam"),
        ({"decay": "cosine", "lr": 1e-4, "lr_end": 1e-3}, "lr_end = 0.001 is above lr = 0.0001"),
        ({"decay": "exponential"}, "constant"),
        ({"betas": (0.9, 1.0)}, "less than 1"),
    ],
)
def test_what_does_not_fit_is_refused(train, said):
    with pytest.raises(ConfigError) as caught:
        resolve([Layer("the test", {"train": train})])
    assert said in str(caught.value)
    assert "train" in caught.value.subject


def test_a_longer_run_says_that_its_rate_falls_anew(tmp_path):
    run = create(tmp_path / "run", settings(decay="cosine", steps=3))
    train(run)
    assert Run.open(run.path, training=True).notes == []
    assert "falls to step 6" in Run.open(run.path, training=True, steps=6).notes[-1]
    plain = create(tmp_path / "plain", settings(steps=3))
    assert Run.open(plain.path, training=True, steps=6).notes == []
