"""Processes and dense oracles that several tests use."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from gendiff import ChannelRotation, Config, Diffusion, Rotation, Velocity
from gendiff.moments import Moments
from gendiff.plugin.registry import default_registry
from gendiff.testing import fitted as ready
from gendiff.testing import fitted_velocity

N = 50  # enough steps for every regime, few enough for dense matrices


def component(interface: type, spec):
    """The component of a spec such as ``"log:f_max=0.3"``."""
    return interface.model_validate(spec)


def diffusion(rotation="dct", velocity="blur", event_shape=(2, 5, 7), N=N) -> Diffusion:
    U = fitted(rotation, event_shape)
    B = fitted_velocity(component(Velocity, velocity), U, event_shape)
    return Diffusion.of(U, B, event_shape, N, Moments.standard(event_shape))


def scales_at(process: Diffusion, i, dtype=torch.float32) -> tuple[Tensor, Tensor]:
    """``(a_i, s_i)`` at one step or at steps ``(B,)``."""
    at = process.at(i, dtype)
    return at.a, at.s


def dense(rotation: Rotation, event_shape: tuple[int, ...]) -> Tensor:
    """U as a d x d float64 matrix whose columns are the basis events."""
    d = torch.Size(event_shape).numel()
    return rotation.unrotate(torch.eye(d, dtype=torch.float64).reshape(d, *event_shape)).reshape(d, d).T


def fitted(spec, event_shape) -> Rotation:
    """A rotation for events of that shape; one that learns from data has learned from smooth noise."""
    return ready(component(Rotation, spec), event_shape)


def rotations() -> list[str]:
    """Every basis of space, and one that mixes channels of any number besides."""
    entries = default_registry().entries("rotation")
    return [*(entry.name for entry in entries if not issubclass(entry.load(), ChannelRotation)), "channel-pca+dct"]


#: The paper's velocities, for any rotation.
VELOCITIES = ("blur", "isotropic", "fine-to-coarse")

#: Other velocities, each in its own basis and in one that has channels, phases or patches of its own.
RELATIVES = [
    ("dct", "blurring"),
    ("haar", "blurring:d_min=0"),
    ("dct", "heat:sigma_max=5"),
    ("hartley", "heat:sigma_max=2"),
    ("dct", "cold"),
    ("dct", "reversed"),
    ("haar", "reversed:velocity=blurring"),
    ("hartley", "spectrum-matched"),
    ("dct", "spectrum-matched:power_law=[1.59,0.0086,2]"),
    ("hartley", "equal-snr"),
    ("identity", "equal-snr:noise=cosine"),
    ("dct", "equal-snr:flipped=true"),
    ("dct", "soft-conditioning"),
    ("klt:patch=3", "soft-conditioning:soft=0.1"),
    ("dct", "reversed:velocity=soft-conditioning"),
    ("haar", "edm"),
    ("dct", "anisotropic"),
    ("hartley", "coloured:terminal=true"),
    ("dct:axes=[0.5]", "coloured:colour=pyramid,velocity=heat"),
]

#: Every rotation with the paper's velocities, the blur velocity with every schedule and noise, and the relatives.
PROCESSES = [
    # fine-to-coarse has nothing to act on where D = 1; it refuses, see test_diffusion.
    *((U, B) for U, B in itertools.product(rotations(), VELOCITIES) if (U, B) != ("identity", "fine-to-coarse")),
    *(("dct", {"name": "blur", "schedule": name}) for name in default_registry().names("schedule")),
    *(("dct", {"name": "blur", "noise": name}) for name in default_registry().names("noise")),
    ("blur-eigen:released_tiling=true", "blur"),
    *RELATIVES,
]

__all__ = [
    "PROCESSES",
    "RELATIVES",
    "Config",
    "N",
    "component",
    "dense",
    "diffusion",
    "fitted",
    "rotations",
    "scales_at",
]
