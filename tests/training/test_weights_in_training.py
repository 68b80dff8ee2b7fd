"""Weights lie in memory as whoever walks through them wants, and are gone with their trainer."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from runs import ALONE, CPU, UNET, settings

from gendiff.training.trainer import Trainer


def taken(trainer, first, last):
    for step in range(first, last + 1):
        trainer.train_step(trainer.batches[step])
    return {name: weight.clone() for name, weight in trainer.network.state_dict().items()}


def of_four(trainer):
    """Weights, averages and moments that have a layout, by name, of each kind those of the same names."""
    own = dict(trainer.network.named_parameters())
    moments = {name: trainer.weights.optimizer.state[weight] for name, weight in own.items()}
    kinds = [own, *trainer.weights.averages.values()]
    kinds += [{name: state[entry] for name, state in moments.items()} for entry in ("exp_avg", "exp_avg_sq")]
    return [{name: value for name, value in kind.items() if value.ndim == 4} for kind in kinds]


def test_weights_averages_and_moments_are_laid_out_alike_and_back_and_train_on():
    """As a compiled network on a GPU wants them, in the middle of a run."""
    config = settings(UNET, ema=[0.9, 0.99], posthoc=[0.05, 0.1])
    trainer, plain = (Trainer(config, CPU, ALONE) for _ in range(2))
    taken(trainer, 1, 3)
    before = trainer.checkpoint({})
    for memory_format, last in ((torch.channels_last, 6), (torch.contiguous_format, 9)):
        trainer.weights.lay_out(memory_format)
        trainer._renew_step()
        if last == 6:
            after = trainer.checkpoint({})
            for group, named in before.tensors.items():
                assert all(torch.equal(value, after.tensors[group][name]) for name, value in named.items()), group
        taken(trainer, last - 2, last)
        kinds = of_four(trainer)
        assert len(kinds) == 7
        for kind in kinds:
            assert kind.keys() == kinds[0].keys() != set()
            assert all(value.is_contiguous(memory_format=memory_format) for value in kind.values())
    torch.testing.assert_close(trainer.network.state_dict(), taken(plain, 1, 9), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(trainer.weights.averages, plain.weights.averages, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("levels", ["uniform", "log-normal:unbiased=true", "importance"])
def test_a_trainer_that_is_no_more_leaves_no_memory(levels):
    """Nobody waits for the garbage to be collected: there may be no room for two."""
    trainer = Trainer(settings(UNET, levels=levels), CPU, ALONE)
    taken(trainer, 1, 2)
    held = [weakref.ref(trainer.network), weakref.ref(trainer.take_step)]
    gc.collect()
    gc.disable()
    try:
        del trainer
        assert [one() for one in held] == [None, None]
    finally:
        gc.enable()
