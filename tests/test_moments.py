"""Moments of the data: measured, smoothed, stored with a run and used from there."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from processes import component, fitted, scales_at

from gendiff import Config, Data, Diffusion, Rotation, Velocity
from gendiff import moments as measuring
from gendiff.errors import DataError
from gendiff.moments import FLOOR, Modes, Moments, smoothed
from gendiff.plugin.registry import default_registry
from gendiff.run.directory import Run
from gendiff.run.recall import PROCESS
from gendiff.run.stored import StoredProcess, dump
from gendiff.shapes import EventShape
from gendiff.testing import SmoothNoise

EVENT = (2, 5, 7)


class Counting(Data):
    """event k holds the number k, or what is given."""

    name = "counting"
    count: int
    value: str = ""

    @property
    def event_shape(self) -> EventShape:
        return (1, 2, 3)

    @property
    def length(self) -> int:
        return self.count

    def __getitem__(self, index):
        return torch.full((1, 2, 3), float(self.value or index))

    @property
    def fingerprint(self) -> str:
        return self.spec


class Renamed(Counting):
    """Other events under a fingerprint that is taken."""

    @property
    def fingerprint(self) -> str:
        return Counting(count=40, value="1.5").fingerprint


@pytest.mark.parametrize("name", ["identity", "dct", "hartley", "klt:patch=3"])
def test_they_are_mean_and_variance_in_rotated_coordinates(name):
    data = SmoothNoise(shape=EVENT)
    U = fitted(name, EVENT)
    moments = Moments.fit(data, U)
    x_bar = U.rotate(torch.stack([data[k] for k in range(data.length)]).double())
    torch.testing.assert_close(moments.mean, x_bar.mean(0), rtol=0, atol=1e-12)
    raw, rho = x_bar.var(0, correction=0), torch.broadcast_to(U.frequencies(EVENT), EVENT)
    for channel in range(2):
        for k in range(35):
            y, x = divmod(k, 7)
            like = (rho[channel] * 7 / math.pi).round() == (rho[channel, y, x] * 7 / math.pi).round()
            constant = rho[channel] < 1e-9
            like = constant if constant[y, x] else like & ~constant
            wanted = max(float(raw[channel][like].mean()), FLOOR * float(moments.variance.mean()) / 2)
            assert float(moments.variance[channel, y, x]) == pytest.approx(wanted, rel=1e-9)
    assert moments.measured
    assert (moments.count, moments.fingerprint) == (64, data.fingerprint)


def test_a_tensor_of_any_values_has_moments():
    x = 40 * torch.randn(30, 1, 2, 3) + 100
    found = Moments.fit(x, component(Rotation, "identity"))
    np.testing.assert_allclose(found.mean.numpy(), x.double().numpy().mean(0))
    np.testing.assert_allclose(found.variance.mean(), x.double().numpy().var(0).mean())


def test_all_of_them_move_to_another_device():
    modes = Modes(torch.ones(2).double(), torch.ones(2).double())
    own = Moments(
        torch.zeros(1, 2, 3).double(), torch.ones(1, 2, 3).double(), 7, "x", torch.ones(1, 2, 3).double(), modes
    )
    moved = own.to(torch.device("meta"))
    tensors = (moved.mean, moved.variance, moved.weight, moved.modes.variance, moved.modes.weight)
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert (moved.count, moved.fingerprint) == (7, "x")


def test_what_hardly_varies_is_floored():
    raw = torch.zeros(EVENT, dtype=torch.float64)
    raw[:, 0, 0] = 3.5
    rho = component(Rotation, "dct").frequencies(EVENT)
    c = smoothed(raw, rho, EVENT)
    assert (c[:, 0, 0] == 3.5).all()
    torch.testing.assert_close(c.flatten(1)[:, 1:], torch.full((2, 34), FLOOR * 3.5 / 35, dtype=torch.float64))
    assert (smoothed(0 * raw, rho, EVENT) == 1).all()


@pytest.mark.parametrize("name", ["identity", "haar", "klt:patch=3"])
def test_modes_are_the_variances_of_the_data_in_the_dct_whatever_the_basis(name):
    data, U = SmoothNoise(shape=EVENT), component(Rotation, "dct")
    modes = Moments.fit(data, fitted(name, EVENT)).modes
    in_dct = Moments.fit(data, U)
    assert in_dct.modes is None
    assert int(modes.weight.sum()) == math.prod(EVENT)
    expanded = modes.variance.repeat_interleave(modes.weight.long())
    torch.testing.assert_close(expanded, in_dct.variance.flatten().sort().values, rtol=1e-9, atol=0)
    assert len(modes.variance) < 20


def test_modes_are_stored_with_a_process(tmp_path):
    data, U = SmoothNoise(shape=EVENT), component(Rotation, "identity")
    process = Diffusion(U, component(Velocity, "blur").scales(U, EVENT, 50), EVENT, Moments.fit(data, U))
    (tmp_path / "p").write_bytes(dump(process))
    stored = StoredProcess.load(tmp_path / "p").diffusion()
    assert stored.moments == process.moments
    assert stored.moments.modes is not None
    without = Moments(process.moments.mean, process.moments.variance, 64, data.fingerprint)
    assert stored.moments != without
    bad = Modes(-process.moments.modes.variance, process.moments.modes.weight)
    process.moments = replace(process.moments, modes=bad)
    (tmp_path / "p").write_bytes(dump(process))
    with pytest.raises(DataError, match="not positive"):
        StoredProcess.load(tmp_path / "p")


def test_at_most_so_many_events_equally_spread():
    assert Moments.fit(component(Data, "gaussian-field:size=4"), component(Rotation, "identity")).count == 512
    moments = Moments.fit(Counting(count=5000), component(Rotation, "identity"))
    looked_at = torch.tensor([k * 5000 // 2048 for k in range(2048)]).double()
    assert moments.count == 2048
    torch.testing.assert_close(moments.mean, looked_at.mean().expand(1, 2, 3))
    torch.testing.assert_close(moments.variance, looked_at.var(correction=0).expand(1, 2, 3))


@pytest.mark.parametrize("size", [1, 7])
def test_how_many_events_are_read_at_a_time_does_not_matter(size, monkeypatch):
    """Against NumPy on all at once, of data whose mean is far from 0."""
    events = 3 + torch.stack([SmoothNoise(shape=EVENT)[k] for k in range(20)]).double().numpy()

    class Shifted(Counting):
        """smooth noise about 3."""

        name = "shifted"

        @property
        def event_shape(self) -> EventShape:
            return EVENT

        def __getitem__(self, index):
            return torch.from_numpy(events[index])

    monkeypatch.setattr(measuring, "CHUNK", size * math.prod(EVENT))
    ((mean, variance),) = measuring._sweep(Shifted(count=20), [lambda x: x], range(20))
    np.testing.assert_allclose(mean.numpy(), events.mean(0), rtol=1e-12)
    np.testing.assert_allclose(variance.numpy(), events.var(0), rtol=1e-9)


def test_what_was_measured_is_kept_and_told_from_what_is_called_alike(monkeypatch):
    U = component(Rotation, "dct")
    first = Moments.fit(Counting(count=40, value="1.5"), U)

    def refuse(*_):
        raise AssertionError("measured again")

    measuring._measured.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(measuring, "_sweep", refuse)
        again = Moments.fit(Counting(count=40, value="1.5"), U)
        assert torch.equal(first.mean, again.mean)
        assert torch.equal(first.variance, again.variance)
        for data, rotation in (
            (Renamed(count=40, value="2.5"), U),
            (Counting(count=40, value="1.5"), fitted("dst", (1, 2, 3))),
        ):
            with pytest.raises(AssertionError, match="measured again"):
                Moments.fit(data, rotation)
    monkeypatch.setenv("GENDIFF_CACHE", "/dev/null/nowhere")
    measuring._measured.cache_clear()
    assert torch.equal(first.mean, Moments.fit(Counting(count=40, value="1.5"), U).mean)


@pytest.mark.parametrize("data", [Counting(count=0), Counting(count=4, value="nan")])
def test_data_without_moments_are_refused(data):
    with pytest.raises(DataError, match=r"is empty|not finite"):
        Moments.fit(data, component(Rotation, "identity"))


def test_the_prior_is_the_standard_one_where_nothing_else_is_said(rng):
    plain = Diffusion.of("dct", "isotropic:noise='linear:beta_max=0.01'", EVENT, 20)
    process = Diffusion(
        plain.rotation, plain.scales, EVENT, Moments(torch.ones(EVENT).double(), 9 * torch.ones(EVENT).double())
    )
    z = torch.randn(3, *EVENT, generator=rng)
    torch.testing.assert_close(process.prior(z), process.at(20).s * process.rotate(z))


def test_the_matched_prior_has_the_moments_of_the_data_at_n(rng):
    U = fitted("dct", EVENT)
    moments = Moments(torch.randn(EVENT, generator=rng).double(), torch.rand(EVENT, generator=rng).double() + 0.1)
    process = Diffusion(U, component(Velocity, "blur").scales(U, EVENT, 50), EVENT, moments)
    a, s = scales_at(process, 50, torch.float64)
    z = torch.randn(3, *EVENT, generator=rng, dtype=torch.float64)
    v = a**2 * moments.variance + s**2
    torch.testing.assert_close(process.prior(z, matched=True), a * moments.mean + v.sqrt() * U.rotate(z))
    torch.testing.assert_close(process.prior(z), s * U.rotate(z))
    unknown = Diffusion(U, process.scales, EVENT)
    assert not unknown.moments.measured
    torch.testing.assert_close(unknown.prior(z, matched=True), U.rotate(z))  # variance-preserving, with c = 1


class TestOfARun:
    def config(self, **table) -> Config:
        table = {
            "N": 20,
            "rotation": "dct",
            "data": "digits",
            "model": {"name": "mlp", "width": 4, "depth": 1},
            **table,
        }
        return Config.model_validate(table)

    def test_every_run_has_them_and_needs_no_data_for_them(self, tmp_path):
        config = self.config()
        wanted = Moments.fit(config.data, config.rotation)
        Run.create(config, default_registry(), tmp_path / "run")
        moments = Run.open(tmp_path / "run").config.diffusion().moments
        assert torch.equal(moments.mean, wanted.mean)
        assert torch.equal(moments.variance, wanted.variance)
        assert (moments.count, moments.fingerprint) == (wanted.count, config.data.fingerprint)
        assert moments == wanted
        assert moments != Moments(moments.mean, 2 * moments.variance, moments.count, moments.fingerprint)
        assert Run.open(tmp_path / "run", training=True).config.diffusion().moments.measured

    def test_a_process_too_large_to_store_keeps_them(self, tmp_path, monkeypatch):
        monkeypatch.setattr("gendiff.run.stored.MAX_DENSE", 8)
        config = self.config(rotation="klt:patch=4", velocity="blur:schedule=log")
        run = Run.create(config, default_registry(), tmp_path / "run")
        assert "too large to store" in run.info["process"]["missing"]
        again = Run.open(tmp_path / "run").config
        learned = config.fitted().rotation
        assert again.rotation.learned.keys() == learned.learned.keys()
        assert torch.equal(again.diffusion().moments.variance, Moments.fit(config.data, learned).variance)
        assert StoredProcess.load(run.path / PROCESS).parts is None

    def test_what_a_velocity_learned_is_kept(self, tmp_path):
        class Learning(type(component(Velocity, "isotropic"))):
            """isotropic, having looked at the spectrum."""

            name = "learning"

            def fit(self, data, rotation):
                return {"spectrum": Moments.fit(data, rotation).variance}

        config = self.config().model_copy(update={"velocity": Learning()})
        fitted_config = config.fitted()
        spectrum = fitted_config.velocity.learned["spectrum"]
        assert torch.equal(spectrum, fitted_config.diffusion().moments.variance)
        assert fitted_config.fitted() is fitted_config
        (tmp_path / "p").write_bytes(dump(fitted_config.diffusion(), fitted_config.velocity))
        stored = StoredProcess.load(tmp_path / "p")
        assert torch.equal(stored.learned_velocity["spectrum"], spectrum)

    def test_a_run_from_before_them_is_sampled_with_the_standard_ones(self, tmp_path, monkeypatch):
        import hashlib

        import safetensors.torch

        run = Run.create(self.config(), default_registry(), tmp_path / "run")
        with safetensors.safe_open(run.path / PROCESS, framework="pt") as file:
            about = {key: value for key, value in file.metadata().items() if key != "moments"}
            kept = {name: file.get_tensor(name) for name in file.keys() if not name.startswith("moments.")}  # noqa: SIM118
        content = safetensors.torch.save(kept, about)
        (run.path / PROCESS).write_bytes(content)
        run.update(process={"sha256": hashlib.sha256(content).hexdigest()})
        for training in (False, True):
            opened = Run.open(run.path, training=training)
            assert opened.notes == []
            assert not opened.config.diffusion().moments.measured
