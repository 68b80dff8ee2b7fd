"""gendiff-sine keeps what a blur schedule promises, and is the formula that it says."""

import pytest
import torch
from gendiff.testing import checks

import gendiff_sine as plugin
from gendiff_sine.schedule import Sine


@pytest.mark.parametrize("check", [*checks(Sine()), *checks(Sine(f_max=100.0))], ids=str)
def test_conforms(check):
    check()


def test_is_found_by_name(gendiff_registry):
    registry = gendiff_registry(plugin)
    assert registry.component_class("schedule", "sine") is Sine
    assert registry.problems == []


def test_values_at_the_ends_and_the_middle():
    i = torch.tensor([50.0, 100.0], dtype=torch.float64)
    half, last = Sine(f_max=0.6).f(i, N=100).tolist()
    assert half == pytest.approx(0.3)
    assert last == pytest.approx(0.6)


@pytest.mark.parametrize("N", [2, 9, 1000])
def test_sum_over_all_steps(N):
    total = Sine(f_max=0.6).cumulative(N)[-1].item()
    assert total == pytest.approx(0.6 * (N + 1) / 2)
