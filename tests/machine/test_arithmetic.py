"""In which precision a network is computed where nothing is said, and what is said of a precision that is slow."""

from __future__ import annotations

import warnings

import pytest
import torch
from runs import ALONE, create, settings, train

from gendiff.machine import arithmetic
from gendiff.machine.arithmetic import autocast, chosen, is_slow
from gendiff.run.trained import TrainedModel
from gendiff.training.trainer import Trainer

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
FLAGS = "processor\t: 0\nflags\t\t: fpu sse2 avx2 {}\n"


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_is_what_the_device_computes_well(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert chosen("auto", GPU) == precision
    assert autocast("auto", GPU) == arithmetic.DTYPES[precision]
    assert chosen("auto", CPU) == "fp32"
    assert autocast("auto", CPU) is None
    for said in ("fp32", "bf16"):
        assert chosen(said, CPU) == chosen(said, GPU) == said


@pytest.fixture
def processor(monkeypatch, tmp_path):
    """Let this machine have a processor with these flags."""

    def with_flags(flags: str) -> None:
        file = tmp_path / "cpuinfo"
        file.write_text(FLAGS.format(flags))
        monkeypatch.setattr(arithmetic, "CPUINFO", file)

    return with_flags


@pytest.mark.parametrize(
    ("flags", "slow"), [("avx512f", True), ("avx512_bf16", False), ("amx_bf16", False), ("asimd bf16", False)]
)
def test_a_processor_without_units_for_bf16_is_slow_in_it(processor, flags, slow):
    processor(flags)
    assert is_slow("bf16", CPU) is slow
    assert not is_slow("fp32", CPU)
    assert not is_slow("auto", CPU)
    assert not is_slow("bf16", GPU)


def test_one_that_does_not_say_is_believed(monkeypatch, tmp_path):
    monkeypatch.setattr(arithmetic, "CPUINFO", tmp_path / "nothing")
    assert not is_slow("bf16", CPU)


def test_it_is_said_before_a_run_and_before_pictures(processor, tmp_path):
    processor("avx2")
    with pytest.warns(UserWarning, match="this processor has no units for bf16"):
        Trainer(settings(precision="bf16"), CPU, ALONE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trainer(settings(), CPU, ALONE)
        train(run := create(tmp_path / "run", settings(steps=2)))
    with pytest.warns(UserWarning, match="this processor has no units for bf16"):
        TrainedModel.load(run, CPU, precision="bf16")
