"""Reverse: what a trained network does on its way from noise, under one class and guidance; drawn once, looked at by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gendiff.command import command
from gendiff.guide import Guide
from gendiff.kept import Kept
from gendiff.run.asked import ALL, Asked
from gendiff.run.generation import generate
from gendiff.run.trained import TrainedModel
from gendiff.sampler import Snapshot
from gendiff_cli.explorer.drawing import picture

CHAINS = 4
KEPT = 16  # ways, of some megabytes each
VIEWS = 61  # of a way, at most
STRONGEST = 10.0  # guidance that a slider goes to


@dataclass(frozen=True)
class Wish:
    """What is asked of the network.

    Args:
        label: a class of the condition by its name; `ALL` for each in turn.
        weight: of classifier-free guidance; at 1 there is none.
        seed: of the noise.

    """

    label: str = ALL
    weight: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class View:
    """Chains at one step.

    Args:
        i: the step.
        events: x_i, ``(CHAINS, *picture)``.
        belief: the x̂_0 that the network believes in there; at step 0 the events themselves.

    """

    i: float
    events: Tensor
    belief: Tensor

    @property
    def html(self) -> str:
        """Both as rows of pictures."""
        i = f"{self.i:g}"
        events = _row(self.events, f"x<sub>i</sub> of {len(self.events)} chains, i = {i}", f"x_{i}")
        belief = _row(self.belief, "x̂<sub>0</sub>, what the network believes there", "belief")
        return f'<div class="reverse">{events}{belief}</div>'


def _row(events: Tensor, caption: str, alt: str) -> str:
    tiles = "".join(picture(event, f"{alt}, chain {k + 1}") for k, event in enumerate(events))
    return f"<figure><div>{tiles}</div><figcaption>{caption}</figcaption></figure>"


def nearest(way: Sequence[View], i: float) -> View:
    """The view at the step nearest to i."""
    return min(way, key=lambda view: abs(view.i - i))


@dataclass
class Reverse:
    """A trained run, and the ways that were looked at before."""

    model: TrainedModel
    kept: Kept[Wish, list[View]] = field(default_factory=partial(Kept, KEPT))

    @property
    def condition(self) -> str:
        """The name of the label that the network is told; empty where it is told none."""
        labels = [name for name, one in self.model.config.conditions.items() if one.type == "label"]
        return labels[0] if labels else ""

    @property
    def classes(self) -> list[str]:
        """The classes that can be asked for; none where the network is told of none."""
        return [ALL, *self.model.config.conditions[self.condition].classes] if self.condition else []

    @property
    def guidable(self) -> bool:
        """Whether classifier-free guidance is possible: the network is told of a class, and was trained without it too."""
        return bool(self.condition) and self.model.config.train.condition_dropout > 0

    def asked(self, wish: Wish) -> Asked:
        """The same for `generate`; raises `GendiffError` for a class or a guide that does not fit."""
        told: dict[str, Any] | None = {self.condition: wish.label} if self.condition else None
        guides = [Guide(f"cfg:weight={wish.weight:g}")] if self.guidable and wish.weight != 1 else []
        return Asked.of(self.model.config, told, guides)

    def way(self, wish: Wish, heed: Callable[[], None] = lambda: None) -> list[View]:
        """The chains from N to 0, drawn where they were not before; ``heed`` is called at each step and may raise to stop."""
        return self.kept.of(wish, lambda: self._drawn(wish, heed))

    def _drawn(self, wish: Wish, heed: Callable[[], None]) -> list[View]:
        model, asked, sampler = self.model, self.asked(wish), self.model.config.sampler
        model.check(asked)
        last = len(sampler.plan(model.diffusion))
        numbers = {round(k * last / (VIEWS - 1)) for k in range(VIEWS)}
        before: list[tuple[float, Tensor]] = []  # a view that waits for what is believed at it
        way = list[View]()

        def shown(x_bar: Tensor) -> Tensor:
            return model.pictures(model.diffusion.unrotate(x_bar)).cpu()

        def watch(snapshot: Snapshot) -> None:
            heed()
            if before and snapshot.pivot is not None:
                way.append(View(*before.pop(), shown(snapshot.pivot.x_0)))
            if snapshot.number in numbers:
                events = shown(snapshot.x_bar)
                if snapshot.number == last:
                    way.append(View(float(snapshot.j), events, events))
                else:
                    before.append((float(snapshot.j), events))

        with torch.no_grad():
            drawn = generate(
                model.denoiser, model.run, sampler, wish.seed, range(CHAINS), CHAINS, watch, chunk=CHAINS, asked=asked
            )
            list(drawn)
        return way

    def command(self, wish: Wish) -> str:
        """What draws them as files."""
        options = [*self.asked(wish).options, *(["--seed", wish.seed] if wish.seed else [])]
        return command("sample", self.model.run.path, "--n", CHAINS, *options, "--trajectory")
