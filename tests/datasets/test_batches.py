"""Batches are a function of (seed, step): the same for any number of processes and workers, from any step on."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gendiff import Data
from gendiff.datasets.batches import Batch, Batches
from gendiff.errors import ConfigError, DataError
from gendiff.machine import memory
from gendiff.streams import stream

CPU = torch.device("cpu")
PINNED_SEED = 2603892239663150996
PINNED_INDEX = [0, 2, 5, 6]
PINNED_I = [470, 811, 230, 67]


@dataclass(frozen=True)
class Numbers:
    """Event k is full of k."""

    length: int | None
    broken: int | None = None
    name: str = "numbers"
    event_shape: tuple[int, ...] = (1, 2, 3)

    def __getitem__(self, index):
        if index == self.broken:
            raise DataError(f"number {index} is broken", details=["a detail"], fix="mend it")
        return torch.full(self.event_shape, float(index))


def equal(one: Batch, other: Batch) -> bool:
    return all(torch.equal(getattr(one, key), getattr(other, key)) for key in ("index", "x_0", "i", "eps"))


def joined(parts: list[Batch]) -> Batch:
    return Batch(*(torch.cat([getattr(part, key) for part in parts]) for key in ("index", "x_0", "i", "eps")))


lengths = st.one_of(st.none(), st.integers(8, 40))


class TestAFunctionOfSeedAndStep:
    @hypothesis_settings(max_examples=60, deadline=None)
    @given(seed=st.integers(0, 2**40), step=st.integers(1, 10**6), length=lengths, N=st.integers(2, 1000))
    def test_any_number_of_processes(self, seed, step, length, N):
        whole = Batches(Numbers(length), N, seed, 8)[step]
        for world in (2, 4, 8):
            parts = [Batches(Numbers(length), N, seed, 8, rank, world)[step] for rank in range(world)]
            assert [len(part.index) for part in parts] == [8 // world] * world
            assert equal(joined(parts), whole)

    @pytest.mark.parametrize("workers", [1, 2])
    @pytest.mark.parametrize("length", [10, None])
    def test_any_number_of_workers_from_any_step(self, workers, length):
        """Batches of 4 of 10 events: every other step crosses the end of an epoch."""
        batches = Batches(Numbers(length), 20, 7, 4)
        alone = dict(enumerate(batches.loader(1, 12, 0, CPU), start=1))
        assert list(alone) == list(range(1, 13))
        first = 6
        later = list(batches.loader(first, 12, workers, CPU))
        assert len(later) == 7
        for step, batch in enumerate(later, start=first):
            assert equal(batch, alone[step])

    def test_order_of_asking_does_not_matter(self):
        batches = Batches(Numbers(10), 20, 7, 4)
        forward = {step: batches[step] for step in range(1, 30)}
        for step in (29, 3, 17, 3, 1):
            assert equal(Batches(Numbers(10), 20, 7, 4)[step], forward[step])

    def test_what_it_yields(self):
        batch = Batches(Numbers(10), 20, 7, 4)[3]
        assert batch.index.dtype == batch.i.dtype == torch.int64
        assert batch.x_0.shape == batch.eps.shape == (4, 1, 2, 3)
        assert batch.x_0[:, 0, 0, 0].tolist() == batch.index.tolist()

    def test_streams_are_the_same_on_every_machine(self):
        """Values written down once: another number means that old runs cannot be reproduced any more."""
        assert stream(0, "train", 1, 2).initial_seed() == PINNED_SEED
        batch = Batches(Numbers(10), 1000, 0, 4)[1]
        assert batch.index.tolist() == PINNED_INDEX
        assert batch.i.tolist() == PINNED_I

    def test_global_randomness_is_neither_used_nor_changed(self):
        torch.manual_seed(1)
        one = Batches(Numbers(10), 20, 7, 4)[3]
        state = torch.random.get_rng_state()
        torch.manual_seed(2)
        assert equal(Batches(Numbers(10), 20, 7, 4)[3], one)
        torch.manual_seed(1)
        assert torch.equal(torch.random.get_rng_state(), state)


@dataclass(frozen=True)
class Arrows(Numbers):
    """Event k points to the right: its columns are k, k + 1/3, k + 2/3."""

    def __getitem__(self, index):
        return super().__getitem__(index) + torch.arange(3) / 3

    def mirrored(self, index):
        return self[index].flip(-1)


class TestMirrored:
    """With ``flip`` half of the pictures are mirror images, as a function of the seed, the step and the place."""

    @staticmethod
    def mirrored(batch: Batch) -> list[bool]:
        for index, event in zip(batch.index, batch.x_0, strict=True):
            right = float(index) + torch.arange(3) / 3
            assert torch.equal(event[0, 0], right) or torch.equal(event[0, 0], right.flip(0))
            assert torch.equal(event[0, 0], event[0, 1])
        return (batch.x_0[:, 0, 0, 0] > batch.x_0[:, 0, 0, 2]).tolist()

    def test_half_of_them_and_all_else_as_without(self):
        plain, flipped = (Batches(Arrows(20), 20, 7, 20, flip=flip) for flip in (False, True))
        marks = []
        for step in range(1, 41):
            one, other = plain[step], flipped[step]
            assert all(torch.equal(getattr(one, key), getattr(other, key)) for key in ("index", "i", "eps"))
            assert not any(self.mirrored(one))
            marks += self.mirrored(other)
        assert 0.44 < sum(marks) / len(marks) < 0.56  # 800 of them, std 0.018

    def test_of_one_event_both_come_up(self):
        batches = Batches(Arrows(4), 20, 7, 4, flip=True)
        by_event = {index: set() for index in range(4)}
        for step in range(1, 30):
            batch = batches[step]
            for index, mark in zip(batch.index.tolist(), self.mirrored(batch), strict=True):
                by_event[index].add(mark)
        assert all(marks == {False, True} for marks in by_event.values())

    def test_any_number_of_processes_and_workers_from_any_step(self):
        whole = Batches(Arrows(None), 20, 7, 8, flip=True)
        parts = [Batches(Arrows(None), 20, 7, 8, rank, 4, flip=True)[5] for rank in range(4)]
        assert equal(joined(parts), whole[5])
        for step, batch in enumerate(whole.loader(4, 7, 2, CPU), start=4):
            assert equal(batch, whole[step])

    def test_signals_have_no_left_and_right(self):
        with pytest.raises(ConfigError, match=r"events of shape \(1, 48\) have no left and right") as caught:
            Batches(Numbers(10, event_shape=(1, 48)), 20, 7, 4, flip=True)
        assert caught.value.subject == "data.flip"


class TestOrder:
    @hypothesis_settings(max_examples=40, deadline=None)
    @given(seed=st.integers(0, 10**6), length=st.integers(1, 30), share=st.integers(0, 29))
    def test_every_epoch_is_a_permutation(self, seed, length, share):
        batch = share % length + 1
        batches = Batches(Numbers(length), 20, seed, batch)
        steps = -(-4 * length // batch)
        index = torch.cat([batches[step].index for step in range(1, steps + 1)])[: 4 * length]
        for epoch in index.reshape(4, length):
            assert epoch.sort().values.tolist() == list(range(length))

    def test_epochs_and_seeds_have_orders_of_their_own(self):
        epochs = [
            tuple(Batches(Numbers(20), 20, seed, 20)[step].index.tolist()) for seed in range(3) for step in range(1, 5)
        ]
        assert len(set(epochs)) == len(epochs)

    def test_endless_data_are_counted_through(self):
        batches = Batches(Numbers(None), 20, 7, 4)
        index = torch.cat([batches[step].index for step in range(1, 9)])
        assert index.tolist() == list(range(32))


class TestNoise:
    def test_every_step_of_the_process_occurs_equally_often(self):
        batches = Batches(Numbers(None), 20, 7, 100)
        i = torch.cat([batches[step].i for step in range(1, 21)])
        counts = torch.bincount(i, minlength=21)
        assert counts[0] == 0
        assert len(counts) == 21
        chi_square = ((counts[1:] - 100.0) ** 2 / 100).sum()
        assert 5 < chi_square < 45  # 19 degrees of freedom: 99.9 % lie between

    def test_noise_is_standard_normal_and_never_repeats(self):
        batches = Batches(Numbers(10), 20, 7, 10)
        eps = torch.cat([batches[step].eps for step in range(1, 201)]).flatten(1)
        assert abs(eps.mean()) < 0.04
        assert abs(eps.var() - 1) < 0.06
        assert len(eps.unique(dim=0)) == 2000
        correlation = torch.corrcoef(torch.stack([eps[:-1].flatten(), eps[1:].flatten()]))[0, 1]
        assert abs(correlation) < 0.04

    def test_seeds_differ(self):
        one, other = (Batches(Numbers(10), 1000, seed, 10)[1] for seed in (0, 1))
        assert not torch.equal(one.eps, other.eps)
        assert not torch.equal(one.i, other.i)


class TestRefusals:
    def test_a_batch_that_cannot_be_split(self):
        with pytest.raises(ConfigError, match="a batch of 6 cannot be split over 4 processes") as caught:
            Batches(Numbers(10), 20, 0, 6, rank=0, world=4)
        assert caught.value.exit_code == 2
        assert caught.value.subject == "train.batch"

    def test_a_batch_larger_than_the_data(self):
        Batches(Numbers(10), 20, 0, 10)
        with pytest.raises(ConfigError, match="a batch of 11 is larger than the data set of 10 events") as caught:
            Batches(Numbers(10), 20, 0, 11)
        assert caught.value.subject == "train.batch"

    def test_no_data(self):
        with pytest.raises(DataError, match="data 'numbers' is empty") as caught:
            Batches(Numbers(0), 20, 0, 1)
        assert caught.value.exit_code == 4

    @pytest.mark.parametrize("workers", [0, 2])
    def test_a_bad_event_is_named_wherever_it_is_read(self, workers):
        loader = Batches(Numbers(None, broken=9), 20, 0, 4).loader(1, 5, workers, CPU)
        assert len([next(loader) for _ in range(2)]) == 2
        with pytest.raises(DataError) as caught:
            next(loader)
        assert caught.value.what == "number 9 is broken"  # not a worker's traceback
        assert (caught.value.details, caught.value.fix) == (("a detail",), "mend it")


def test_batches_can_be_sent_to_workers():
    batches = Batches(Numbers(10), 20, 7, 4, rank=1, world=2)
    assert equal(pickle.loads(pickle.dumps(batches))[5], batches[5])


def test_built_in_data_can_be_sent_to_workers():
    from gendiff import Data

    for spec in ("digits", "dead-leaves:size=8", "gaussian-field:size=8"):
        batches = Batches(Data.model_validate(spec), 20, 7, 4)
        before = batches[2]  # whatever it caches must travel too, or be read again
        assert equal(pickle.loads(pickle.dumps(batches))[2], before)


def test_a_batch_moves_whole():
    batch = Batches(Numbers(10), 20, 7, 4)[5]
    assert equal(batch.to(CPU), batch)


class Endless(Data):
    name = "endless-of-a-test"
    size: int = 64

    @property
    def event_shape(self):
        return (3, self.size, self.size)

    @property
    def length(self):
        return None

    @property
    def fingerprint(self):
        return "endless"

    def __getitem__(self, index):
        raise AssertionError("nothing is read of a batch that is too large")


def test_a_batch_that_no_memory_holds_is_refused_before_anything_is_made(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 10**9)
    with pytest.raises(ConfigError) as refused:
        Batches(Endless(), 100, 0, 100_000)
    assert refused.value.subject == "train.batch"
    assert "a batch of 100000 events of 3x64x64 is too large" in str(refused.value)
    assert "it needs 10,330,400,000 bytes at least, and 1,000,000,000 are free" in str(refused.value)
    assert Batches(Endless(), 100, 0, 100_000, 3, 20).positions == range(15_000, 20_000)  # one of many machines


def test_memory_is_finite_where_the_machine_says_so():
    assert 0 < memory.available() < float("inf")
