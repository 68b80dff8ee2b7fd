"""Rotations that mix channels, blocks, and their compositions."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
import scipy.fft
import torch
from command import TINY, run
from PIL import Image
from processes import component, dense, diffusion, fitted
from torch import Tensor

import gendiff
from gendiff import ChannelRotation, Rotation, Sampler
from gendiff.component import summary
from gendiff.datasets.tensors import as_data
from gendiff.errors import ConfigError, PluginError
from gendiff.moments import Moments
from gendiff.plugin.registry import Registry, default_registry
from gendiff.rotation import Composition
from gendiff.run.config import Config
from gendiff.run.exporting.travelling.scheduling_gendiff import GendiffScheduler
from gendiff.run.exporting.written import _tables
from gendiff.run.provenance import providers
from gendiff.run.stored import StoredProcess, difference, dump
from gendiff.testing import SmoothNoise

EVENT = (3, 6, 10)
COMPOSED = ["ycbcr+dct", "channel-pca+dct", "ycbcr+block-dct:size=4", "dct+ycbcr", "channel-pca+ycbcr+klt:patch=3"]


def close(a, b, atol=1e-10):
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


# --- blocks -------------------------------------------------------------------------------------------------------------


def test_blocks_have_scipy_s_dct_each(rng):
    x = torch.randn(2, 3, 10, 7, generator=rng, dtype=torch.float64)
    x_bar = component(Rotation, "block-dct:size=4").rotate(x)
    for rows in (slice(0, 4), slice(4, 8), slice(8, 10)):  # the last block is shorter
        for columns in (slice(0, 4), slice(4, 7)):
            expected = scipy.fft.dctn(x[..., rows, columns].numpy(), axes=(-2, -1), norm="ortho")
            close(x_bar[..., rows, columns], torch.from_numpy(expected))


def test_all_blocks_have_the_frequencies_of_one():
    U = component(Rotation, "block-dct:size=4")
    rho, one = U.frequencies((1, 8, 12))[0], component(Rotation, "dct").frequencies((1, 4, 4))[0]
    assert torch.equal(rho, one.repeat(2, 3))
    whole = component(Rotation, "block-dct:size=99")
    assert torch.equal(whole.matrix(12), component(Rotation, "dct").matrix(12))


# --- channels -----------------------------------------------------------------------------------------------------------


def test_luma_and_chroma_are_jpeg_s_but_for_lengths_and_angles():
    V = component(Rotation, "ycbcr").channel_matrix(3)
    close(V.T @ V, torch.eye(3, dtype=torch.float64), atol=1e-15)
    assert torch.linalg.det(V) > 0
    grid = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    luma, cb, cr = np.moveaxis(np.asarray(Image.fromarray(grid).convert("YCbCr")).astype(float), -1, 0)
    ours = component(Rotation, "ycbcr").rotate(torch.from_numpy(grid / 1.0).movedim(-1, 0)[None])[0].numpy()
    correlation = np.corrcoef(np.stack([luma, cb, cr, *ours]).reshape(6, -1))[:3, 3:]
    assert correlation[1, 1] > 0.9999  # Cb is Cb
    assert correlation[2, 2] > 0.95  # Cr without what it shares with Cb
    assert correlation[0, 0] > 0.8
    grey = torch.full((1, 3, 2, 2), 0.7, dtype=torch.float64)
    close(component(Rotation, "ycbcr").rotate(grey)[0, 1:], torch.zeros(2, 2, 2, dtype=torch.float64), atol=1e-15)
    plane = V[:, 1:] @ V[:, 1:].T  # the plane of chroma is JPEG's
    for row in ((-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312)):
        row = torch.tensor(row, dtype=torch.float64)
        close(plane @ row, row, atol=1e-6)


def test_channel_pca_is_the_eigenbasis_of_the_pixels(rng):
    mixing = torch.tensor([[2.0, 0, 0, 0], [1, 1, 0, 0], [0, 0.3, 0.5, 0], [0.1, 0, 0, 0.2]])
    pixels = torch.einsum("cd,ndhw->nchw", mixing, torch.randn(50, 4, 5, 6, generator=rng)) / 4 + 0.2
    data = as_data(pixels, value_range=None)
    U = component(Rotation, "channel-pca")
    U = U.with_learned(U.fit(data))
    V = U.channel_matrix(4)
    x_bar = U.rotate(pixels.double()).movedim(1, -1).reshape(-1, 4)
    covariance = torch.cov(x_bar.T)
    off = covariance - torch.diag(covariance.diagonal())
    assert off.abs().max() < 1e-6
    assert (covariance.diagonal().diff() < 0).all()
    assert all(float(column[column.abs() > 1e-8][0]) > 0 for column in V.T)
    with pytest.raises(ConfigError, match="fitted to 4 channels, these events have 3"):
        U.require((3, 5, 6))


def test_channels_that_all_vary_alike_stay_as_they_are():
    U = component(Rotation, "channel-pca")
    V = U.with_learned(U.fit(as_data(torch.zeros(4, 3, 2, 2)))).channel_matrix(3)
    close(V, torch.eye(3, dtype=torch.float64))


def test_a_matrix_that_is_not_orthogonal_is_refused():
    class Skewed(ChannelRotation):
        """JPEG's own matrix."""

        name = "skewed"

        def mixing(self, channels: int) -> Tensor:
            rows = [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
            return torch.tensor(rows).double().T

    with pytest.raises(PluginError, match="'skewed' is not orthogonal for 3 channels"):
        Skewed().rotate(torch.zeros(1, 3, 2, 2))


# --- compositions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", COMPOSED)
def test_a_composition_is_one_after_the_other(spec, rng):
    U = fitted(spec, EVENT)
    assert isinstance(U, Composition)
    columns = dense(U, EVENT)
    close(columns.T @ columns, torch.eye(180, dtype=torch.float64))
    x = torch.randn(2, *EVENT, generator=rng, dtype=torch.float64)
    x_bar = x
    for part in U.parts:
        x_bar = part.rotate(x_bar)
    close(U.rotate(x), x_bar)
    close(U.unrotate(x_bar), x)
    V = U.channel_matrix(3)
    close(torch.einsum("cd,ndhw->nchw", V.T, U.space.rotate(x)), x_bar)  # V ⊗ W
    assert torch.equal(U.frequencies(EVENT), U.space.frequencies(EVENT))  # one speed for luma and chroma
    assert U.diagonalises_blur == U.space.diagonalises_blur
    assert U.spec == spec
    again = pickle.loads(pickle.dumps(U))
    assert torch.equal(again.rotate(x), U.rotate(x))
    assert component(Rotation, spec) == component(Rotation, U.table())


def test_each_part_learns_from_what_those_before_it_made():
    data = SmoothNoise(shape=EVENT)
    U = component(Rotation, "channel-pca+ycbcr+klt:patch=3")
    learned = U.fit(data)
    assert {name.partition(".")[0] for name in learned} == {"channel-pca", "klt"}
    pca, ycbcr, klt = U.with_learned(learned).parts
    turned = torch.stack([ycbcr.rotate(pca.rotate(data[k][None]))[0] for k in range(64)])
    again = klt.fit(as_data(turned, value_range=None))
    close(learned["klt.basis_3x3"].abs(), again["basis_3x3"].abs(), atol=1e-4)
    assert U.parts[0] != pca  # the one without data has learned nothing
    assert not U.parts[0].has_learned


@pytest.mark.parametrize("spec", COMPOSED)
def test_a_run_keeps_it_as_numbers(spec, tmp_path, rng):
    process = diffusion(spec, "blur:schedule=log", EVENT)
    file = tmp_path / "process.safetensors"
    file.write_bytes(dump(process))
    stored = StoredProcess.load(file).diffusion()
    assert difference(process, stored) == ""
    x = torch.randn(2, *EVENT, generator=rng)
    close(stored.unrotate(stored.rotate(x)), x, atol=1e-5)
    file.write_bytes(dump(stored))
    assert difference(process, StoredProcess.load(file).diffusion()) == ""


def test_a_network_of_it_leaves_with_its_basis(tmp_path, rng):
    out = tmp_path / "run"
    words = ("--model", "mlp:width=8,depth=1", "--data", "emoji:size=8", "--set", "N=20")
    for spec in ("channel-pca+dct", "ycbcr+klt:patch=3"):
        made = run("train", *TINY, *words, "--rotation", spec, "--out", out)
        assert made.code == 0, made.err
        model = gendiff.load(out, device="cpu")
        scheduler = GendiffScheduler(*_tables(model, Sampler("ancestral")))
        x = torch.randn(2, 3, 8, 8, generator=rng)
        close(scheduler.rotate(x), model.diffusion.rotate(x), atol=1e-5)
        close(scheduler.unrotate(x), model.diffusion.unrotate(x), atol=1e-5)
        out = tmp_path / "other"


def test_an_older_gendiff_does_not_take_it_for_what_it_is_not():
    for spec, number in (("ycbcr+dct", "3"), ("dct", "2")):
        with io.BytesIO(dump(diffusion(spec, "blur", EVENT))) as file:
            header = file.read(int.from_bytes(file.read(8), "little"))
        assert f'"format":"{number}"'.encode() in header


def test_the_moments_know_luma_from_chroma():
    data = as_data(torch.rand(40, 1, 6, 10, generator=torch.manual_seed(0)).expand(-1, 3, -1, -1) * 2 - 1)
    c = Moments.fit(data, component(Rotation, "ycbcr+dct")).variance
    assert (c[1:] < 1e-3 * c[0]).all()


def test_a_composition_takes_the_sizes_that_all_its_parts_take():
    with pytest.raises(ConfigError, match=r"'ycbcr\+dct' does not take events of 1x8x8: it mixes 3 channels"):
        component(Rotation, "ycbcr+dct").require((1, 8, 8))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("ycbcr+dtc", "unknown rotation 'dtc'"),
        ("nothing+dct", "unknown rotation 'nothing'"),
        ("no+thing", r"unknown rotation 'no\+thing'"),
        ("dct+haar", "composed of 2 bases of space"),
        ("ycbcr+channel-pca", "composed of 0 bases of space"),
        ("channel-pca+channel-pca+dct", "'events' is a parameter of two of its parts"),
        ("ycbcr+block-dct:width=4", r"rotation 'ycbcr\+block-dct' has no parameter 'width'"),
        ("ycbcr+block-dct:size=0", "greater than or equal to 1"),
    ],
)
def test_what_is_no_composition_is_refused(spec, said):
    with pytest.raises(ConfigError, match=said):
        component(Rotation, spec)


def test_only_rotations_are_composed():
    with pytest.raises(ConfigError, match=r"unknown sampler 'ddim\+heun'"):
        default_registry().component_class("sampler", "ddim+heun")


def test_who_provides_it_is_who_provides_its_parts():
    config = Config(rotation="ycbcr+dct", data="emoji:size=32")
    names = [name for name in providers(config, default_registry()) if name.startswith("rotation")]
    assert names == ["rotation ycbcr", "rotation dct"]
    (entry,) = Registry(third_party=False).composed("ycbcr+dct")
    assert (entry.kind, entry.name, entry.provider.built_in) == ("rotation", "ycbcr+dct", True)
    assert summary(entry.load()) == "dct after ycbcr: U = V ⊗ W"


def test_the_command_knows_it_by_its_name():
    done = run("plugins", "check", "ycbcr+block-dct:size=4")
    assert done.code == 0, done.err
    assert "rotation 'ycbcr+block-dct' of gendiff" in done.out
    assert run("plugins", "info", "ycbcr+dct").code == 0
    assert "nothing is called 'ycbcr+dtc'" in run("plugins", "check", "ycbcr+dtc").err
