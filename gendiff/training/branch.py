"""Branch: a new run that begins with another's weights, whatever else is set otherwise.

What fits by name and shape is taken: weights, averages, and what the optimiser knows of them. The rest begins as that of any new
run, and what it is, is said and recorded. The new run counts its steps from 0 and saves a checkpoint of that: it needs the
other no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gendiff.command import option
from gendiff.errors import ConfigError
from gendiff.run import checkpoint, record
from gendiff.run.checkpoint import Checkpoint
from gendiff.run.directory import CONFIG, Run, refuse_no_run
from gendiff.run.layers import Layer
from gendiff.training.inheritance import first_average
from gendiff.training.trainer import Trainer

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
        """Its configuration, over which that of the new run is laid."""
        return Layer(str(self.path / CONFIG), Run.stored_table(self.path))

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

    def told(self, lineage: dict[str, Any]) -> list[str]:
        """What a user should know of it, a line each."""
        lines = [
            f"begins from '{self.path}' at step {lineage['step']:,}: its {lineage['weights']} weights {lineage['hash']}, "
            f"{lineage['taken']} of {lineage['of']} tensors, with what the optimiser knows of {lineage['optimizer']}"
        ]
        if lineage["not_taken"]:
            few, more = lineage["not_taken"][:5], len(lineage["not_taken"]) > 5
            lines.append(f"not taken: {'; '.join(few)}{'; and others, which run.json names' * more}")
        return lines
