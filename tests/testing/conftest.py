"""What the tests of the conformance kit share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread(two_threads):
    torch.set_num_threads(1)
