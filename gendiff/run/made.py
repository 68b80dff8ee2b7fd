"""Made: what made samples, put together from a run, its weights, and how they are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gendiff.command import command
from gendiff.component import parse_spec, spec_value
from gendiff.denoiser import Denoiser
from gendiff.plugin.discovery import version
from gendiff.run.asked import Asked
from gendiff.run.config import Config
from gendiff.run.directory import Run
from gendiff.run.layers import Layer, resolve
from gendiff.run.origin import Origin
from gendiff.sampler import Sampler


def origin(
    run: Run,
    denoiser: Denoiser,
    sampler: Sampler,
    weights: tuple[int, str, str],
    seed: int,
    n: int,
    *options: str,
    asked: Asked | None = None,
    by: str = "sample",
) -> Origin:
    """What makes the first ``n`` events of a seed: the run, its ``weights`` (step, group, hash), and how they are drawn."""
    config, info = run.config, run.info
    step, group, digest = weights
    averaged, decay = group != "model", config.train.averages.get(group)
    width = group.removeprefix("posthoc-") if group.startswith("posthoc-") else ""
    strangers = {what: who for what, who in info.get("providers", {}).items() if not who.get("built_in")}
    grid = getattr(sampler, "grid", None)
    again = ["--n", n, "--sampler", _spec_on(config, sampler), "--seed", seed, *asking_options(config, denoiser, group)]
    asked = asked or Asked.of(config)
    again += asked.options
    return Origin(
        {
            "run": {"id": info["id"], "name": run.path.name},
            "step": step,
            "weights": {
                "kind": "averaged" if averaged else "raw",
                **({"decay": decay} if decay is not None else {"width": float(width)} if width else {}),
                "hash": digest,
            },
            "process": {
                "rotation": _recorded(run, "rotation"),
                "velocity": _recorded(run, "velocity"),
                "N": config.N,
                "sha256": str(info.get("process", {}).get("sha256", ""))[:12],
            },
            "objective": _recorded(run, "objective"),
            "model": _recorded(run, "model"),
            "data": info["data"]["fingerprint"],
            "sampler": {
                "spec": sampler.spec,
                "steps": getattr(sampler, "steps", None),
                "evaluations": sampler.evaluations(denoiser.diffusion),
                "grid": grid.spec if grid is not None else None,
                "prior": sampler.prior,
            },
            **asked.facts(config.conditions),
            "seed": seed,
            "n": n,
            "precision": denoiser.precision,  # of what is drawn, however the network was trained
            "device": device_name(next(denoiser.parameters()).device),
            "versions": {package: version(package) for package in ("gendiff", "torch", "numpy")},
            "plugins": {what: f"{who['plugin']} from {who['origin']}" for what, who in strangers.items()},
            "command": command(by, Path(f"{run.path}@{step}"), *again, *options),
        }
    )


def asking_options(config: Config, denoiser: Denoiser, group: str) -> list[str]:
    """The options by which a command asks the network with these weights, in this precision."""
    width, decay = group.removeprefix("posthoc-"), config.train.averages.get(group)
    words = ["--no-ema"] if group == "model" and config.train.ema else []
    if width != group:
        words = ["--ema", f"posthoc:{width}"]
    elif decay is not None and group != next(iter(config.train.averages)):
        words = ["--ema", str(decay)]
    return words if denoiser.precision == "fp32" else [*words, "--precision", denoiser.precision]


def _recorded(run: Run, key: str) -> dict[str, Any]:
    """A component as config.toml has it: the same where numbers stand in for a plugin that is gone."""
    entry = run.table.get(key)
    return dict(entry) if isinstance(entry, dict) else parse_spec(entry or getattr(run.config, key).spec)


def _spec_on(config: Config, sampler: Sampler) -> str:
    """The spec that gives this sampler when it is named for a run, whose own sampler lends one of its name what is not said."""
    own = {"N": config.N, "sampler": config.sampler.table()}
    if resolve([Layer("the run", own), Layer("sampler", {"sampler": sampler.spec})]).config.sampler == sampler:
        return sampler.spec
    table = {key: value for key, value in sampler.table().items() if key != "name"}
    return f"{sampler.name}:{','.join(f'{key}={spec_value(value)}' for key, value in table.items())}"


def device_name(device: torch.device) -> str:
    """A device as a reader knows it: ``cpu``, or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
