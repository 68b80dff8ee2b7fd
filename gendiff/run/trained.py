"""Trained model: a run's network, ready to sample, to restore and to be asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gendiff.condition import stacked
from gendiff.data import Data
from gendiff.denoiser import Denoiser, NetworkScore
from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError
from gendiff.grid import GridSampler
from gendiff.guide import Guide, check_restores, course, guided
from gendiff.operator import Measurement, Operator, Pair
from gendiff.run.asked import Asked, unsaid
from gendiff.run.between import Along, between
from gendiff.run.config import Config
from gendiff.run.curve import Point, curve
from gendiff.run.directory import Run
from gendiff.run.generation import generate, whence
from gendiff.run.layers import Layer, resolve
from gendiff.run.made import origin
from gendiff.run.network import score_of
from gendiff.run.origin import Origin
from gendiff.run.others import scene_of
from gendiff.run.weights import loaded
from gendiff.sampler import Sampler, invert, sample
from gendiff.score import ScoreModel, normalized
from gendiff.shapes import ShownByShape, check_events, check_number


@dataclass(frozen=True, repr=False)
class Belief(ShownByShape):
    """What a network believes of events that it sees corrupted, in event space: x̂_0 and ε̂, each ``(B, *event)``."""

    x_0: Tensor
    eps: Tensor


@dataclass(frozen=True, repr=False)
class TrainedModel:
    """A run's network, ready to sample: what `gendiff.load` and `gendiff.train` give.

    Args:
        weights: ``"ema"``, ``"model"``, or which of several averages, such as ``"ema-0.9999"`` or ``"posthoc-0.05"``, and the
            hash of their file, or of what was made of files.

    """

    run: Run
    denoiser: Denoiser
    step: int
    weights: str
    weights_hash: str

    @classmethod
    def load(
        cls,
        run: Run,
        device: torch.device,
        ema: bool | str = True,
        problems: list[str] | None = None,
        *,
        precision: str = "fp32",
        compiled: bool = False,
        step: int | None = None,
    ) -> TrainedModel:
        """The newest usable checkpoint, or that of a step.

        Args:
            run: where it is.
            device: where the network is to be.
            ema: which weights: True for the averages, where the run has them, the first of several; False for the raw ones; a
                decay such as ``"0.9999"`` for one of several; ``"posthoc:WIDTH"`` for an average that is made of snapshots.
            problems: why damaged checkpoints and snapshots were passed over is appended.
            precision: in which the network runs, ``fp32``, ``bf16``, or ``auto``: what its device computes well.
            compiled: whether it is compiled when it is asked first.
            step: of the checkpoint; left out, the newest.

        Raises `DataError` where there is none, and for weights that are not finite or of another network; `ConfigError` for an
        average that the run does not have.
        """
        there = loaded(run, device, ema, problems, precision, compiled, step)
        return cls(run.having(there.config), there.denoiser, there.step, there.group, there.digest)

    def __repr__(self) -> str:
        weights = {"ema": "averaged", "model": "current"}.get(self.weights, self.weights)
        return f"TrainedModel({str(self.run.path)!r}, step {self.step}, {weights} weights, {self.diffusion})"

    @property
    def config(self) -> Config:
        """All that defines the run."""
        return self.run.config

    @property
    def curve(self) -> list[Point]:
        """The looks at the losses of held-out and of training events, first to last; empty where nothing is held out."""
        return curve(self.run.rows())

    @property
    def data(self) -> Data:
        """What it was trained on; raises `DataError` where they are gone, or not as they were."""
        return self.run.data()

    def pictures(self, events: Tensor) -> Tensor:
        """Events ``(n, *event)`` as pictures: latents are decoded, others are what they are."""
        return self.config.data.pictures(events)

    def events(self, pictures: Tensor) -> Tensor:
        """Pictures ``(n, *picture)`` as events: encoded where events are latents."""
        return self.config.data.events(pictures)

    @property
    def diffusion(self) -> Diffusion:
        """The process of the run, on the device of the network."""
        return self.denoiser.diffusion

    @property
    def network(self) -> nn.Module:
        """The network, with these weights."""
        return self.denoiser.network

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.denoiser.parameters()).device

    @property
    def score(self) -> NetworkScore:
        """The network as a score model, for `sample` and all else that asks one."""
        return score_of(self.denoiser, self.diffusion, self.config)

    def sample(
        self,
        n: int = 64,
        sampler: Sampler | str | None = None,
        seed: int = 0,
        *,
        condition: Mapping[str, Any] | None = None,
        guide: Guide | str | Sequence[Guide | str] = (),
        source: Tensor | None = None,
        strength: float = 0.5,
    ) -> Tensor:
        """The first ``n`` events of a seed, ``(n, *event)`` on the CPU, equal to what ``gendiff sample`` draws before it rounds.

        Args:
            sampler: a sampler or its spec; left out, the one of the run.
            condition: by name a value, or a list of values that are drawn in turn, ``{"label": 3}``, ``{"label": [3, 5]}``;
                left out, every class in turn.
            guide: a guide or its spec, or several in the order in which they are put on: ``"cfg:weight=3"``.
            source: events ``(P, *event)`` to go on from: event k of the n is draw k // P from the source k % P.
            strength: how far towards noise they are brought first, in (0, 1]: to step ``strength N``. The sampler takes the same
                part of its steps. (Meng et al. 2022, SDEdit, arXiv 2108.01073.)

        Raises:
            ArgumentError: where ``source`` are no events, or the strength is not in (0, 1].
            ConfigError: for a sampler that cannot sample this process, a condition that the network does not take, and a guide
                that cannot guide it.
            NotFinite: where events are not finite.

        """
        images = range(check_number(n, "n"))
        asked = Asked.of(self.config, condition, _guides(guide))
        if source is not None:
            asked = asked.going_on(source, strength, self.diffusion.event_shape)
        drawn = generate(self.denoiser, self.run, self._sampler(sampler), seed, images, n, asked=asked)
        return torch.cat([events.cpu() for events in drawn])

    def check(self, asked: Asked, sampler: Sampler | None = None) -> None:
        """Raise `ConfigError` for a guide that cannot guide this network, before anything is drawn; ``sampler``: of the run."""
        model = self.score.given(asked.told(self.config.conditions, [0]))
        process, sampler = whence(self.diffusion, sampler or self.config.sampler, asked)
        course(model, sampler, asked.guides, scene_of(self.run, self.denoiser, asked, process).rows([0]))

    def restore(
        self,
        y: Tensor,
        operator: Operator | str | Pair | Callable[[Tensor], Tensor],
        sigma: float = 0.0,
        method: Guide | str = "pigdm",
        n: int | None = None,
        sampler: Sampler | str | None = None,
        seed: int = 0,
        *,
        condition: Mapping[str, Any] | None = None,
        guide: Guide | str | Sequence[Guide | str] = (),
    ) -> Tensor:
        """Events from what was measured of them, ``y = A x_0 + σ n``, equal to what ``gendiff restore`` draws before it rounds.

        Each is restored by itself: a batch is the same event by event.

        Args:
            y: ``(P, *measured)``.
            operator: A, or its spec; a pair of functions, A and its adjoint, or A alone, whose adjoint autograd finds.
            sigma: σ, in the units of the events: of pictures in [-1, 1], half of a full step of grey is 1.
            method: a guide that restores, or its spec: ``"pigdm"``, ``"ddrm:eta=0.5"``, ``"dps"``, ``"replacement"``.
            n: how many draws of each; left out, one.
            sampler, seed, guide: as of `sample`; guides are put on before the method.
            condition: as of `sample`; left out, the network is told nothing.

        Returns:
            ``(P, *event)`` on the CPU, and ``(P, n, *event)`` where n is given.

        Raises:
            ArgumentError: where ``y`` is not what the operator gives.
            ConfigError: for an operator that does not fit, and a method that cannot restore this.
            PluginError: for an operator that is not linear, or whose adjoint is none.
            NotFinite: where events are not finite.

        """
        if not isinstance(operator, Operator | str):
            operator = Operator.of(operator) if callable(operator) else Operator.of(*operator)
        measurement = Measurement.checked(Operator(operator), y, sigma, self.diffusion.event_shape)
        check_restores(Guide(method))
        asked = Asked.of(self.config, condition, [*_guides(guide), Guide(method)], measurement)
        images = range(len(y) * (1 if n is None else check_number(n, "n")))
        drawn = generate(self.denoiser, self.run, self._sampler(sampler), seed, images, len(images), asked=asked)
        events = torch.cat([part.cpu() for part in drawn])
        return events if n is None else events.unflatten(0, (n, len(y))).transpose(0, 1).contiguous()

    def invert(
        self,
        x_0: Tensor,
        steps: int | None = None,
        condition: Mapping[str, Any] | None = None,
        guide: Guide | str | Sequence[Guide | str] = (),
    ) -> Tensor:
        """``x_N``, ``(B, *event)`` in event space, from which the deterministic path leads back to ``x_0``, but for errors.

        Args:
            x_0: events ``(B, *event)``.
            steps: evaluations of the network, at steps of the grid ``arc-length``; left out, one at every step.
            condition, guide: as of `sample`; left out, the network is told nothing.

        Raises:
            ArgumentError: where ``x_0`` are no events.
            ConfigError: for more steps than the process has, and a condition or a guide that does not fit.

        """
        model = self._steered(x_0, condition, guide)
        with torch.no_grad():
            x_bar = invert(self.diffusion, model, x_0.to(self.device), self._path(steps).descent(self.diffusion))
            return self.diffusion.unrotate(x_bar).cpu()

    def lead_back(
        self,
        x_N: Tensor,
        steps: int | None = None,
        condition: Mapping[str, Any] | None = None,
        guide: Guide | str | Sequence[Guide | str] = (),
    ) -> Tensor:
        """``x_0``, ``(B, *event)``, at the other end of the deterministic path; arguments as of `invert`."""
        model = self._steered(x_N, condition, guide)
        start = self.diffusion.rotate(x_N.to(self.device))
        return sample(self.diffusion, model, self._path(steps), start=start, graph=False).cpu()

    def interpolate(
        self,
        one: Tensor,
        other: Tensor,
        n: int = 8,
        steps: int | None = None,
        condition: Mapping[str, Any] | None = None,
        guide: Guide | str | Sequence[Guide | str] = (),
        *,
        along: Along = "spherical",
    ) -> Tensor:
        """``n`` events from one to the other, both among them: ``(n, *event)``, the ends as the path leads back to them.

        Both are brought to ``x_N``, and there ``y = (x̄_N - a m)/sqrt(v)``, of unit variance, is led from one to the other.

        Args:
            one, other: events ``(*event)``.
            along: ``spherical``, on the great circle between them; ``variance``, by cos and sin of an angle, which keeps the
                variance of what is independent; ``linear``.
            n, steps, condition, guide: as of `invert`.

        """
        ends = self.diffusion.rotate(self.invert(torch.stack([one, other]), steps, condition, guide).to(self.device))
        end = self.diffusion.at(self.diffusion.N)
        y = between(normalized(ends, end), check_number(n, "n"), along)
        x_N = self.diffusion.unrotate(end.a * end.m + end.v.sqrt() * y)
        return self.lead_back(x_N, steps, condition, guide)

    def _steered(
        self, x: Tensor, condition: Mapping[str, Any] | None, guide: Guide | str | Sequence[Guide | str]
    ) -> ScoreModel:
        """The network under one condition, and guides, for a batch of events."""
        check_events(x, self.diffusion.event_shape)
        told = Asked.of(self.config, unsaid(self.config) if condition is None else condition).conditions
        if len(told) > 1:
            raise ConfigError(f"{len(told)} conditions, where one is asked", fix="say one value of each condition")
        model = self.score.given(stacked(self.config.conditions, told) if self.config.conditions else {})
        scene = scene_of(self.run, self.denoiser, Asked(), self.diffusion)
        return guided(model, _guides(guide), scene)

    def _path(self, steps: int | None) -> GridSampler:
        """The sampler that goes along the deterministic path as `invert` comes."""
        sampler = Sampler("trig", clip=False, steps=steps)
        assert isinstance(sampler, GridSampler)
        return sampler

    def _sampler(self, choice: Sampler | str | None) -> Sampler:
        """A sampler, what a spec makes of that of the run, or that of the run."""
        if not isinstance(choice, str):
            return self.config.sampler if choice is None else choice
        own = {"N": self.config.N, "sampler": self.config.sampler.table()}
        return resolve([Layer("the run", own), Layer("sampler", {"sampler": choice})]).config.sampler

    def origin(
        self, sampler: Sampler, seed: int, n: int, *options: str, asked: Asked | None = None, by: str = "sample"
    ) -> Origin:
        """What made the first ``n`` events of a seed; ``options`` of ``gendiff sample``, or another command, belong to it."""
        weights = (self.step, self.weights, self.weights_hash)
        return origin(self.run, self.denoiser, sampler, weights, seed, n, *options, asked=asked, by=by)

    def predict(self, x: Tensor, i: float | Tensor) -> Belief:
        """What the network believes of corrupted events ``x_i``, ``(B, *event)``, at one step or steps ``(B,)`` in 1..N.

        Autograd follows where ``x`` requires a gradient.
        """
        with torch.set_grad_enabled(x.requires_grad):
            pivot = self.score.predict(self.diffusion.rotate(x), i)
            return Belief(self.diffusion.unrotate(pivot.x_0), self.diffusion.unrotate(pivot.eps))


def _guides(guide: Guide | str | Sequence[Guide | str]) -> list[Guide]:
    return [Guide(one) for one in ([guide] if isinstance(guide, Guide | str) else guide)]
