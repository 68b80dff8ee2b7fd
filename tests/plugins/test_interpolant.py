"""Interpolants: what is written is what is done, in whole and in real time; what may not be written is refused."""

from __future__ import annotations

import pytest
import torch

from gendiff import Diffusion, Velocity
from gendiff.errors import ConfigError, PluginError

EVENT, N = (1, 4, 6), 20


def process(a, s="t", rotation="dct"):
    return Diffusion.of(rotation, Velocity({"name": "interpolant", "a": a, "s": s}), EVENT, N)


def test_by_default_it_is_rectified_flow():
    own, other = Diffusion.of("dct", "interpolant", EVENT, N), Diffusion.of("dct", "rectified-flow", EVENT, N)
    for i in (0, 1, 7, N):
        for name in ("a", "s"):
            torch.testing.assert_close(
                getattr(own.at(i, torch.float64), name).expand(EVENT),
                getattr(other.at(i, torch.float64), name).expand(EVENT),
                rtol=1e-12,
                atol=1e-12,
            )


@pytest.mark.parametrize(
    ("a", "s", "of"),
    [
        ("(1-t)**(1+r)", "t", lambda t, r, rho: ((1 - t) ** (1 + r), t + 0 * r)),
        ("sqrt(1 - t**2)", "t", lambda t, r, rho: ((1 - t**2) ** 0.5 + 0 * r, t + 0 * r)),
        ("exp(-2*t*rho)", "max(t, 0.2*t) / 2", lambda t, r, rho: ((-2 * t * rho).exp(), t / 2 + 0 * r)),
        ("1/(1+t)", "2**-1 * t**(1.5 + r/4)", lambda t, r, rho: (1 / (1 + t) + 0 * r, 0.5 * t ** (1.5 + r / 4))),
        ("sigmoid(4 - 9*t)", "sigmoid(9*t - 4) + -(-0.001)", lambda t, r, rho: (
            torch.sigmoid(4 - 9 * t) + 0 * r, torch.sigmoid(9 * t - 4) + 0.001 + 0 * r)),
    ],
)  # fmt: skip
def test_it_is_what_is_written(a, s, of):
    own = process(a, s)
    rho = own.rotation.frequencies(EVENT)
    for i in (1, 6, 6.5, 19, N):
        wanted = of(torch.tensor(i / N, dtype=torch.float64), rho / rho.max(), rho)
        at = own.at(i, torch.float64)
        for value, expected in zip((at.a, at.s), wanted, strict=True):
            torch.testing.assert_close(value.expand(EVENT), expected.expand(EVENT), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("a", "why"),
    [
        ("__import__('os').system('true')", "not allowed"),
        ("t.real", "'t.real' is not allowed"),
        ("(lambda: 1)()", "not allowed"),
        ("1 -", "no expression"),
        ("1 - T", "'T' is not allowed"),
        ("t // 2", "FloorDiv is not allowed"),
        ("True", "not allowed"),
        ("9**9**9", ""),
        ("(" * 300 + "t" + ")" * 300, ""),
    ],
)
def test_what_is_no_formula_is_refused(a, why):
    with pytest.raises(ConfigError, match="cannot read a = ") as caught:
        process(a)
    assert why in caught.value.what
    assert "t = i/N" in caught.value.details[0]


def test_what_grows_again_is_refused():
    with pytest.raises(PluginError, match="signal-to-noise ratio"):
        process("1 - t + 2*t**2", "0.5 + 0*t")
