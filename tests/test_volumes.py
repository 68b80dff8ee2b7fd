"""Events of three spatial axes: videos and volumes, with a speed for each axis."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import torch
from processes import component, diffusion, fitted

from gendiff import Diffusion, Model, Rotation, Sampler, sample
from gendiff.datasets.tensors import as_data
from gendiff.errors import ConfigError
from gendiff.gaussian import GaussianScore
from gendiff.moments import Moments
from gendiff.process import Process
from gendiff.run.stored import StoredProcess, difference, dump

EVENT = (2, 4, 5, 6)  # C, T, H, W


def test_the_dct_of_a_volume_is_scipy_s(rng):
    x = torch.randn(3, *EVENT, generator=rng, dtype=torch.float64)
    expected = scipy.fft.dctn(x.numpy(), axes=(-3, -2, -1), norm="ortho")
    torch.testing.assert_close(component(Rotation, "dct").rotate(x), torch.from_numpy(expected), atol=1e-12, rtol=0)


@pytest.mark.parametrize("basis", ["dct", "haar", "hartley", "block-dct:size=3", "channel-pca+dct", "klt:patch=2"])
def test_bases_of_volumes_are_orthonormal_and_come_back(basis, rng, tmp_path):
    process = diffusion(basis, "blur:schedule=log", EVENT)
    x = torch.randn(2, *EVENT, generator=rng, dtype=torch.float64)
    x_bar = process.rotate(x)
    assert (process.unrotate(x_bar) - x).abs().max() < 1e-10
    assert abs(float(x_bar.norm() / x.norm()) - 1) < 1e-12
    file = tmp_path / "process.safetensors"
    file.write_bytes(dump(process))
    assert difference(process, StoredProcess.load(file).diffusion()) == ""


@pytest.mark.parametrize("weights", [(0.5, 1, 1), (0, 1, 1), (2, 1, 0.5)])
def test_a_blur_has_a_width_for_each_axis(weights):
    """SciPy's Gaussian filter, whose borders ``reflect`` are the half-sample symmetric ones."""
    U = component(Rotation, {"name": "dct", "axes": weights})
    x = torch.zeros(1, 1, 24, 25, 26, dtype=torch.float64)
    x[0, 0, 3, 12, 20] = 1
    blurred = U.apply_diagonal(x, U.log_blur_spectrum((1, 24, 25, 26), 1.5).exp())[0, 0]
    expected = scipy.ndimage.gaussian_filter(x[0, 0].numpy(), [1.5 * w for w in weights], mode="reflect", truncate=8)
    torch.testing.assert_close(blurred, torch.from_numpy(expected), atol=1e-9, rtol=0)


def test_the_frequency_of_an_axis_is_weighed():
    rho = component(Rotation, "dct:axes=[0.5,1,2]").frequencies(EVENT)[0]
    k = np.mgrid[:4, :5, :6]
    expected = np.sqrt(
        sum((w * np.pi * k[a] / n) ** 2 for a, (w, n) in enumerate(zip((0.5, 1, 2), (4, 5, 6), strict=True)))
    )
    torch.testing.assert_close(rho, torch.from_numpy(expected))
    one = component(Rotation, "dct:axes=[0.5]").frequencies(EVENT)  # the others count 1
    assert torch.equal(one, component(Rotation, "dct:axes=[0.5,1,1]").frequencies(EVENT))
    heat = component(Rotation, "dct:axes=[0.5,1,2]").heat_spectrum(EVENT)[0]
    torch.testing.assert_close(heat, rho**2)


def test_alike_axes_are_none_said():
    plain, said = (component(Rotation, spec) for spec in ("dct", "dct:axes=[1,1,1]"))
    assert torch.equal(plain.frequencies(EVENT), said.frequencies(EVENT))
    assert torch.equal(plain.log_blur_spectrum(EVENT, 0.4), said.log_blur_spectrum(EVENT, 0.4))
    assert "axes" not in plain.table()  # runs of before are the same
    assert component(Rotation, "ycbcr+dct:axes=[0.5]").axis_weights((3, 4, 5)) == (0.5, 1)


def test_more_weights_than_axes_are_refused():
    with pytest.raises(ConfigError, match="it has 2 spatial axes, and 'axes' gives 3 weights"):
        component(Rotation, "dct:axes=[0.5,1,1]").require((1, 8, 8))
    with pytest.raises(ConfigError, match="gives every axis the weight 0"):
        component(Rotation, "dct:axes=[0,0]").require((1, 8, 8))


def test_space_and_time_have_their_own_speeds():
    rotation, velocity = Process("space-time:time=0.25,schedule=log").parts()
    process = Diffusion.of(rotation, velocity, EVENT, 100)
    # Of two components of one frequency, the one in time keeps its signal longer.
    L = process.at(60, torch.float64).log_a[0]
    plain = diffusion("dct", "blur:schedule=log", EVENT, 100).at(60, torch.float64).log_a[0]
    assert L[2, 0, 0] > plain[2, 0, 0]
    torch.testing.assert_close(L[0], plain[0])  # within a frame they are the same
    still = Diffusion.of(*Process("space-time:time=0,schedule=log").parts(), EVENT, 100).at(60, torch.float64).log_a[0]
    torch.testing.assert_close(still[:, 0, 0], still[:1, 0, 0].expand(4))  # frames never merge


def test_a_volume_is_drawn_from_its_moments(rng):
    """Gaussian volumes in one step of the Wiener objective's ODE: mean and variance per component are those of the data."""
    volumes = 0.1 + 0.2 * torch.randn(200, *EVENT, generator=rng)
    data, U = as_data(volumes, value_range=None), fitted("dct:axes=[0.5]", EVENT)
    moments = Moments.fit(data, U)
    process = Diffusion(U, diffusion("dct:axes=[0.5]", "blur", EVENT, 60).scales, EVENT, moments)
    model = GaussianScore(process, moments.mean, moments.variance)
    x = sample(process, model, component(Sampler, "trig:steps=1,prior=matched"), n=300, seed=0)
    assert x.shape == (300, *EVENT)
    assert float(x.mean()) == pytest.approx(0.1, abs=0.02)
    assert float(x.std()) == pytest.approx(0.2, abs=0.02)
    assert Model("mlp:width=8,depth=1").build(EVENT) is not None
