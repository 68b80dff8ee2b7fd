"""Operators against other programs and against what they say of themselves."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image

from gendiff import Rotation
from gendiff.errors import ArgumentError, ConfigError, DataError, PluginError
from gendiff.operator import Measurement, Operator, check_operator, simulated
from gendiff.testing.probes import noise


@pytest.mark.parametrize(("borders", "mode"), [("reflecting", "reflect"), ("circular", "wrap")])
@pytest.mark.parametrize("sigma", [0.6, 2.0])
def test_blur_is_that_of_scipy(borders, mode, sigma):
    x = noise((1, 2, 12, 17))
    expected = scipy.ndimage.gaussian_filter(x.numpy(), (0, 0, sigma, sigma), mode=mode, truncate=12)
    seen = Operator("blur", sigma=sigma, borders=borders).apply(x)
    np.testing.assert_allclose(seen.numpy(), expected, atol=1e-12)


def test_blur_has_the_singular_values_that_the_rotation_knows():
    shape, dct = (1, 9, 12), Rotation("dct")
    d = Operator("blur:sigma=1.2").diagonal(dct, shape)
    torch.testing.assert_close(d, dct.log_blur_spectrum(shape, 1.2).exp().expand(shape), atol=1e-7, rtol=0)
    assert Operator("blur:sigma=1.2,borders=circular").diagonal(dct, shape) is None


def test_downsample_is_the_mean_of_blocks():
    x = noise((1, 2, 4, 6))
    y = Operator("downsample:factor=2").apply(x)
    torch.testing.assert_close(y[0, 1, 1, 2], x[0, 1, 2:4, 4:6].mean())


def test_grey_is_that_of_pictures():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].double()
    expected = np.array(Image.fromarray(pixels).convert("L"))
    np.testing.assert_allclose(Operator("grey").apply(x)[0, 0].numpy(), expected, atol=1)


def test_crop_frequencies_keeps_the_lowest():
    shape, dct = (1, 8, 10), Rotation("dct")
    d = Operator("crop-frequencies:keep=0.3").diagonal(dct, shape)[0]
    assert d[:2, :3].min() == pytest.approx(1)
    assert float(d.sum()) == pytest.approx(6)


class TestMask:
    def test_a_rectangle_is_missing(self):
        y = Operator("mask:rectangle=[1,2,2,3]").apply(torch.ones(1, 1, 4, 6))[0, 0]
        assert y.tolist() == [[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 1], [1, 1, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1]]
        kept = Operator("mask:rectangle=[1,2,2,3],invert=true").apply(torch.ones(1, 1, 4, 6))[0, 0]
        assert torch.equal(kept, 1 - y)

    def test_what_is_black_is_missing(self, tmp_path):
        pixels = np.full((4, 6), 255, np.uint8)
        pixels[1, 2:4] = 0
        Image.fromarray(pixels).save(tmp_path / "mask.png")
        y = Operator(f"mask:path={tmp_path / 'mask.png'}").apply(torch.ones(1, 3, 4, 6))
        assert torch.equal(y[0, 2], torch.from_numpy(pixels / 255).float())

    @pytest.mark.parametrize("given", ["[3,0,2,2]", "[0,0,0,2]", "[0,0,2]", "[-1,0,2,2]"])
    def test_a_rectangle_outside_is_refused_with_what_is_allowed(self, given):
        with pytest.raises(ConfigError, match=r"inside of 4x6"):
            Operator(f"mask:rectangle={given}").require((1, 4, 6))

    def test_nothing_is_left(self):
        with pytest.raises(ConfigError, match="no pixel"):
            Operator("mask:rectangle=[0,0,4,6]").require((1, 4, 6))

    def test_a_mask_of_another_size_is_refused(self, tmp_path):
        Image.new("L", (5, 4), 255).save(tmp_path / "mask.png")
        with pytest.raises(ConfigError, match="has 4x5 pixels, events have 8x8"):
            Operator(f"mask:path={tmp_path / 'mask.png'}").require((1, 8, 8))

    def test_a_mask_that_is_not_there_or_no_picture_is_data(self, tmp_path):
        (tmp_path / "mask.png").write_text("no picture")
        for name in ("mask.png", "none.png"):
            with pytest.raises(DataError):
                Operator(f"mask:path={tmp_path / name}").require((1, 8, 8))

    def test_one_of_the_two_is_said(self):
        for spec in ("mask", "mask:rectangle=[0,0,1,1],path=m.png"):
            with pytest.raises(ConfigError, match="say what is missing, once"):
                Operator(spec)


def test_blocks_that_do_not_fit_are_refused_with_those_that_do():
    with pytest.raises(ConfigError, match="divides every side: 2, 4"):
        Operator("downsample:factor=3").require((1, 8, 12))
    with pytest.raises(ConfigError, match="nothing does"):
        Operator("downsample:factor=3").require((1, 7, 11))


def test_grey_needs_three_channels():
    with pytest.raises(ConfigError, match="1x8x8"):
        Operator("grey").require((1, 8, 8))


# --- functions of one's own ---------------------------------------------------------------------------------------------


def test_a_pair_of_functions_is_an_operator():
    A = Operator.of(lambda x: x[..., ::2], lambda y: torch.stack([y, 0 * y], -1).flatten(-2))
    check_operator(A, (1, 4, 6))
    assert A.measured((1, 4, 6)) == (1, 4, 3)
    assert A.diagonal(Rotation("identity"), (1, 4, 6))[0, 0].tolist() == [1, 0, 1, 0, 1, 0]
    assert Operator.of(A.apply) != Operator.of(A.apply)


def test_autograd_finds_an_adjoint_that_is_not_given():
    W = noise((5, 24))
    A = Operator.of(lambda x: x.flatten(1) @ W.T.to(x))
    check_operator(A, (1, 4, 6))
    y = noise((2, 5))
    torch.testing.assert_close(A.adjoint(y, (1, 4, 6)).flatten(1), y @ W)
    torch.testing.assert_close(A.adjoint(y.float(), (1, 4, 6)).flatten(1), (y @ W).float())


@pytest.mark.parametrize(
    ("apply", "adjoint", "says"),
    [
        (lambda x: x**2, lambda y: y, "not linear"),
        (lambda x: 2 * x, lambda y: y / 2, "adjoint"),
        (lambda x: x[..., :3], lambda y: y, "shape"),
    ],
)
def test_what_is_no_operator_is_refused(apply, adjoint, says):
    with pytest.raises(PluginError, match=says):
        Measurement.checked(Operator.of(apply, adjoint), torch.zeros(1, 1, 4, 6), 0.1, (1, 4, 6))


def test_what_is_no_function_is_refused():
    for pair in ((3,), (lambda x: x, 3), (lambda: 0,)):
        with pytest.raises(ArgumentError, match="a function of one argument"):
            Operator.of(*pair)


def test_functions_are_not_stored():
    A = Operator({"name": "python-functions"})
    with pytest.raises(ConfigError, match="given in Python"):
        A.apply(torch.zeros(1, 1, 2, 2))


# --- measurements -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "sigma", "says"),
    [
        (torch.zeros(2, 1, 4, 4), 0.1, "shape"),
        (torch.full((1, 1, 2, 3), float("nan")), 0.1, "not finite"),
        (torch.zeros(0, 1, 2, 3), 0.1, "empty"),
        (torch.zeros(1, 1, 2, 3), -1, "sigma"),
        (torch.zeros(1, 1, 2, 3), float("nan"), "sigma"),
        (torch.zeros(1, 1, 2, 3), True, "sigma"),
    ],
)
def test_a_measurement_is_looked_at(y, sigma, says):
    with pytest.raises(ArgumentError, match=says):
        Measurement.checked(Operator("downsample"), y, sigma, (1, 4, 6))


def test_simulated_noise_follows_from_the_seed_and_the_event():
    x, A = noise((3, 1, 4, 6), dtype=torch.float32), Operator("downsample")
    y = simulated(A, x, 0.5, seed=3)
    torch.testing.assert_close(simulated(A, x[1:2], 0.5, seed=3), y[1:2])
    assert not torch.equal(simulated(A, x, 0.5, seed=4), y)
    assert float(
        (simulated(A, x.expand(-1, -1, -1, -1).repeat(1, 1, 40, 40), 0.5) - A.apply(x.repeat(1, 1, 40, 40))).std()
    ) == (pytest.approx(0.5, rel=0.03))
