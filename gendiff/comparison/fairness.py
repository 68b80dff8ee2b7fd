"""Fairness: what must be equal for a difference between two arms to be a difference of the arms."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from gendiff.comparison.plan import Contender, Plan
from gendiff.errors import ConfigError, did_you_mean
from gendiff.run.config import Config
from gendiff.run.directory import Run
from gendiff.run.network import build_denoiser

#: Name and meaning of each condition.
CONDITIONS = {
    "data": "the data",
    "basis": "the basis in which mean and variance of the data are taken",
    "condition": "what the network is told of events",
    "N": "the number of steps of the process",
    "images": "the number of images seen in training",
    "weights": "the initial weights of the network",
    "ema": "the decay of the averaged weights",
    "precision": "the arithmetic of the network",
    "nfe": "the number of network evaluations per sample",
    "prior": "the prior that chains start from",
    "seeds": "the seeds",
}


@dataclass(frozen=True)
class Unequal:
    """A condition in which an arm differs from the baseline.

    Args:
        condition: its name in `CONDITIONS`.
        arm, baseline: what the two have, as text.
        severe: whether it is refused unless it is allowed by name.

    """

    condition: str
    label: str
    arm: str
    baseline: str
    severe: bool = True

    def __str__(self) -> str:
        return f"{CONDITIONS[self.condition]} of {self.label} is {self.arm}, of the baseline {self.baseline}"


def conditions(plan: Plan, contender: Contender) -> dict[str, str]:
    """What a contender has for each condition, as text."""
    config = contender.config
    # Networks are compared as they begin with one seed, whichever seeds the runs have.
    seed = next(iter(plan.baseline.runs or plan.seeds))
    return {
        "data": _data(contender),
        "basis": config.basis.spec,
        "condition": _told(config),
        "N": str(config.N),
        "images": f"{_images(contender):,}",
        "weights": f"{_initial_weights(contender.with_seed(seed))} ({config.model.spec})",
        "ema": config.train.averaging.removeprefix("EMA "),
        "precision": config.train.precision,
        "prior": config.sampler.prior,
        "nfe": ", ".join(str(contender.evaluations(sampler)) for sampler in plan.samplers(contender)),
        "seeds": ", ".join(map(str, contender.runs or plan.seeds)),
    }


def unequal(plan: Plan) -> list[Unequal]:
    """Every condition in which an arm differs from the baseline."""
    theirs = conditions(plan, plan.baseline)
    return [
        Unequal(
            condition,
            contender.label,
            ours[condition],
            theirs[condition],
            _is_severe(condition, contender, plan.baseline),
        )
        for contender in plan.contenders[1:]
        for ours in [conditions(plan, contender)]
        for condition in CONDITIONS
        if ours[condition] != theirs[condition]
    ]


def _is_severe(condition: str, contender: Contender, baseline: Contender) -> bool:
    """Whether an inequality is refused.

    The priors ``standard`` and ``matched`` both make a start of nothing but the noise that all arms share, and which of them
    suits belongs to a process; only events of the data are a start of another kind. Another basis of the moments is refused where
    somebody chose it, and not where a process has to have its own.
    """
    pair = (contender, baseline)
    if condition == "prior":
        return "data" in [one.config.sampler.prior for one in pair]
    if condition == "basis":
        return any(one.diffusion.alike and one.config.basis.name != "dct" for one in pair)
    return True


def require_fair(plan: Plan) -> list[Unequal]:
    """What is unequal and allowed to be, by name or because it is not severe.

    Raises:
        ConfigError: where something is unequal that is not allowed, events differ in shape, or a name is allowed that is no
            condition.

    """
    for name in plan.allowed:
        if name not in (*CONDITIONS, "all"):
            raise ConfigError(
                f"there is no condition '{name}'",
                where="--allow",
                details=[f"known: {', '.join(CONDITIONS)}, all", did_you_mean(name, CONDITIONS)],
            )
    shape = plan.baseline.config.data.event_shape
    for contender in plan.contenders:
        if contender.config.data.event_shape != shape:
            raise ConfigError(
                f"{contender.label} has events of shape {contender.config.data.event_shape}, the baseline of {shape}",
                details=["no number compares events of different shapes"],
                fix="give arms of one size",
            )
    inequalities = unequal(plan)
    refusals = [
        one for one in inequalities if one.severe and one.condition not in plan.allowed and "all" not in plan.allowed
    ]
    if refusals:
        names = dict.fromkeys(one.condition for one in refusals)
        raise ConfigError(
            "this is not a fair comparison",
            details=[str(one) for one in refusals],
            fix=f"make them equal, or allow it and have it said: {' '.join(f'--allow {name}' for name in names)}",
        )
    return inequalities


def _data(contender: Contender) -> str:
    """The fingerprint of its data, and of what is held out of them."""
    held_out = contender.config.held_out and contender.config.held_out.fingerprint
    for path in contender.runs.values():
        held_out = Run.open(path).info.get("held_out", {}).get("fingerprint")
    mirrored = ", mirrored by chance" if contender.config.data.flip else ""
    return contender.config.data.fingerprint + mirrored + (f", held out {held_out}" if held_out else "")


def _told(config: Config) -> str:
    """Its conditions, and how often they are left out."""
    if not config.condition:
        return "nothing"
    return f"{', '.join(config.condition)}, left out for {config.train.condition_dropout:.0%}"


def _images(contender: Contender) -> int:
    """Images that its runs have seen, or will have."""
    train = contender.config.train
    if not contender.runs:
        return train.steps * train.batch
    return min(_steps(path) for path in contender.runs.values()) * train.batch


def _steps(path: Path) -> int:
    """Of the newest checkpoint of a run that exists."""
    steps = (path / "checkpoints").glob("step-*")
    return max((int(step.name.removeprefix("step-")) for step in steps), default=0)


@lru_cache(maxsize=64)
def _initial_weights(config: Config) -> str:
    """The hash of the network as it begins."""
    digest = hashlib.sha256()
    network = build_denoiser(config, torch.device("cpu")).network
    for name, weight in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)}".encode() + weight.contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
