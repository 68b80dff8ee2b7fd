"""Torch is told to repeat itself, and told nothing any more afterwards; on a CPU it is told nothing at all."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from gendiff.errors import ConfigError, GendiffError
from gendiff.machine import determinism
from gendiff.machine.determinism import WORKSPACE, deterministic, prepare

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def state():
    cudnn = torch.backends.cudnn
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.deterministic,
        cudnn.benchmark,
        torch.utils.deterministic.fill_uninitialized_memory,
    )


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setenv(WORKSPACE, "")  # so that it is put back
    monkeypatch.delenv(WORKSPACE)


@pytest.mark.parametrize("benchmark", [False, True])
def test_settings_are_made_and_undone(monkeypatch, benchmark):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", benchmark)
    before = state()
    with deterministic(True, GPU):
        assert state() == (True, False, True, False, False)
        assert os.environ[WORKSPACE] == ":4096:8"
    assert state() == before
    with pytest.raises(KeyError), deterministic(True, GPU):
        raise KeyError
    assert state() == before


@pytest.mark.parametrize(("wanted", "device"), [(False, GPU), (True, CPU)])
def test_without_it_or_on_a_processor_nothing_is_said(wanted, device):
    before = state()
    with deterministic(wanted, device):
        assert state() == before
    assert WORKSPACE not in os.environ


def test_an_operation_that_cannot_repeat_itself_is_named():
    with pytest.raises(GendiffError, match="cannot repeat itself") as caught, deterministic(True, GPU):
        raise RuntimeError(
            "cumsum_cuda_kernel does not have a deterministic implementation, but you set so. You can turn"
        )
    assert caught.value.details == ("cumsum_cuda_kernel does not have a deterministic implementation, but you set so",)
    assert "deterministic" in caught.value.fix
    assert caught.value.exit_code == 1
    with pytest.raises(RuntimeError, match="something else"), deterministic(True, GPU):
        raise RuntimeError("something else")


def test_it_is_said_before_cuda_begins_or_refused(monkeypatch):
    prepare(CPU)
    assert WORKSPACE not in os.environ
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(ConfigError, match="CUDA was used before") as caught:
        prepare(GPU)
    assert f"{WORKSPACE}=:4096:8" in caught.value.fix
    monkeypatch.setenv(WORKSPACE, ":16:8")
    prepare(GPU)
    assert os.environ[WORKSPACE] == ":16:8"
    monkeypatch.setenv(WORKSPACE, ":4096:2")
    with pytest.raises(ConfigError, match="is :4096:2"):
        prepare(GPU)


def test_the_compiler_chooses_by_no_clock_or_is_refused(monkeypatch):
    from torch import _inductor

    assert determinism.compiling(False, GPU) == determinism.compiling(True, CPU) == {}
    monkeypatch.setattr(_inductor, "config", SimpleNamespace(deterministic=False))
    assert determinism.compiling(True, GPU) == {"options": {"deterministic": True}}
    monkeypatch.setattr(_inductor, "config", object())
    with pytest.raises(ConfigError, match="by the clock"):
        determinism.compiling(True, GPU)
