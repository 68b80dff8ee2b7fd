"""How near events are to what they should be, against scipy and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from gendiff.errors import ArgumentError
from gendiff.evaluation.likeness import error_spectrum, psnr, spectrum, ssim
from gendiff.testing.probes import noise


def pictures(shape=(2, 3, 24, 17)):
    clean = torch.tanh(noise(shape, 1))
    return (clean + 0.2 * noise(shape, 2)).clamp(-1, 1), clean


def test_psnr_by_hand():
    clean = torch.zeros(2, 1, 4, 4)
    x = torch.stack([torch.full((1, 4, 4), 0.2), torch.full((1, 4, 4), 0.02)])
    assert psnr(x, clean).tolist() == pytest.approx([20, 40], abs=1e-5)
    assert psnr(clean, clean).tolist() == [math.inf] * 2
    assert psnr(x, clean, 1.0)[0] == pytest.approx(20 - 20 * math.log10(2), abs=1e-5)


def skimage_ssim(x: np.ndarray, y: np.ndarray, peak: float) -> float:
    """`skimage.metrics.structural_similarity` with gaussian_weights, sigma 1.5 and no sample covariance, written out."""
    values = []
    for one, other in zip(x, y, strict=True):

        def mean(values: np.ndarray) -> np.ndarray:
            return gaussian_filter(values, 1.5, truncate=3.5, mode="reflect")

        m, n = mean(one), mean(other)
        v, w, both = mean(one**2) - m**2, mean(other**2) - n**2, mean(one * other) - m * n
        c, d = (0.01 * peak) ** 2, (0.03 * peak) ** 2
        index = (2 * m * n + c) * (2 * both + d) / ((m**2 + n**2 + c) * (v + w + d))
        values.append(index[5:-5, 5:-5].mean())
    return float(np.mean(values))


def test_ssim_is_that_of_skimage():
    x, clean = pictures()
    expected = [skimage_ssim(one.numpy(), other.numpy(), 2.0) for one, other in zip(x, clean, strict=True)]
    np.testing.assert_allclose(ssim(x, clean).numpy(), expected, rtol=1e-10)
    assert ssim(clean, clean).tolist() == pytest.approx([1, 1])


def test_ssim_of_small_pictures_has_a_smaller_window():
    x, clean = pictures((3, 1, 8, 8))
    seen = ssim(x, clean)
    assert bool(((seen > 0) & (seen < 1)).all())
    with pytest.raises(ArgumentError, match="3 pixels"):
        ssim(torch.zeros(1, 1, 2, 8), torch.zeros(1, 1, 2, 8))


def test_the_spectrum_of_an_error_sums_to_its_mean_square():
    x, clean = pictures()
    assert float(error_spectrum(x, clean).sum()) == pytest.approx(float((x - clean).square().mean()), rel=1e-12)
    constant = spectrum(torch.full((1, 1, 8, 8), 0.5), 4)
    assert constant.tolist() == pytest.approx([0.25, 0, 0, 0], abs=1e-15)


def test_others_are_refused():
    with pytest.raises(ArgumentError, match="shape"):
        psnr(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 5))
