"""Branch: a new run that begins with weights which there are, whatever else is set otherwise.

They are another run's (`Parent`), or those that a pretrained model brings (`Foreign`). What fits by name and shape is taken:
weights, averages, and what the optimiser knows of them. The rest begins as that of any new run, and what it is, is said and
recorded. The new run counts its steps from 0 and saves a checkpoint of that: it needs the other no more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from gendiff.command import option
from gendiff.errors import ConfigError
from gendiff.model import Model
from gendiff.pretrained import Pretrained, pretrained
from gendiff.run import checkpoint, record, speeds
from gendiff.run.checkpoint import Checkpoint
from gendiff.run.directory import CONFIG, Run, refuse_no_run
from gendiff.run.layers import Layer
from gendiff.training.inheritance import Inheritance, first_average
from gendiff.training.trainer import Trainer
from gendiff.velocity import Velocity

NAMED = 20  # weights in the record of a run


@dataclass(frozen=True)
class Parent:
    """The run that another begins from, at one of its checkpoints.

    Args:
        averaged: whether the network begins with the averaged weights, and not with the raw ones.

    """

    path: Path
    info: dict[str, Any]
    checkpoint: Checkpoint
    averaged: bool

    @classmethod
    def of(cls, text: str | Path, averaged: bool = False, problems: list[str] | None = None) -> Parent:
        """The run of ``RUN`` or ``RUN@STEP``.

        Raises:
            ConfigError: where it is no run, or has no averages where they are asked for.
            DataError: where there is no such checkpoint, or it is damaged.

        """
        path, step = checkpoint.named(text)
        refuse_no_run(path)
        source = (
            checkpoint.newest(path / "checkpoints", problems)
            if step is None
            else checkpoint.at(path / "checkpoints", step)
        )
        if averaged and not first_average(source):
            raise ConfigError(
                f"'{path}' keeps no averaged weights", where=option("--from"), fix="begin from the raw ones"
            )
        return cls(path, record.read(path), source, averaged)

    @property
    def layer(self) -> Layer:
        """Its configuration, over which that of the new run is laid; speeds that it learned are those to begin with."""
        table = Run.stored_table(self.path)
        if learned := speeds.learned_of(self.checkpoint.tensors.get(speeds.GROUP, {})):
            table["velocity"] = Velocity(table["velocity"]).table_at(learned)
        return Layer(str(self.path / CONFIG), table)

    def begin(self, trainer: Trainer) -> dict[str, Any]:
        """Let a trainer begin with its weights; returns what the record of the new run says of it.

        Raises `ConfigError` where nothing of them fits.
        """
        inheritance = trainer.inherit(self.checkpoint, self.averaged)
        if not inheritance.taken:
            raise ConfigError(
                f"none of the weights of '{self.path}' fits this network",
                where=option("--from"),
                details=inheritance.left[:5],
                fix=f"begin without {option('--from')}",
            )
        group = first_average(self.checkpoint) if self.averaged else "model"
        digest = checkpoint.weights_hash(checkpoint.directory(self.path / "checkpoints", self.checkpoint.step), group)
        return {
            "id": self.info["id"],
            "name": self.path.resolve().name,
            "step": self.checkpoint.step,
            "weights": "averaged" if self.averaged else "raw",
            "hash": digest,
            "taken": inheritance.taken,
            "of": len(trainer.network.state_dict()),
            "optimizer": inheritance.moments,
            "not_taken": inheritance.left[:NAMED],
        }

    def told(self, lineage: Mapping[str, Any]) -> list[str]:
        """What a user should know of it, a line each."""
        first = (
            f"begins from '{self.path}' at step {lineage['step']:,}: its {lineage['weights']} weights {lineage['hash']}, "
            f"{lineage['taken']} of {lineage['of']} tensors, with what the optimiser knows of {lineage['optimizer']}"
        )
        return [first, *_not_taken(lineage)]


@dataclass(frozen=True)
class Foreign:
    """A pretrained model from which a run begins.

    Args:
        whole: whether all of its weights must have their place; else what fits is taken.

    """

    model: Pretrained
    whole: bool = False

    @property
    def layer(self) -> Layer:
        """Its network and the settings that belong to its weights, over which those of the new run are laid."""
        return Layer(self.model.spec, {**self.model.configuration(), "model": self.model.table()})

    def begin(self, trainer: Trainer) -> dict[str, Any]:
        """Let a trainer begin with its weights; returns what the record of the new run says of it.

        Raises `ConfigError` where nothing of them fits, or not all that must.
        """
        source = self.checkpoint(trainer.network)
        weights = source.tensors["model"]
        inheritance = trainer.inherit(source, averaged=False)
        self.check(inheritance)
        return self.lineage(weights, inheritance.taken, len(trainer.network.state_dict()), inheritance.left)

    def checkpoint(self, network: nn.Module) -> Checkpoint:
        """Its weights, as those of a run that has done no step."""
        return Checkpoint(step=0, tensors={"model": self.model.weights(network)}, state={}, about={})

    def check(self, inheritance: Inheritance) -> None:
        """Raise `ConfigError` where nothing of the weights fits, or not all that must."""
        if not inheritance.taken or (self.whole and inheritance.left):
            how_many = "not all" if inheritance.taken else "none"
            raise ConfigError(
                f"{how_many} of the weights at '{self.model.path}' fit this network",
                where="" if self.whole else option("--from"),
                details=inheritance.left[:5],
                fix=f"take events, and conditions, as those that it was trained on; to begin with what fits: "
                f"{option('--from', self.model.spec)}"
                if inheritance.taken
                else f"begin without {option('--from')}",
                subject="model.path",
            )

    def lineage(self, weights: Mapping[str, Tensor], taken: int, of: int, left: list[str]) -> dict[str, Any]:
        """What the record of the new run says of it."""
        content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in weights.items()})
        return {
            "id": self.model.spec,
            "name": self.model.located.resolve().name,
            "step": 0,
            "weights": "pretrained",
            "hash": hashlib.sha256(content).hexdigest()[:12],
            "taken": taken,
            "of": of,
            "optimizer": 0,
            "not_taken": left[:NAMED],
        }

    def told(self, lineage: Mapping[str, Any]) -> list[str]:
        """What a user should know of it, a line each."""
        first = (
            f"begins from '{self.model.spec}': its weights {lineage['hash']}, "
            f"{lineage['taken']} of {lineage['of']} tensors"
        )
        return [first, *self.model.remarks, *_not_taken(lineage)]


def parent_of(text: str | Path, averaged: bool = False, problems: list[str] | None = None) -> Parent | Foreign:
    """What ``--from`` names: a run, at one of its checkpoints, or a pretrained model, ``NAME:PATH``; raises as both do."""
    if not Path(text).exists() and (model := pretrained(str(text))):
        if averaged:
            raise ConfigError(
                f"'{text}' is a pretrained model, and has weights of one kind",
                where=option("--from-averaged"),
                fix=f"leave out {option('--from-averaged')}",
            )
        return Foreign(model)
    return Parent.of(text, averaged, problems)


def begin(trainer: Trainer, parent: Parent | Foreign | None, model: Model) -> tuple[dict[str, Any] | None, list[str]]:
    """Let the trainer of a new run begin with the weights of ``parent``; without one, with those that its model brings.

    Returns what the record of the run says of them, and what a user should know; None and nothing where there are none.
    """
    if parent is None and isinstance(model, Pretrained):
        parent = Foreign(model, whole=True)
    if parent is None:
        return None, []
    lineage = parent.begin(trainer)
    return lineage, parent.told(lineage)


def _not_taken(lineage: Mapping[str, Any]) -> list[str]:
    if not lineage["not_taken"]:
        return []
    few, more = lineage["not_taken"][:5], len(lineage["not_taken"]) > 5
    return [f"not taken: {'; '.join(few)}{'; and others, which run.json names' * more}"]
