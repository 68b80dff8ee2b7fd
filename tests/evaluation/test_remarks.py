"""What an evaluation says of its own numbers: what real events would get, what its reference is, and what says nothing."""

from __future__ import annotations

import json

import pytest
import torch
from command import TINY, run
from gendiff_plugins.features.pixels import Pixels
from gendiff_plugins.features.random_conv import RandomConv

from gendiff.errors import DataError
from gendiff.evaluation import remarks
from gendiff.evaluation.distances import frechet
from gendiff.evaluation.event_set import EventSet, KnownStatistics
from gendiff.evaluation.measuring import evaluate
from gendiff.evaluation.number import Evaluation, Events
from gendiff.evaluation.remarks import Real
from gendiff.evaluation.statistics import Statistics
from gendiff.storage.cache import Cache


def events(x: torch.Tensor, spec: str = "these") -> EventSet:
    return EventSet.of_tensor(x, spec)


def rules(found: Evaluation) -> list[str]:
    return [remark.rule for remark in found.remarks]


def pictures(n: int, rng: torch.Generator) -> torch.Tensor:
    return torch.randn(n, 1, 3, 4, generator=rng)


class TestRealAgainstReal:
    @pytest.mark.parametrize("n", [25, 100, 200, 400])
    def test_it_is_what_new_events_get_on_average(self, n, rng):
        """400 events of reference, and new ones of the same law: what is said from the reference alone is what they get."""
        scale = torch.linspace(0.2, 2, 12)
        draw = lambda count: torch.randn(count, 12, generator=rng) * scale  # noqa: E731
        got, told = [], []
        for _ in range(6):
            reference = draw(400)
            got += [frechet(Statistics.of(draw(n)), Statistics.of(reference)) for _ in range(4)]
            told.append(Real.of(reference, n).distance)
        assert sum(told) / len(told) == pytest.approx(sum(got) / len(got), rel=0.15)

    def test_its_splits_are_of_as_many_events_where_there_are_enough(self, rng):
        rows = torch.randn(50, 4, generator=rng)
        few, many = Real.of(rows, 20), Real.of(rows, 80)
        assert (few.count, few.others, many.count, many.others) == (20, 30, 25, 25)
        assert len(set(few.distances)) == remarks.SPLITS
        assert Real.of(rows, 20) == few  # it follows from the rows

    def test_it_is_kept_and_read_back(self, rng, tmp_path, monkeypatch):
        rows = torch.randn(40, 3, generator=rng)
        real = Real.of(rows, 10, rows, Cache(tmp_path))
        alone = Real.of(rows, 10, None, Cache(tmp_path))
        assert alone.precision is None
        monkeypatch.setattr(remarks, "frechet", None)
        assert Real.of(rows, 10, rows, Cache(tmp_path)) == real
        assert Real.of(rows, 10, None, Cache(tmp_path)) == alone
        with pytest.raises(TypeError):
            Real.of(rows + 1e-3, 10, rows, Cache(tmp_path))

    def test_an_evaluation_says_it_of_each_features(self, rng):
        x, y = pictures(30, rng), pictures(70, rng)
        found = evaluate(events(x), events(y), [Pixels(), RandomConv(width=4)], replicates=2)
        told = [remark for remark in found.remarks if remark.rule == "real-against-real"]
        assert [remark.numbers["name"] for remark in told] == ["fd-pixels", "fd-random-conv"]
        real = Real.of(y.flatten(1), 30, y.flatten(1))
        assert told[0].numbers["value"] == pytest.approx(real.distance)
        assert (told[0].numbers["precision"], told[0].numbers["recall"]) == (real.precision, real.recall)
        assert f"30 real events in place of the samples would get fd-pixels {real.distance:.3g}" in told[0].text
        assert "30 random events against the other 40, 3 times" in told[0].text
        assert "brought to" not in told[0].text
        more = evaluate(events(pictures(60, rng)), events(y), [Pixels()], replicates=2, manifold=False)
        assert "brought to 60 and 70 by 1/n + 1/m" in more.remarks[0].text
        assert more.remarks[0].numbers["precision"] is None

    def test_against_statistics_it_says_what_the_means_alone_cost_and_the_order(self, rng):
        y = pictures(70, rng)
        statistics = Statistics.of(y.flatten(1))
        known = KnownStatistics(Events("y.npz", "s", 70), statistics)
        (told,) = evaluate(events(pictures(30, rng)), known, [Pixels()], replicates=2).remarks
        assert told.numbers["least"] == pytest.approx(float(statistics.covariance.trace()) * (1 / 30 + 1 / 70))
        assert "d/n = 12/30" in told.text
        real = Real.of(y.flatten(1), 30).distance
        assert told.numbers["least"] < real

    def test_a_reference_that_cannot_be_split_says_so(self, rng, monkeypatch):
        monkeypatch.setattr(remarks, "FEWEST", 10)
        (told,) = evaluate(
            events(pictures(9, rng)), events(pictures(9, rng)), [Pixels()], replicates=2, manifold=False
        ).remarks
        assert "9 events of reference cannot say what 9 real ones would get" in told.text


