"""What `gendiff data info` says is so: moments, spectrum, duplicates and bad events, for any number of processes."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from gendiff_plugins.data.dead_leaves import DeadLeaves
from gendiff_plugins.data.digits import Digits
from gendiff_plugins.data.gaussian_field import GaussianField

from gendiff.data import Data
from gendiff.datasets.census import census, slope
from gendiff.errors import DataError, Stopped
from gendiff.streams import stream


class Numbers(Data):
    """events that are noise, of which some repeat others and some cannot be read."""

    name = "numbers"
    count: int = 150
    shape: tuple[int, ...] = (3, 5, 7)
    repeats: tuple[tuple[int, int], ...] = ()
    bad: tuple[int, ...] = ()
    shift: float = 0.0

    @property
    def event_shape(self):
        return self.shape

    @property
    def length(self):
        return self.count

    def __getitem__(self, index):
        if index in self.bad:
            raise DataError(f"event {index} is broken", details=["torn"])
        index = dict(self.repeats).get(index, index)
        return torch.randn(self.shape, generator=stream(0, "numbers", index)) + self.shift

    def origin(self, index):
        return f"number-{index}"

    @property
    def fingerprint(self):
        return "numbers/1"


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_moments_are_those_of_all_values(shift):
    data = Numbers(shift=shift)
    x = torch.stack([data[k] for k in range(150)]).double()
    found = census(data)
    assert found.looked_at == 150
    assert found.mean == pytest.approx(x.mean((0, 2, 3)).tolist(), rel=1e-12)
    assert found.contrast == pytest.approx(x.std((0, 2, 3), correction=0).tolist(), rel=1e-9)
    assert (found.least, found.greatest) == (x.min().item(), x.max().item())


def test_any_number_of_processes_sees_the_same():
    data = Numbers(repeats=((9, 3), (149, 3)), bad=(4, 80))
    assert census(data) == census(data, workers=1) == census(data, workers=3)


def test_dead_leaves_are_near_photographs_and_noise_is_flat():
    assert census(DeadLeaves(size=(40, 28)), 200).slope == pytest.approx(-2.0, abs=0.15)
    assert census(GaussianField(size=(32, 48), power=0.0), 200).slope == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("power", [1.0, 2.5])
@pytest.mark.parametrize("shape", [(33, 48), (64,)])
def test_the_slope_is_the_exponent(shape, power):
    from gendiff.frequency import dct_frequency, radius

    rho = radius([dct_frequency(n) for n in shape])
    assert slope(rho.clamp_min(1e-9) ** -power) == pytest.approx(-power, abs=0.02)


def test_no_slope_where_there_are_too_few_frequencies_or_no_power():
    assert census(Numbers(shape=(1, 2, 2))).slope is None
    assert slope(torch.zeros(8, 8, dtype=torch.float64)) is None


def test_duplicates_are_found_wherever_they_are():
    repeats = ((0, 100), (7, 3), (70, 3), (140, 9))
    found = census(Numbers(repeats=repeats))
    assert found.duplicates == [[0, 100], [3, 7, 70], [9, 140]]
    assert census(Numbers()).duplicates == []
    assert census(Numbers(count=1)).duplicates == []


def test_almost_the_same_is_not_the_same():
    class Nearly(Numbers):
        name = "nearly"

        def __getitem__(self, index):
            x = torch.zeros(self.shape)
            x[-1, -1, -1] = torch.tensor(1.0).view(torch.int32).add(index).view(torch.float32)
            return x

    assert census(Nearly()).duplicates == []


def test_bad_events_are_listed_and_the_others_counted():
    found = census(Numbers(bad=(0, 149)))
    assert found.bad == [("number-0", "torn"), ("number-149", "torn")]
    assert found.looked_at == 148
    with pytest.raises(DataError, match="event 0 is broken"):
        census(Numbers(count=3, bad=(0, 1, 2)))


def test_a_part_is_spread_over_the_whole():
    assert census(Numbers(count=10, repeats=((5, 2),)), 4).duplicates == [[2, 5]]  # events 0, 2, 5 and 7
    assert census(Numbers(count=10, repeats=((5, 2), (7, 3))), 4).duplicates == [[2, 5]]
    assert census(Digits(), 10).looked_at == 10
    assert census(Numbers(count=10), 20).looked_at == 10
    assert census(GaussianField(size=(4, 6)), 3).looked_at == 3
    with pytest.raises(ValueError, match="no last event"):
        census(GaussianField(size=(4, 6)))


def test_progress_is_told_and_a_request_to_stop_is_heard():
    seen = []
    census(Numbers(bad=(3,)), watch=lambda *counts: seen.append(counts))
    assert seen == [(0, 150), (64, 150), (128, 150), (150, 150)]

    def stop(done, total):
        if done == 64:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped, match="after 64 of 150 events") as caught:
        census(Numbers(), watch=stop)
    assert caught.value.exit_code == 130
