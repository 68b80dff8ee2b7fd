"""Event sets: rows that are the same however events come, rows that are kept, and folders of samples as they are."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from gendiff_plugins.features.pixels import Pixels
from gendiff_plugins.features.random_conv import RandomConv
from PIL import Image
from processes import component

from gendiff import Data
from gendiff.datasets import pictures
from gendiff.errors import ConfigError, DataError
from gendiff.evaluation import event_files
from gendiff.evaluation.event_set import CHUNK, EventSet, KnownStatistics, go_through, spread
from gendiff.evaluation.number import Events
from gendiff.evaluation.statistics import Statistics
from gendiff.storage.cache import Cache
from gendiff.testing import SmoothNoise

CPU = torch.device("cpu")
DATA = SmoothNoise(shape=(3, 5, 7))


class Counted(RandomConv):
    """random-conv that counts the batches it sees."""

    seen: ClassVar[list[int]] = []

    def extract(self, events):
        self.seen.append(len(events))
        return super().extract(events)


@pytest.fixture
def counted() -> Counted:
    Counted.seen.clear()
    return Counted(width=4)


class TestGoingThrough:
    @pytest.mark.parametrize("size", [1, 5, 16, 37])
    def test_rows_are_the_same_to_the_bit_however_events_come(self, size, rng):
        events = torch.randn(37, 3, 5, 7, generator=rng)
        whole = go_through(EventSet.of_tensor(events, "here"), [RandomConv(), Pixels()], CPU, keep=[0, 4, 36])
        parts = EventSet(Events("here", "", 37), (3, 5, 7), lambda numbers: events[list(numbers)].split(size))
        found = go_through(parts, [RandomConv(), Pixels()], CPU, keep=[0, 4, 36])
        assert found.about == whole.about
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(found.rows, whole.rows, strict=True))
        assert torch.equal(whole.rows[1], events.flatten(1))
        assert torch.equal(found.exemplars, events[[0, 4, 36]])
        alone = go_through(EventSet.of_tensor(events[9:10], "here"), [RandomConv()], CPU)
        assert torch.equal(alone.rows[0][0], whole.rows[0][9])

    def test_the_fingerprint_is_of_the_values(self, rng):
        events = torch.randn(20, 1, 4, 6, generator=rng)
        marks = [
            go_through(EventSet.of_tensor(x, spec), [], CPU).about.fingerprint
            for x, spec in ((events, "a"), (events.clone(), "b"), (events + 1e-6, "a"), (events[:19], "a"))
        ]
        assert marks[0] == marks[1]
        assert len(set(marks)) == 3

    def test_values_that_are_not_finite_and_missing_events_are_named(self, rng):
        events = torch.randn(20, 1, 4, 6, generator=rng)
        events[17, 0, 3, 2] = torch.nan
        with pytest.raises(DataError, match=r"1 of 20 events hold values that are not finite.*\n  events 17"):
            go_through(EventSet.of_tensor(events, "here"), [Pixels()], CPU)
        short = EventSet(Events("here", "", 20), (1, 4, 6), lambda numbers: [events[:9]])
        with pytest.raises(DataError, match="there are 9 events, not 20"):
            go_through(short, [Pixels()], CPU)

    def test_data_are_taken_spread(self):
        events = EventSet.of_data(DATA, 10)
        found = go_through(events, [], CPU, keep=range(10)).exemplars
        torch.testing.assert_close(found, torch.stack([DATA[k * DATA.length // 10] for k in range(10)]))
        again = go_through(EventSet.of_data(DATA).some(10), [], CPU, keep=range(10)).exemplars
        assert torch.equal(found, again)
        with pytest.raises(ConfigError):
            EventSet.of_data(DATA, DATA.length + 1)
        with pytest.raises(ConfigError):
            events.some(11)
        assert events.some(11, exact=False) is events
        with pytest.raises(ConfigError, match="no end"):
            EventSet.of_data(component(Data, "dead-leaves"))
        assert EventSet.of_data(component(Data, "dead-leaves"), 7).n == 7

    def test_known_statistics_are_told_apart(self, tmp_path, rng):
        marks = set()
        for k in range(2):
            Statistics.of(torch.randn(9, 4, generator=rng)).save(tmp_path / f"{k}.npz")
            known = KnownStatistics.load(tmp_path / f"{k}.npz")
            assert known.about.n == 9
            marks.add(known.about.fingerprint)
        assert len(marks) == 2


class TestCache:
    def test_rows_are_computed_once(self, tmp_path, counted):
        cache, events = Cache(tmp_path / "cache"), EventSet.of_data(DATA)
        first = go_through(events, [counted, Pixels()], CPU, [3, 5], cache)
        batches = len(counted.seen)
        assert batches == -(-events.n // CHUNK["cpu"])
        again = go_through(events, [counted, Pixels()], CPU, [3, 5], cache)
        assert len(counted.seen) == batches + 1  # a few, to be sure
        assert again.about == first.about
        assert all(torch.equal(a, b) for a, b in zip(first.rows, again.rows, strict=True))
        assert torch.equal(first.exemplars, again.exemplars)

    def test_other_features_other_events_and_other_numbers_are_computed(self, tmp_path, counted):
        cache = Cache(tmp_path)
        for events in (
            EventSet.of_data(DATA),
            EventSet.of_data(DATA, 20),
            EventSet.of_data(SmoothNoise(shape=(3, 5, 6))),
        ):
            found = go_through(events, [counted], CPU, [], cache)
            assert torch.equal(found.rows[0], go_through(events, [RandomConv(width=4)], CPU).rows[0])
        more = go_through(EventSet.of_data(DATA), [RandomConv(width=4), RandomConv(width=5)], CPU, [], cache)
        assert [rows.shape[1] for rows in more.rows] == [3 * 4 * 4, 3 * 5 * 4]
        assert len(list(tmp_path.iterdir())) == 4

    @pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other"])
    def test_a_damaged_file_is_found_out_and_replaced(self, damage, tmp_path, counted):
        cache, events = Cache(tmp_path), EventSet.of_data(DATA)
        first = go_through(events, [counted], CPU, [], cache)
        (file,) = tmp_path.iterdir()
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        whole = file.read_bytes()
        file.write_bytes({"flip": bytes(content), "cut": whole[:-9], "empty": b"", "other": b"x" * 5000}[damage])
        again = go_through(events, [counted], CPU, [], cache)
        assert torch.equal(first.rows[0], again.rows[0])
        assert file.read_bytes() == whole
        assert [path.name for path in tmp_path.iterdir()] == [file.name]

    def test_events_that_changed_under_the_same_fingerprint_are_found_out(self, tmp_path, rng):
        events = [torch.randn(40, 1, 4, 6, generator=rng) for _ in range(2)]
        sets = [
            EventSet(Events("x", "the same", 40), (1, 4, 6), lambda numbers, x=x: [x[list(numbers)]]) for x in events
        ]
        for one, x in zip(sets, events, strict=True):
            assert torch.equal(go_through(one, [Pixels()], CPU, [], Cache(tmp_path)).rows[0], x.flatten(1))

    def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(self, tmp_path):
        (tmp_path / "file").write_text("in the way")
        cache = Cache(tmp_path / "file")
        assert go_through(EventSet.of_data(DATA), [Pixels()], CPU, [], cache).rows[0].shape == (DATA.length, 105)
        assert cache.write("key", {"x": torch.ones(1)}) is False
        assert cache.read("key") is None

    def test_it_is_where_the_user_says(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        monkeypatch.setenv("GENDIFF_CACHE", str(tmp_path / "own"))
        assert Cache.of_user().folder == tmp_path / "own"
        monkeypatch.delenv("GENDIFF_CACHE")
        assert Cache.of_user().folder == tmp_path / "xdg" / "gendiff"


def through(events: EventSet) -> torch.Tensor:
    return torch.cat([*events.at(range(events.n))])


class TestFolders:
    def test_what_sample_wrote_is_read_and_the_grid_left_out(self, tmp_path, rng):
        x = torch.rand(9, 3, 5, 7, generator=rng) * 2 - 1
        for k, event in enumerate(x):
            pictures.save_event(tmp_path, k, event)
        pictures.sheet(x).save(tmp_path / "grid.png")
        pictures.sheet(x).save(tmp_path / "trajectory.gif")
        assert event_files.holds_events(tmp_path)
        events = event_files.of_files(tmp_path)
        assert (events.n, events.event_shape) == (9, (3, 5, 7))
        assert torch.equal(through(events), pictures.eight_bits(x))
        archive = Path(shutil.make_archive(str(tmp_path / "samples"), "zip", tmp_path.parent, tmp_path.name))
        assert event_files.holds_events(archive)
        assert torch.equal(through(event_files.of_files(archive)), pictures.eight_bits(x))

    def test_signals_come_back_as_they_were(self, tmp_path, rng):
        x = torch.randn(8, 2, 11, generator=rng)
        for k, event in enumerate(x):
            pictures.save_event(tmp_path, k, event)
        assert torch.equal(through(event_files.of_files(tmp_path)), x)

    def test_grey_stays_grey_unless_colour_is_wanted(self, tmp_path):
        v = np.arange(35, dtype=np.uint8).reshape(5, 7)
        for name in ("b.PNG", "sub/a.png"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            Image.fromarray(v).save(tmp_path / name)
        (tmp_path / ".hidden.png").write_bytes(b"")
        grey, colour = event_files.of_files(tmp_path), event_files.of_files(tmp_path, channels=3)
        assert (grey.event_shape, colour.event_shape) == ((1, 5, 7), (3, 5, 7))
        assert torch.equal(through(colour), through(grey).expand(-1, 3, -1, -1))
        assert torch.equal(through(grey)[0, 0], torch.from_numpy(v) / 127.5 - 1)
        assert grey.about.fingerprint != colour.about.fingerprint

    def test_the_fingerprint_is_of_the_contents(self, tmp_path):
        Image.new("RGB", (4, 3), "red").save(tmp_path / "a.bmp")
        before = event_files.of_files(tmp_path).about.fingerprint
        Image.new("RGB", (4, 3), "blue").save(tmp_path / "a.bmp")  # as many bytes
        assert event_files.of_files(tmp_path).about.fingerprint != before

    def test_bad_folders_are_explained(self, tmp_path):
        with pytest.raises(DataError, match="no events in"):
            event_files.of_files(tmp_path)
        assert not event_files.holds_events(tmp_path / "none")
        (tmp_path / "no.zip").write_bytes(b"PK")
        assert not event_files.holds_events(tmp_path / "no.zip")
        Image.new("L", (4, 3)).save(tmp_path / "a.png")
        Image.new("L", (4, 4)).save(tmp_path / "b.png")
        with pytest.raises(DataError) as raised:
            through(event_files.of_files(tmp_path))
        assert "2 pictures of 2 sizes" in str(raised.value)
        assert "height x width: 1 of 3x4, 1 of 4x4" in str(raised.value)
        (tmp_path / "b.png").write_bytes(b"not a picture")
        with pytest.raises(DataError, match=r"1 of 2 files cannot be read[^\0]*b\.png: not an image"):
            through(event_files.of_files(tmp_path))

    @pytest.mark.parametrize(("shape", "event"), [((9, 5, 7), (1, 5, 7)), ((9, 5, 7, 3), (3, 5, 7))])
    def test_an_array_of_pictures(self, shape, event, tmp_path, rng):
        v = torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8).numpy()
        np.savez(tmp_path / "samples.npz", v)
        events = event_files.of_array(tmp_path / "samples.npz")
        assert (events.n, events.event_shape) == (9, event)
        torch.testing.assert_close(
            through(events), torch.from_numpy(v).reshape(*shape[:3], -1).permute(0, 3, 1, 2) / 127.5 - 1
        )
        assert not event_files.holds_statistics(tmp_path / "samples.npz")

    def test_other_arrays_are_explained(self, tmp_path):
        path = tmp_path / "s.npz"
        for arrays in ({"a": np.zeros((9, 5, 7))}, {"mu": np.zeros(3), "sigma": np.eye(3)}, {}, {"a": np.array([{}])}):
            np.savez(path, **arrays)
            with pytest.raises(DataError):
                event_files.of_array(path)
        path.write_bytes(b"PK")
        for read in (event_files.of_array, event_files.holds_statistics):
            with pytest.raises(DataError):
                read(path)
        with pytest.raises(DataError, match="there is no"):
            event_files.holds_statistics(tmp_path / "none.npz")


def test_spread():
    assert spread(4, 4) == [0, 1, 2, 3]
    assert spread(3, 10) == [0, 3, 6]
