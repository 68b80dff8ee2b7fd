"""Capture: whether the steps of a run are recorded, and what is said where they are not."""

from __future__ import annotations

import warnings

import torch

from gendiff.errors import ConfigError
from gendiff.machine.recording import Recorded, Recorder, recorder_for
from gendiff.machine.world import World
from gendiff.run.settings import TrainSettings


class Capture:
    """What ``train.capture`` asks for: that steps are recorded, that they are where they can be, or that none is."""

    def __init__(self, settings: TrainSettings, device: torch.device, world: World) -> None:
        self.asked = settings.capture
        self.device = device
        self.world = world
        self._said = False

    def recorder(self) -> Recorder | None:
        """What records the steps; None where nothing does.

        Raises `ConfigError` where steps must be recorded that are not: those of several processes.
        """
        recorder = recorder_for(self.device) if self.asked else None
        if recorder and self.world.size > 1:
            # Whether it can be recorded each process sees for itself: one that cannot would wait for sums of the others forever.
            if self.asked is True:
                raise _not_recorded(f"there are {self.world.size} processes, which must all do the same")
            warnings.warn(
                "steps are launched kernel by kernel: those of several processes are not recorded, which must all do the same",
                stacklevel=4,
            )
            return None
        return recorder

    def say_why_not(self, recorded: Recorded | None) -> None:
        """Say once why steps could not be recorded, where it was tried; raises `ConfigError` where they must be."""
        if recorded and recorded.why_not and not self._said:
            self._said = True
            if self.asked is True:
                raise _not_recorded(recorded.why_not)
            warnings.warn(
                f"steps are launched kernel by kernel, for they could not be recorded: {recorded.why_not}", stacklevel=3
            )


def _not_recorded(why: str) -> ConfigError:
    """What to raise where nothing but recorded steps is asked for."""
    return ConfigError(
        "steps cannot be recorded",
        details=[why],
        fix="let them be launched kernel by kernel: --set train.capture=auto",
        subject="train.capture",
    )