class TestReference:
    def test_that_it_is_what_was_trained_on(self, rng):
        y = pictures(40, rng)

        def of(fingerprint):
            return EventSet(Events("data", fingerprint, 40), (1, 3, 4), events(y).at)

        def ask(reference, on):
            return evaluate(events(pictures(20, rng)), reference, [Pixels()], replicates=2, trained_on=on)

        assert "training-data" in rules(ask(of("d/1"), "d/1"))
        assert "training-data" not in rules(ask(of("d/1"), "d/2"))
        assert "training-data" not in rules(ask(of(""), ""))

    def test_that_it_is_the_samples_themselves(self, rng):
        x = pictures(20, rng)
        assert rules(evaluate(events(x), events(x), [Pixels()], replicates=2))[0] == "same-events"
        assert "same-events" not in rules(evaluate(events(x), events(x.flip(0)), [Pixels()], replicates=2))


class TestSaysNothing:
    def test_a_wide_interval(self, rng):
        found = evaluate(events(pictures(8, rng)), events(pictures(60, rng) * 1.3), [Pixels()], replicates=2)
        wide = {name for name in ("precision-pixels", "recall-pixels") if found[name].high - found[name].low > 0.5}
        told = {remark.numbers["name"]: remark.text for remark in found.remarks if remark.rule == "says-nothing"}
        assert wide <= told.keys()
        assert wide
        assert all("8 samples and 60 events are too few for 3 neighbours" in text for text in told.values())

    def test_what_real_events_do_not_reach_either(self, rng):
        x, y = (torch.randn(n, 1, 1, 2, generator=rng) for n in (300, 400))
        shares = evaluate(events(x), events(y), [Pixels()]).numbers[2:]
        assert remarks.says_nothing(shares, Real((1.0,), 200, 200, precision=0.9, recall=0.8)) == []
        (told,) = remarks.says_nothing(shares, Real((1.0,), 200, 200, precision=0.9, recall=0.31))
        assert told.text.startswith("recall-pixels says next to nothing: real events get 0.31 themselves")

    def test_enough_events_say_something(self, rng):
        x, y = (torch.randn(n, 1, 1, 2, generator=rng) for n in (300, 400))
        assert "says-nothing" not in rules(evaluate(events(x), events(y), [Pixels()]))


class TestStored:
    def test_remarks_are_read_back_and_older_files_have_none(self, rng, tmp_path):
        found = evaluate(events(pictures(20, rng)), events(pictures(30, rng)), [Pixels()], replicates=2)
        found.save(tmp_path / "e.json")
        assert Evaluation.load(tmp_path / "e.json") == found
        table = json.loads((tmp_path / "e.json").read_text())
        older = {key: value for key, value in table.items() if key not in ("remarks", "neighbours")}
        assert Evaluation.of_json(older).remarks == ()
        for wrong in ({"remarks": 3}, {"remarks": [{"rule": "x"}]}, {"remarks": [[]]}, {"neighbours": [3]}):
            with pytest.raises(DataError):
                Evaluation.of_json({**table, **wrong})


def test_the_command_shows_them(tmp_path):
    assert run("train", *TINY, "--out", tmp_path / "r").code == 0
    ask = ("evaluate", tmp_path / "r", "--n", 24, "--sampler", "ddim:steps=3", "--replicates", 3)
    done = run(*ask)
    assert done.code == 0, done.err
    lines = [line for line in done.out.splitlines() if line.startswith(("training-data:", "real-against-real:"))]
    assert len(lines) == 2
    assert "24 real events in place of the samples would get fd-random-conv" in lines[1]
    told = run(*ask, "--json").json["remarks"]
    assert [f"{one['rule']}: {one['text']}" for one in told if one["rule"] != "says-nothing"] == lines
    other = run(*ask, "--data", "gaussian-field:size=8,channels=1", "--reference-n", 100, "--json").json
    assert "training-data" not in [one["rule"] for one in other["remarks"]]
    endless = ("train", *TINY, "--data", "dead-leaves", "--size", 8, "--out", tmp_path / "e")
    assert run(*endless).code == 0  # each event is seen once, so nothing can be repeated
    drawn = run("evaluate", tmp_path / "e", *ask[2:], "--reference-n", 60, "--json").json
    assert "training-data" not in [one["rule"] for one in drawn["remarks"]]


def test_a_terminal_breaks_no_name(monkeypatch):
    from gendiff_cli import console
    from rich.console import Console
    from rich.text import Text

    terminal = Console(force_terminal=True, width=30, highlight=False, soft_wrap=True)
    monkeypatch.setattr(console, "out", lambda: terminal)
    with terminal.capture() as capture:
        console.paragraph(
            "real-against-real: 12 real events would get fd-random-conv 2.18, gendiff evaluate --reference-n 9", 2
        )
    lines = Text.from_ansi(capture.get()).plain.splitlines()
    assert max(map(len, lines)) <= 30
    assert {"real-against-real:", "fd-random-conv", "--reference-n"} <= {
        word for line in lines for word in line.split()
    }
