"""Determinism: the same bits again on a GPU, where sums are otherwise taken in whichever order their parts are done.

A processor repeats itself anyhow, with as many threads. On a GPU it takes algorithms that are slower, and some operations have
none: those raise.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch

from gendiff.command import option
from gendiff.errors import ConfigError, GendiffError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # read once in a process, by its first matrix product on a GPU
FIXED = (":4096:8", ":16:8")  # workspaces with which cuBLAS repeats itself


def prepare(device: torch.device) -> None:
    """Say to cuBLAS what it must hear before CUDA begins; nothing for a CPU. It stays said in this process.

    Raises `ConfigError` where it is too late for that, or the user has said something else.
    """
    if device.type != "cuda" or os.environ.get(WORKSPACE) in FIXED:
        return
    said = os.environ.get(WORKSPACE)
    if said is None and not torch.cuda.is_initialized():
        os.environ[WORKSPACE] = FIXED[0]
        return
    raise ConfigError(
        f"matrix products on this GPU cannot repeat themselves: {WORKSPACE} is {said or 'not set, and CUDA was used before'}",
        details=[f"allowed: {' or '.join(FIXED)}, from before the first use of CUDA in this process"],
        fix=f"begin Python with {WORKSPACE}={FIXED[0]} in its environment",
        subject="train.deterministic",
    )


@contextmanager
def deterministic(wanted: bool, device: torch.device) -> Iterator[None]:
    """Inside, where it is ``wanted`` on a GPU, torch repeats itself to the bit; what it was told before holds again afterwards.

    Raises `GendiffError` for an operation that cannot.
    """
    if not wanted or device.type != "cuda":
        yield
        return
    cudnn, memory = torch.backends.cudnn, cast(Any, torch.utils.deterministic)  # the latter says nothing of its types
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    of_cudnn, fills = (cudnn.deterministic, cudnn.benchmark), memory.fill_uninitialized_memory
    prepare(device)
    torch.use_deterministic_algorithms(True, warn_only=False)
    cudnn.deterministic, cudnn.benchmark = True, False
    memory.fill_uninitialized_memory = False  # what is not written is not read either
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise _impossible(error) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark = of_cudnn
        memory.fill_uninitialized_memory = fills


def compiling(wanted: bool, device: torch.device) -> dict[str, dict[str, bool]]:
    """What `torch.compile` must be told where its code is to be the same again: to choose by no clock.

    Raises `ConfigError` where this torch has no such compiler.
    """
    if not wanted or device.type != "cuda":
        return {}
    from torch._inductor import config

    if not hasattr(config, "deterministic"):
        raise ConfigError(
            f"the compiler of torch {torch.__version__} chooses kernels by the clock, and not always the same",
            details=["a compiled step repeats itself from torch 2.10 on"],
            fix=f"leave {option('--compile')} out, or {option('--deterministic')}",
            subject="train.compile",
        )
    return {"options": {"deterministic": True}}


def _impossible(error: RuntimeError) -> GendiffError:
    said = " ".join(str(error).split()).partition(". ")[0]
    return GendiffError(
        "an operation of this network or process cannot repeat itself on a GPU",
        details=[said],
        fix=f"start without {option('--deterministic')}",
    )
