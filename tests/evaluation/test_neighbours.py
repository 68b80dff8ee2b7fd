"""Nearest training events: exact, in little memory, and a model that repeats its training events is caught."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from command import TINY, run
from gendiff_plugins.features.pixels import Pixels
from gendiff_plugins.features.random_conv import RandomConv
from PIL import Image
from scipy import stats

from gendiff.data import Data
from gendiff.datasets.pictures import save_event
from gendiff.evaluation import neighbours as module
from gendiff.evaluation.event_set import EventSet
from gendiff.evaluation.neighbours import chance, nearest, neighbours
from gendiff.evaluation.number import Evaluation


def dense(queries, rows, own=None):
    """Every difference at once."""
    d = (queries.double()[:, None] - rows.double()).square().sum(2).sqrt()
    if own is not None:
        for k, place in enumerate(own.tolist()):
            if place >= 0:
                d[k, place] = math.inf
    return d.min(1)


class TestNearest:
    @pytest.mark.parametrize("chunk", [1, 7, 64])
    @pytest.mark.parametrize("held", [2**24, 50])
    def test_it_is_the_smallest_of_all_distances(self, chunk, held, rng, monkeypatch):
        monkeypatch.setattr(module, "CHUNK", held)
        queries, rows = torch.randn(23, 5, generator=rng) + 40, torch.randn(64, 5, generator=rng) + 40
        own = torch.randint(-1, 64, (23,), generator=rng)
        for of in (None, own):
            found, wanted = nearest(queries, rows.split(chunk), of), dense(queries, rows, of)
            torch.testing.assert_close(found.distance, wanted.values, rtol=1e-12, atol=0)
            assert torch.equal(found.index, wanted.indices)

    def test_what_is_equal_is_at_zero_and_the_first_of_equals_is_taken(self, rng):
        rows = 1e4 * torch.randn(9, 6, generator=rng)
        rows[7] = rows[2]
        found = nearest(rows[[2, 5]], rows.split(4))
        assert found.distance.tolist() == [0, 0]
        assert found.index.tolist() == [2, 5]
        again = nearest(rows[[2, 5]], rows.split(4), torch.tensor([2, 5]))
        assert again.index[0] == 7
        assert again.distance[1] > 0

    def test_a_nearby_row_far_from_the_origin_is_measured_exactly(self):
        rows = torch.tensor([[1e6, 0.0], [1e6, 1.0]], dtype=torch.float64)
        found = nearest(torch.tensor([[1e6, 1 / 1024]], dtype=torch.float64), [rows])
        assert found.distance.item() == 1 / 1024

    def test_no_more_is_held_than_a_chunk(self, monkeypatch):
        """Of 50 000 rows and 300 queries: the largest product that is computed."""
        largest = 0
        original = torch.addmm

        def watched(a, x, y, **options):
            nonlocal largest
            largest = max(largest, x.numel(), y.numel(), len(x) * y.shape[1])
            return original(a, x, y, **options)

        monkeypatch.setattr(torch, "addmm", watched)
        monkeypatch.setattr(module, "CHUNK", 2**16)
        rows = torch.arange(50_000.0)[:, None].expand(-1, 3)
        found = nearest(torch.tensor([[3.2] * 3, [49_999.9] * 3]).repeat(150, 1), rows.split(module.ROWS))
        assert largest <= 2**16
        assert found.index[:2].tolist() == [3, 49_999]


@pytest.mark.parametrize(
    ("closer", "n", "within", "count"), [(0, 40, 1, 99), (3, 40, 1, 99), (40, 40, 2, 7), (17, 60, 5, 20)]
)
def test_chance_is_beta_binomial(closer, n, within, count):
    wanted = stats.betabinom(n, within, count + 1 - within).sf(closer - 1)
    assert chance(closer, n, within, count) == pytest.approx(wanted, rel=1e-6)


def pictures(n: int, rng: torch.Generator) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(torch.randn(n, 3, 8, 10, generator=rng), 3, 1)


def events(x: torch.Tensor, spec: str) -> EventSet:
    return EventSet.of_tensor(x, spec)


def asked(samples, training, others=None, **options):
    spaces = [Pixels(), RandomConv(width=4)]
    rows = [space.extract(samples) for space in spaces]
    return neighbours(rows, spaces, events(training, "training"), others and events(others[0], "held-out"), **options)


class TestNeighbours:
    def test_a_model_that_repeats_its_training_events_is_caught(self, rng):
        """A tenth of its samples are training events, but for the rounding to 8 bits."""
        training, new = pictures(300, rng), pictures(200, rng)
        samples = torch.cat([training[40:60] + 0.002 * torch.randn(20, 3, 6, 8, generator=rng), new[20:]])
        for others in (None, [pictures(150, rng)]):
            for one in asked(samples, training, others):
                assert 20 <= one.closer < 30
                assert one.chance < 1e-4
                assert "they repeat training events" in one.alarm
                assert (one.others is None) == (others is None)
                assert (one.count, one.n) == (300 if others is None else 150, 200)

    def test_new_events_are_not(self, rng):
        alarms = 0
        for _ in range(20):
            for one in asked(pictures(60, rng), pictures(90, rng), [pictures(80, rng)]):
                alarms += bool(one.alarm)
                assert one.expected == pytest.approx(60 / 81)
        assert alarms == 0

    def test_each_number_is_that_of_every_distance(self, rng):
        samples, training, others = pictures(30, rng), pictures(70, rng), pictures(40, rng)
        (one, _) = asked(samples, training, [others])
        d, of_others = (dense(x.flatten(1), training.flatten(1)).values for x in (samples, others))
        assert one.threshold == pytest.approx(float(of_others.min()))
        assert one.closer == int((d <= of_others.min()).sum())
        assert (one.median, one.median_of_others) == (
            pytest.approx(float(d.median())),
            pytest.approx(float(of_others.median())),
        )
        alone = asked(samples, training)[0]
        left_out = dense(training.flatten(1), training.flatten(1), torch.arange(70)).values
        assert alone.threshold == pytest.approx(float(left_out.min()))
        assert alone.within == 2  # two events that are nearest to each other are so by the same distance

    def test_equal_training_events_are_no_reason_for_an_alarm(self, rng):
        training = pictures(100, rng)
        training[50:60] = training[:10]
        (one, _) = asked(pictures(80, rng), training)
        assert (one.threshold, one.within, one.closer, one.alarm) == (0, 20, 0, "")
        (copied, _) = asked(training[:40], training)
        assert (copied.closer, copied.identical) == (40, 40)
        assert copied.alarm

    def test_others_that_are_training_events_after_all_do_not_count(self, rng):
        """As where a run of some of the events is held against all: else the nearest of the others are at 0, and hide copies."""
        training, new = pictures(60, rng), pictures(80, rng)
        rounded = training + 0.003 * torch.rand(60, 3, 6, 8, generator=rng)
        samples = torch.cat([training[:30] + 0.02, new[:20]])
        for one in asked(samples, training, [torch.cat([rounded[:40], new[20:]])], grain=1 / 255):
            assert (one.known, one.count) == (40, 60)
            assert one.closer >= 30
            assert one.alarm
        assert "(40 that are training events left out)" in one.remark.text
        blind = asked(samples, training, [torch.cat([rounded[:40], new[20:]])])[0]
        assert (blind.known, blind.alarm) == (0, "")
        (alone, _) = asked(samples, training, [rounded], grain=1 / 255)
        assert (alone.others, alone.count) == (None, 60)

    def test_those_that_are_nearest_are_shown_with_what_they_are_nearest_to(self, rng):
        training = pictures(50, rng)
        samples = torch.cat([pictures(10, rng), training[[31]] + 0.01])
        near = asked(samples, training, shown=4, origin="photo {}".format)
        assert near[0].closest[0] == near[0].closest[0].__class__(
            10, 31, "photo 31", pytest.approx(0.01 * (3 * 6 * 8) ** 0.5, rel=1e-4)
        )
        assert [one.sample for one in near[0].closest] == [one.sample for one in near[1].closest]
        assert len(near[0].closest) == 4
        of = dense(samples.flatten(1), training.flatten(1))
        for one in near[0].closest:
            assert (one.event, one.distance) == (
                int(of.indices[one.sample]),
                pytest.approx(float(of.values[one.sample])),
            )


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "r"
    done = run("train", *TINY, "--out", path)
    assert done.code == 0, done.err
    return path


QUICK = ("--n", 24, "--sampler", "ddim:steps=3", "--replicates", 3)


class TestCommand:
    @pytest.mark.slow
    def test_it_counts_and_draws(self, trained, tmp_path):
        done = run("evaluate", trained, *QUICK, "--neighbours", "--json", "--out", tmp_path / "n.json")
        assert done.code == 0, done.err
        found = Evaluation.load(tmp_path / "n.json")
        assert {"closer-pixels", "closer-random-conv"} <= {number.name for number in found.numbers}
        near = {one["space"]: one for one in found.neighbours}
        for space, one in near.items():
            number = found[f"closer-{space}"]
            assert number.value == one["closer"] / 24
            assert (number.samples.n, number.reference.n, number.drawing.seed) == (24, 1797, 0)
            assert number.low <= number.value <= number.high
            assert (one["others"], one["count"], len(one["closest"])) == (None, 1797, 16)
        texts = [remark.text for remark in found.remarks if remark.rule == "neighbours"]
        assert len(texts) == 2
        assert all("training events are to another one (each left out in turn)" in text for text in texts)
        assert done.json["picture"] == str(tmp_path / "n.png")
        with Image.open(tmp_path / "n.png") as picture:
            assert picture.width > picture.height > 500

    @pytest.mark.slow
    def test_a_number_may_follow_and_numbers_stay_what_they_are(self, trained, tmp_path):
        plain = run("evaluate", trained, *QUICK, "--json").json["numbers"]
        for k, words in enumerate((("--neighbours", 3), ("--neighbours=3",))):
            done = run("evaluate", *words, trained, *QUICK, "--out", tmp_path / f"{k}.json", "--json")
            assert done.code == 0, done.err
            assert len(done.json["neighbours"][0]["closest"]) == 3
            assert done.json["numbers"][: len(plain)] == plain
        assert run("evaluate", trained, *QUICK, "--neighbours", 0).code == 2
        assert run("evaluate", trained, *QUICK, "--neighbours", 97).code == 2

    def test_events_of_another_reference_are_those_that_were_not_trained_on(self, trained, tmp_path):
        data = ("--data", "gaussian-field:size=8,channels=1", "--reference-n", 60)
        done = run("evaluate", trained, *QUICK, *data, "--neighbours", 2, "--out", tmp_path / "n.json")
        assert done.code == 0, done.err
        (pixels, _) = Evaluation.load(tmp_path / "n.json").neighbours
        assert (pixels["others"]["n"], pixels["count"], pixels["training"]["spec"]) == (60, 60, "digits")
        assert "events of gaussian-field:size=8, which it was not trained on, are: " in done.out

    def test_copies_in_a_folder_are_caught(self, tmp_path):
        digits, folder = Data("digits"), tmp_path / "copies"
        folder.mkdir()
        for k in range(20):
            save_event(folder, k, digits[7 * k])
        done = run("evaluate", folder, "--data", "digits", "--neighbours", "--out", tmp_path / "n.json")
        assert done.code == 0, done.err
        assert "20 of 20 samples are as near to a training event in pixels" in done.out
        assert "20 are identical to one" in done.out  # but for the rounding to 8 bits
        assert "warning: 20 of 20 samples are as near to training events in pixels as hardly any event is" in done.out

    def test_a_mistake_is_explained(self, trained, tmp_path):
        for source, words, said in (
            ("digits", ("--data", "digits"), "say where the numbers go: --out numbers.json"),
            ("digits", ("--save-statistics", tmp_path / "s.npz", "--out", tmp_path / "e.json"), "there are none"),
        ):
            done = run("evaluate", source, "--n", 24, *words, "--neighbours")
            assert (done.code, said in done.err) == (2, True), done.err
