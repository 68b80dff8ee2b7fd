"""A stored process gives the numbers of the process it was made from, whatever it is made of."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import pytest
import torch
from command import TINY, run
from processes import PROCESSES, N, component, diffusion, fitted
from runs import create, settings
from torch import Tensor

from gendiff import Diffusion, Rotation, Scales, VariancePreserving, Velocity
from gendiff.comparison.plan import Contender
from gendiff.data import Data
from gendiff.errors import DataError, GendiffError
from gendiff.run.directory import Run
from gendiff.run.recall import _change
from gendiff.run.stored import StoredProcess, TableScales, TableVariancePreserving, difference, dump
from gendiff.scales import BlurScales
from gendiff.training.continuation import changed_data


@dataclass(frozen=True)
class OwnVP(VariancePreserving):
    """Variance-preserving scales that are no blur scales."""

    inner: BlurScales

    @property
    def N(self):
        return self.inner.N

    def log_alpha_bar(self, i: Tensor) -> Tensor:
        return self.inner.log_alpha_bar(i)

    @property
    def device(self):
        return self.inner.device

    def to(self, device):
        return OwnVP(self.inner.to(device))


@dataclass(frozen=True)
class Exploding(Scales):
    """Not variance-preserving: a = D^F, s grows; s_0 > 0."""

    inner: BlurScales

    @property
    def N(self):
        return self.inner.N

    def log_a(self, i: Tensor) -> Tensor:
        return (self.inner.F[i].reshape(-1, 1, 1, 1) * self.inner.log_D).clamp_min(-1e4)

    def log_s(self, i: Tensor) -> Tensor:
        return torch.log(0.01 + 0.1 * i.double()).reshape(-1, 1, 1, 1).expand_as(self.log_a(i))

    @property
    def device(self):
        return self.inner.device

    def to(self, device):
        return Exploding(self.inner.to(device))


def restored(process: Diffusion, folder) -> StoredProcess:
    file = folder / "process.safetensors"
    file.write_bytes(dump(process))
    return StoredProcess.load(file)


@pytest.mark.parametrize(("rotation", "velocity"), PROCESSES, ids=str)
@pytest.mark.parametrize("event", [(2, 5, 7), (3, 12)], ids=str)
def test_every_process_comes_back(rotation, velocity, event, tmp_path, rng):
    if rotation.endswith("released_tiling=true") and len(event) == 2:
        event = (3, 4, 6)  # it is defined for pictures alone
    before = diffusion(rotation, velocity, event)
    after = restored(before, tmp_path).diffusion()
    assert difference(before, after) == ""
    x = torch.randn(4, *event, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(after.rotate(x), before.rotate(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(after.unrotate(x), before.unrotate(x), rtol=0, atol=1e-12)
    for i in range(N + 1):
        torch.testing.assert_close(after.at(i).log_a, before.at(i).log_a, rtol=0, atol=1e-12)
        torch.testing.assert_close(after.at(i).log_s, before.at(i).log_s, rtol=0, atol=1e-12)
    rho = before.rotation.frequencies(event)
    torch.testing.assert_close(after.rotation.frequencies(event), rho, rtol=0, atol=0)


@pytest.mark.parametrize(("own", "table"), [(OwnVP, TableVariancePreserving), (Exploding, TableScales)])
def test_scales_that_are_code_become_tables_of_their_distinct_components(own, table, tmp_path):
    before = diffusion("dct", "blur", (3, 8, 8))
    before = Diffusion(before.rotation, own(before.scales), (3, 8, 8))
    after = restored(before, tmp_path).diffusion()
    assert isinstance(after.scales, table)
    assert isinstance(after.scales, VariancePreserving) == isinstance(before.scales, VariancePreserving)
    for i in (0, 1, 7, N):
        torch.testing.assert_close(after.at(i).log_a, before.at(i).log_a, rtol=0, atol=0)
        torch.testing.assert_close(after.at(i).log_s, before.at(i).log_s, rtol=0, atol=0)
    columns = next(value for name, value in vars(after.scales).items() if name != "index").shape[1]
    assert columns == len(before.scales.inner.log_D.flatten().unique())  # D_yx = D_xy: fewer than 64
    assert columns < 64
    assert after.scales.to(torch.device("cpu")).N == N


def test_the_identity_costs_nothing_and_a_separable_basis_little():
    assert len(dump(diffusion("identity", "blur", (3, 64, 64)))) < 100_000
    assert len(dump(diffusion("dct", "blur", (3, 64, 64)))) < 250_000


def test_what_is_too_large_is_refused():
    class Permutation(Rotation):
        """pixels in another order: not separable."""

        name = "permutation"

        def rotate(self, x: Tensor) -> Tensor:
            return x.flatten(2).roll(1, 2).reshape(x.shape)

        def unrotate(self, x_bar: Tensor) -> Tensor:
            return x_bar.flatten(2).roll(-1, 2).reshape(x_bar.shape)

    U = Permutation()
    for side, fits in ((16, True), (65, False)):
        event = (1, side, side)
        scales = component(Velocity, "isotropic").scales(U, event, 10)
        if fits:
            assert len(dump(Diffusion(U, scales, event))) < 100_000  # the nonzero entries alone
        else:
            with pytest.raises(GendiffError, match="too large to store"):
                dump(Diffusion(U, scales, event))


def test_what_was_learned_is_stored(tmp_path):
    before = diffusion("klt:patch=3", "blur", (2, 7, 8))
    stored = restored(before, tmp_path)
    assert stored.learned_rotation.keys() == before.rotation.learned.keys()
    again = component(Rotation, "klt:patch=3").with_learned(stored.learned_rotation)
    scales = component(Velocity, "blur").scales(again, (2, 7, 8), N)
    assert difference(before, Diffusion(again, scales, (2, 7, 8))) == ""


def test_a_difference_is_named():
    one = diffusion("dct", "blur")
    assert "a_i or s_i at i = 1 by" in difference(one, diffusion("dct", "blur:schedule=log"))
    U = fitted("random-orthogonal:seed=1", (2, 5, 7))
    assert difference(Diffusion(U, one.scales, (2, 5, 7)), one).startswith("U^T x by ")
    assert "N = 50" in difference(one, diffusion("dct", "blur", N=20))


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff" * 64, None])
def test_a_damaged_file_is_an_error(content, tmp_path):
    file = tmp_path / "process.safetensors"
    file.write_bytes(dump(diffusion())[:-7] if content is None else content)
    with pytest.raises(DataError, match="cannot be read"):
        StoredProcess.load(file)


def test_a_changed_byte_of_a_run_s_process_is_noticed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("train", "--rotation", "dct", *TINY, "--out", "r").code == 0
    file = tmp_path / "r" / "process.safetensors"
    content = bytearray(file.read_bytes())
    info = json.loads((tmp_path / "r" / "run.json").read_text())
    assert info["process"]["sha256"] == hashlib.sha256(content).hexdigest()
    content[-3] ^= 1
    file.write_bytes(content)
    done = run("sample", "r", "-n", 1, "--steps", 2)
    assert (done.code, "process.safetensors is damaged" in done.err) == (4, True)
    file.unlink()
    assert run("sample", "r", "-n", 1, "--steps", 2).code == 4


def test_sampling_needs_no_data(tmp_path, monkeypatch):
    """A run is moved to a machine that has not got the pictures."""
    monkeypatch.chdir(tmp_path)
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    for k in range(3):
        Image.new("L", (8, 8), 50 * k).save(tmp_path / "pictures" / f"{k}.png")
    data = "folder:path=pictures,size=8,channels=1"
    assert run("train", "--data", data, "--rotation", "klt:patch=4", *TINY, "--batch", 2, "--out", "r").code == 0
    first = run("sample", "r", "-n", 2, "--steps", 2, "--out", "a")
    assert first.code == 0, first.err
    for file in (tmp_path / "pictures").iterdir():
        file.unlink()
    (tmp_path / "pictures").rmdir()
    second = run("sample", "r", "-n", 2, "--steps", 2, "--out", "b")
    assert second.code == 0, second.err
    assert (tmp_path / "a" / "events" / "000001.png").read_bytes() == (
        tmp_path / "b" / "events" / "000001.png"
    ).read_bytes()
    assert run("train", "--resume", "r", "--steps", 5).code == 4
    opened = Run.open(tmp_path / "r")
    with pytest.raises(DataError, match="were not opened"):
        opened.config.data[0]


def test_a_stored_basis_first_used_while_sampling_meets_autograd_later(tmp_path):
    U = restored(diffusion("dct", "blur", (1, 8, 8)), tmp_path).diffusion().rotation
    with torch.inference_mode():
        U.rotate(torch.ones(1, 1, 8, 8))
    x = torch.ones(1, 1, 8, 8, requires_grad=True)
    U.rotate(x).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (DataError("there is no folder 'photos'"), "its data cannot be read, to make its process anew (there is no"),
        (ValueError("odd"), "its process cannot be made anew (ValueError: odd"),
    ],
)
def test_why_numbers_stand_in_is_said_by_its_cause(raised, said):
    class Gone:
        def diffusion(self):
            raise raised

    assert _change(Gone(), None).startswith(said)


@pytest.mark.parametrize("training", [False, True])
def test_numbers_stand_in_for_a_velocity_that_gives_no_process_any_more(tmp_path, monkeypatch, training):
    """Whatever it raises, and wherever it is asked first."""
    made = create(tmp_path / "run", settings(rotation="dct"))
    before = made.config.diffusion().scales

    def scales(*arguments):
        raise RuntimeError("not any more")

    monkeypatch.setattr(type(made.config.velocity), "scales", scales)
    again = Run.open(made.path, training=training)
    assert again.config.velocity.name == "stored"
    assert "its process cannot be made anew (RuntimeError: not any more" in again.notes[0]
    i = torch.arange(before.N + 1)
    assert torch.equal(again.config.diffusion().scales.log_a(i), before.log_a(i))


def test_data_of_an_older_run_stay_as_they_were(tmp_path):
    """What a parameter of the data was before it could be set is not its default now: nobody edited that run."""
    made = create(tmp_path / "run", settings(data="dead-leaves:size=8,version=1"))
    config, record = made.path / "config.toml", made.path / "run.json"
    config.write_text(config.read_text().replace("version = 1\n", ""))
    about = json.loads(record.read_text())
    del about["config"]["data"]["version"]
    record.write_text(json.dumps(about))
    again = Run.open(made.path, training=True)
    assert again.config.data.version == 1
    assert again.config.data.fingerprint == about["data"]["fingerprint"]
    assert changed_data(again, again.config) == {}
    assert again.notes == []
    table = settings(data="dead-leaves:size=8,version=1").table()
    del table["data"]["version"], table["train"]["seed"]
    assert Contender.of_table({"label": "a", "text": "identity", "config": table}, "plan.json").config.data.version == 1
    assert Data("dead-leaves:size=8").version == 2
