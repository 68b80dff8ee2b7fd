"""What the tests of work that several share have in common."""

from __future__ import annotations

import pytest
import torch
from compared import done
from plans import TWO, plan_of

from gendiff.machine.jobs import ALONE


@pytest.fixture(scope="module")
def plan():
    torch.set_num_threads(1)
    return plan_of(*TWO, n=20, evaluations=(2, 4))


@pytest.fixture(scope="module")
def alone(plan, tmp_path_factory):
    """One after the other, in this process."""
    torch.set_num_threads(1)
    return done(tmp_path_factory.mktemp("alone") / "c", plan, ALONE)
