"""Mixtures: data of which everything is known, under every condition, and the networks that know it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gendiff import Diffusion, NetworkScore, Parametrization, Pivot, ScoreModel, encode
from gendiff.condition import Condition, Given
from gendiff.score import from_x_0, network_input

CLASSES = 3
CONDITIONS = {"label": Condition.label(CLASSES)}


class Mixture(ScoreModel):
    """The exact belief of ``q(x_0) = Σ_k π_k N(m_k, diag c_k)`` in the coordinates of the process; a label is one component.

    Label K, or none, is all of them.
    """

    def __init__(self, diffusion: Diffusion, seed: int = 0, spread: float = 1.0) -> None:
        g = torch.Generator().manual_seed(seed)
        shape = (CLASSES, *diffusion.event_shape)
        self.diffusion = diffusion
        self.m = spread * torch.randn(shape, generator=g, dtype=torch.float64)
        self.c = torch.rand(shape, generator=g, dtype=torch.float64) * 0.5 + 0.1
        self.log_pi = torch.rand(CLASSES, generator=g, dtype=torch.float64).log_softmax(0)
        self.asked = 0

    def given(self, condition: Given) -> Mixture:
        model = object.__new__(Mixture)
        model.__dict__ = {**self.__dict__, "condition": dict(condition), "asked": 0}
        return model

    def log_each(self, x_bar: Tensor, i: int | Tensor) -> Tensor:
        """``log π_k q_k(x̄_i)``, ``(B, K)``, and -inf for a component that the condition excludes."""
        at = self.diffusion.asked(x_bar, i)
        a, s = (value[:, None] if value.ndim > len(self.diffusion.event_shape) else value for value in (at.a, at.s))
        m, c = self.m.to(x_bar), self.c.to(x_bar)
        v = a**2 * c + s**2
        log_q = -0.5 * ((x_bar[:, None] - a * m) ** 2 / v + v.log() + math.log(2 * math.pi)).flatten(2).sum(2)
        allowed = torch.ones(len(x_bar), CLASSES, dtype=torch.bool)
        if "label" in self.condition:
            label = self.condition["label"].expand(len(x_bar))
            allowed = (torch.arange(CLASSES) == label[:, None]) | (label[:, None] == CLASSES)
        return torch.where(allowed, log_q + self.log_pi.to(x_bar), -math.inf)

    def log_density(self, x_bar: Tensor, i: int | Tensor) -> Tensor:
        """``log q(x̄_i)`` up to a constant, ``(B,)``."""
        return self.log_each(x_bar, i).logsumexp(1)

    def score(self, x_bar: Tensor, i: int | Tensor) -> Tensor:
        """``∇ log q(x̄_i)``, by autograd: no belief is asked."""
        x = x_bar.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.log_density(x, i).sum(), x)
        return gradient

    def predict(self, x_bar: Tensor, i: int | Tensor) -> Pivot:
        self.asked += 1
        at = self.diffusion.asked(x_bar, i)
        a, s = (value[:, None] if value.ndim > len(self.diffusion.event_shape) else value for value in (at.a, at.s))
        m, c = self.m.to(x_bar), self.c.to(x_bar)
        of_each = m + a * c / (a**2 * c + s**2) * (x_bar[:, None] - a * m)
        weight = self.log_each(x_bar, i).softmax(1).reshape(len(x_bar), CLASSES, *[1] * (x_bar.ndim - 1))
        return from_x_0((weight * of_each).sum(1), x_bar, at)


class View(nn.Module):
    """A network that says of events what an exact model believes, in one of the seven views."""

    def __init__(self, model: Mixture, parametrization: Parametrization) -> None:
        super().__init__()
        self.model = model
        self.parametrization = parametrization

    def forward(self, x: Tensor, i: Tensor, condition: Given) -> Tensor:
        diffusion = self.model.diffusion
        at = diffusion.at(i.long(), x.dtype)
        zero = network_input(self.parametrization, torch.zeros_like(x), at)
        slope = network_input(self.parametrization, torch.ones_like(x), at) - zero
        x_bar = (diffusion.rotate(x) - zero) / slope  # what it sees is affine in x̄_i
        pivot = self.model.given(condition).predict(x_bar, i.long())
        return diffusion.unrotate(encode(self.parametrization, pivot, at))


def network(model: Mixture, parametrization: Parametrization) -> NetworkScore:
    """The mixture as a trained network that knows it."""
    return NetworkScore(View(model, parametrization), model.diffusion, parametrization, conditions=CONDITIONS)


def labels(*numbers: int) -> dict[str, Tensor]:
    return {"label": torch.tensor(numbers)}
