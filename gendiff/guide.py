r"""Guide: what steers a sample, whatever the process, the basis and the sampler.

Every sampler is an affine plan in one belief, the pivot (x̂_0, ε̂) of `gendiff.score`. A guide puts another in its place,

    (x̂_0, ε̂)'  =  pivot(model, x̄_i, i) ,     x̄_i = a x̂_0' + s ε̂' ,

and sampler, grid and trajectory go on as before. Guides compose: the second asks what the first made of the model.

A belief is affine in the score, with coefficients of each component: mixing two pivots mixes their scores, in every view.

A classifier, or whatever else tells how likely an event is to be as it should, steers by its gradient (`ClassifierGuide`):

    ε̂' = ε̂ - w s ∇ log p(y | x̄_i) ,     x̂_0' = x̂_0 + w (s²/a) ∇ log p(y | x̄_i) .


A guide whose method has a walk of its own, with other noise, or up again now and then, brings its sampler; one that thinks in
other coordinates says in which (`Guide.home`): where all components are scaled alike, any basis is the process's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor, nn

from gendiff.component import Component, abstractmethod
from gendiff.condition import Given
from gendiff.diffusion import Diffusion
from gendiff.errors import ArgumentError, ConfigError, PluginError
from gendiff.level import Level
from gendiff.operator import Measurement
from gendiff.sampler import Sampler
from gendiff.score import LOG_A_PRIOR, Pivot, ScoreModel, believe
from gendiff.shapes import ShownByShape, takes


def no_other(name: str) -> ScoreModel:
    """Where there is no run that has other checkpoints."""
    raise ConfigError(
        f"there is no other model '{name}' here", details=["a run has some: those of its other checkpoints"]
    )


@dataclass(frozen=True, repr=False)
class Scene(ShownByShape):
    """What a guide may know of what is drawn.

    Args:
        diffusion: the process.
        dropout: with which chance the model was trained without conditions: at 0 it does not know ``q(x_0)``.
        other: another model of the same process by its name, which is told of nothing yet: the checkpoint ``@STEP`` of the run,
            or ``RUN@STEP`` of another, by its averaged weights, and by its raw ones where ``:raw`` follows; ``last`` is a STEP
            too. Raises `ConfigError` where there is none.
        measurement: what was measured of the events, where they are restored.
        descent: the steps at which the model is asked, from N down, and 0; left out, every step.

    """

    diffusion: Diffusion
    dropout: float = 0.0
    other: Callable[[str], ScoreModel] = no_other
    measurement: Measurement | None = None
    descent: tuple[float, ...] = ()

    @cached_property
    def on_host(self) -> Diffusion:
        """The process where Python is: what a guide decides by its numbers there, no device is waited for."""
        return self.diffusion if self.diffusion.scales.device.type == "cpu" else self.diffusion.to("cpu")

    def next(self, i: float | Tensor) -> float | Tensor:
        """The step to which a sampler goes down from i."""
        if isinstance(i, Tensor):
            return torch.tensor([self.next(step) for step in i.tolist()], device=i.device)
        return next((j for j in self.descent if j < i), i - 1)

    def rows(self, part: Sequence[int]) -> Scene:
        """The same for these events of a batch."""
        return replace(self, measurement=self.measurement and self.measurement.rows(part))


class Guide(Component):
    """An author gives `pivot`, and `check` where something must be there before anything is drawn.

    One that steers by the gradient of a probability derives from `ClassifierGuide` and gives its logarithm.
    """

    kind: ClassVar[str] = "guide"

    #: Whether it restores what was measured, and can be the method of `TrainedModel.restore`.
    restores: ClassVar[bool] = False

    if TYPE_CHECKING:

        def __init__(self, spec: str | Mapping[str, Any] | Self = ..., /, **parameters: Any) -> None: ...

    def check(self, model: ScoreModel, scene: Scene) -> None:
        """Raise `ConfigError` where it cannot guide this model in this scene: what is missing; here it can."""
        return

    @abstractmethod
    def pivot(self, model: ScoreModel, x_bar: Tensor, i: float | Tensor, scene: Scene) -> Pivot:
        """The belief about ``x̄_i``, ``(B, *event)``, that takes the place of the model's; `believe` asks a model.

        Each event by itself: the pivot of one does not depend on which others are drawn with it, beyond rounding.
        """

    def sampler(self, sampler: Sampler, scene: Scene) -> Sampler:
        """The sampler that goes with it where that of the run cannot; here the same.

        Raises `ConfigError` where neither can.
        """
        return sampler

    def home(self, diffusion: Diffusion, scene: Scene) -> Diffusion:
        """The process in the coordinates in which its sampler is written; here as it is.

        Another one is the same process in another basis: steps and scales are equal. Beliefs stay in ``scene.diffusion``.
        """
        return diffusion


def check_restores(guide: Guide) -> None:
    """Raise `ConfigError` where a guide cannot be the method of a restoration."""
    if not guide.restores:
        raise ConfigError(
            f"guide '{guide.name}' restores nothing: it knows of no measurement",
            details=["methods of gendiff: pigdm, ddrm, dps, replacement"],
            fix="choose one of them; other guides are put on besides: --guide",
            subject="guide.name",
        )


class Guided(ScoreModel):
    """A model as a guide has it."""

    def __init__(self, model: ScoreModel, guide: Guide, scene: Scene) -> None:
        self.model = model
        self.guide = guide
        self.scene = scene
        self.value_range = model.value_range
        self.condition = model.condition

    def __repr__(self) -> str:
        return f"Guided({self.model}, {self.guide.spec})"

    def given(self, condition: Given) -> Guided:
        """The same guide on the model under another condition."""
        return Guided(self.model.given(condition), self.guide, self.scene)

    def predict(self, x_bar: Tensor, i: float | Tensor) -> Pivot:
        return self.guide.pivot(self.model, x_bar, i, self.scene)


def guided(model: ScoreModel, guides: Sequence[Guide], scene: Scene) -> ScoreModel:
    """A model under guides, in this order; raises `ConfigError` where one of them cannot guide it."""
    for guide in guides:
        _check(guide, model, scene)
        model = Guided(model, guide, scene)
    return model


def _check(guide: Guide, model: ScoreModel, scene: Scene) -> None:
    """Raise what `Guide.check` raises, and say of which guide it is."""
    try:
        guide.check(model, scene)
    except ConfigError as error:
        error.where = error.where or f"{'--method' if guide.restores else '--guide'} {guide.spec}"
        raise


@dataclass(frozen=True, repr=False)
class Course(ShownByShape):
    """What `sample` is given: a process, a model in its coordinates, and a sampler."""

    diffusion: Diffusion
    model: ScoreModel
    sampler: Sampler


def course(model: ScoreModel, sampler: Sampler, guides: Sequence[Guide], scene: Scene) -> Course:
    """How a sampler goes on under guides, in this order; raises `ConfigError` where one of them cannot guide it."""
    for guide in guides:
        _check(guide, model, scene)  # before any is asked for more
    home = reduce(lambda own, guide: guide.home(own, scene), guides, scene.diffusion)
    sampler = reduce(lambda own, guide: guide.sampler(own, scene), guides, sampler)
    if guides:
        asked = {update.i for update in sampler.plan(home)}
        scene = replace(scene, descent=(*sorted(asked, reverse=True), 0))
    model = guided(model, guides, scene)
    return Course(home, model if home is scene.diffusion else Rebased(model, scene.diffusion, home), sampler)


class Rebased(ScoreModel):
    """A model of one process as one of the same process in another basis."""

    def __init__(self, model: ScoreModel, own: Diffusion, home: Diffusion) -> None:
        self.model = model
        self.own = own
        self.home = home
        self.value_range = model.value_range
        self.condition = model.condition

    def __repr__(self) -> str:
        return f"Rebased({self.model}, {self.home.rotation})"

    def given(self, condition: Given) -> Rebased:
        return Rebased(self.model.given(condition), self.own, self.home)

    def predict(self, x_bar: Tensor, i: float | Tensor) -> Pivot:
        pivot = believe(self.model, rebased(x_bar, self.home, self.own), i)
        return Pivot(*(rebased(part, self.own, self.home) for part in (pivot.x_0, pivot.eps)))


def rebased(x_bar: Tensor, one: Diffusion, other: Diffusion) -> Tensor:
    """Coordinates of one process, ``(B, *event)``, as those of another."""
    return x_bar if one.rotation == other.rotation else other.rotate(one.unrotate(x_bar))


def mixed(fixed: Pivot, other: Pivot, weight: float | Tensor) -> Pivot:
    """``fixed + weight (other - fixed)`` of both entries, and so of the scores; ``weight`` broadcasts over components."""
    return Pivot(fixed.x_0 + weight * (other.x_0 - fixed.x_0), fixed.eps + weight * (other.eps - fixed.eps))


class ClassifierGuide(Guide):
    r"""A guide by the gradient of a log-probability; an author gives `log_prob`, and a condition or parameters say of what.

    With ``g = ∇ log p(y | x̄_i)`` in the coordinates of the process, the score of ``q(x_i) p(y | x_i)^weight`` is believed:
    ``ε̂' = ε̂ - weight s g`` and ``x̂_0' = x̂_0 + weight (s²/a) g``. A component that is pure prior stays as it is.

    Where nobody asks for a gradient, the graph of each step is gone when the step is done.

    Reference: Dhariwal, Nichol 2021, Diffusion Models Beat GANs on Image Synthesis, arXiv 2105.05233; of clean events Bansal et
    al. 2023, Universal Guidance for Diffusion Models, arXiv 2302.07121.
    """

    #: Whether `log_prob` is asked of clean events: of what the model believes of x_0, through which the gradient then goes. An
    #: ordinary classifier will do; the network is differentiated at each step.
    clean: ClassVar[bool] = False
    weight: float = Field(1.0, description="the power of the probability; 0 leaves the model as it is")

    @abstractmethod
    def log_prob(self, x: Tensor, i: Tensor, condition: Given) -> Tensor:
        """``log p(y | x)`` of each event, ``(B,)``, up to a constant, differentiable in ``x``.

        Args:
            x: events in event space, ``(B, *event)``: noisy ones, ``x_i``, or x̂_0 where the class says ``clean``.
            i: steps, ``(B,)``, int64.
            condition: what the model is told of each of the events, by name; empty where it is told of nothing.

        """

    @final
    def pivot(self, model: ScoreModel, x_bar: Tensor, i: float | Tensor, scene: Scene) -> Pivot:
        if self.weight == 0:
            return believe(model, x_bar, i)
        at, graph = scene.diffusion.asked(x_bar, i), torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            followed = x_bar if graph and x_bar.requires_grad else x_bar.detach().clone().requires_grad_()
            belief = believe(model, followed, i) if self.clean else None
            x = scene.diffusion.unrotate(followed if belief is None else belief.x_0)
            log_prob = self._checked(x, at.i.expand(len(x)), _of_each(model.condition, x))
            (g,) = torch.autograd.grad(log_prob.sum(), followed, create_graph=graph, allow_unused=True)
        if g is None:
            raise self._fault("log_prob does not depend on x")
        belief = believe(model, x_bar, i) if belief is None else belief
        return _moved(belief, self.weight * g, at)

    def _checked(self, x: Tensor, i: Tensor, condition: Given) -> Tensor:
        log_prob = self.log_prob(x, i, condition)
        if not isinstance(log_prob, Tensor) or log_prob.shape != (len(x),):
            shape = tuple(log_prob.shape) if isinstance(log_prob, Tensor) else type(log_prob).__name__
            raise self._fault(f"log_prob returned {shape}".replace("torch.", ""))
        if not log_prob.requires_grad:
            raise self._fault("log_prob has no gradient")
        return log_prob

    def _fault(self, what: str) -> PluginError:
        return PluginError(
            f"guide '{self.name}': its {what}",
            details=["expected: one number for each event, (B,), computed from x by torch"],
            fix="return such as network(x).log_softmax(1)[:, y], without detach, no_grad or argmax",
            subject="guide.name",
        )


class GivenClassifier(ClassifierGuide):
    """a function or a module that was given in Python, by `as_guide`; it sees noisy events."""

    name = "python-classifier"
    function: str = Field(description="what was given, as module:name")

    _function: Callable[..., Tensor] | None = PrivateAttr(None)

    @property
    def told(self) -> int:
        """How many of x, i and condition the function is called with: those that it needs; 0 where that cannot be."""
        own = self._function.forward if isinstance(self._function, nn.Module) else self._function
        return next((count for count in (1, 2, 3) if own is not None and takes(own, *[None] * count)), 0)

    def check(self, model: ScoreModel, scene: Scene) -> None:
        if self._function is None:
            raise ConfigError(
                f"the classifier was given in Python, {self.function}, and is not here",
                fix="give it again in Python: as_guide(log_prob)",
            )

    def log_prob(self, x: Tensor, i: Tensor, condition: Given) -> Tensor:
        assert self._function is not None  # so says `check`
        return self._function(*(x, i, condition)[: self.told])


class GivenCleanClassifier(GivenClassifier):
    """a function or a module that was given in Python, by `as_guide`; it sees clean events."""

    name = "python-clean-classifier"
    clean = True


def as_guide(log_prob: Callable[..., Tensor], weight: float = 1.0, *, clean: bool = False) -> ClassifierGuide:
    """A guide from a function or a module: ``as_guide(lambda x: net(x).log_softmax(1)[:, 3], clean=True)``.

    Args:
        log_prob: of events ``(B, *event)``, steps ``(B,)`` and conditions by name, or of the first or first two of them; gives
            ``(B,)``.
        weight: the power of the probability.
        clean: whether it is asked of clean events, of what the model believes of x_0, and not of noisy ones.

    Raises:
        ArgumentError: where it is nothing of the kind.

    """
    name = getattr(log_prob, "__qualname__", type(log_prob).__qualname__)
    cls = GivenCleanClassifier if clean else GivenClassifier
    guide = cls(function=f"{getattr(log_prob, '__module__', '')}:{name}", weight=weight)
    guide._function = log_prob
    if isinstance(log_prob, type) or not callable(log_prob) or not guide.told:
        raise ArgumentError(
            f"log_prob is {log_prob!r:.80}",
            details=["a function of (x), (x, i) or (x, i, condition), or such a module"],
        )
    return guide


def _of_each(condition: Given, x: Tensor) -> dict[str, Tensor]:
    return {name: value.to(x.device).expand(len(x), *value.shape[1:]) for name, value in condition.items()}


def _moved(pivot: Pivot, g: Tensor, at: Level) -> Pivot:
    """The belief whose score is larger by g."""
    prior = at.log_a < LOG_A_PRIOR
    per_x_0 = torch.where(prior, 0.0, (2 * at.log_s - at.log_a).exp()).to(g)
    return Pivot(pivot.x_0 + per_x_0 * g, pivot.eps - torch.where(prior, 0.0, at.s) * g)
