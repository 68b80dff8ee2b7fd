"""What every test shares."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def rng() -> torch.Generator:
    """A generator of its own for each test."""
    return torch.Generator().manual_seed(20220711)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The same thread count everywhere, for it changes the last bits; and one, for threads that wait for a core take its time."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Tests keep what they compute to themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENDIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
