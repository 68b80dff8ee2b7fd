"""What every test shares."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

GPU = Path(__file__).parent / "gpu"


def asks_for_a_gpu(config: pytest.Config) -> bool:
    """Whether the tests of a GPU are named: no other run collects them."""
    return any(Path(str(word).partition("::")[0]).resolve().is_relative_to(GPU) for word in config.args)


def pytest_configure(config: pytest.Config) -> None:
    """All other tests are those of a CPU, also where there is a GPU: commands would take it unasked, and no fork can use it."""
    if not asks_for_a_gpu(config):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the tests of a GPU to those who name them."""
    return True if collection_path.is_relative_to(GPU) and not asks_for_a_gpu(config) else None


@pytest.fixture
def rng() -> torch.Generator:
    """A generator of its own for each test."""
    return torch.Generator().manual_seed(20220711)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The same thread count everywhere, for it changes the last bits; and one, for threads that wait for a core take its time."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def as_in_a_terminal():
    """Ctrl-C reaches who is started here, also where the tests themselves run in the background, which ignores it."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(autouse=True, scope="session")
def silent_processor(tmp_path_factory):
    """Whether the processor has units for bf16, which commands say where it has none, is not what tests hang on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gendiff.machine.arithmetic.CPUINFO", tmp_path_factory.mktemp("proc") / "cpuinfo")
        yield


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Tests keep what they compute to themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENDIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
