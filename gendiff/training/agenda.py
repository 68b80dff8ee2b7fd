"""Agenda: after which optimiser steps a run logs, saves, shows and keeps what it has, a function of its settings."""

from __future__ import annotations

from gendiff.run.settings import TrainSettings


def is_logged(settings: TrainSettings, step: int) -> bool:
    """Whether metrics.jsonl has a row of this step."""
    return step % settings.log_every == 0 or step == settings.steps


def is_shown(settings: TrainSettings, step: int) -> bool:
    """Whether there is a preview of this step."""
    return bool(settings.sample_every) and (step % settings.sample_every == 0 or step == settings.steps)


def is_saved(settings: TrainSettings, step: int) -> bool:
    """Whether there is a checkpoint of this step, whatever comes."""
    return is_shown(settings, step) or step % settings.checkpoint_every == 0 or step == settings.steps


def is_snapped(settings: TrainSettings, step: int) -> bool:
    """Whether there is a snapshot of this step, of which averages are made later."""
    return bool(settings.profiles) and (step % settings.snapshot_period == 0 or step == settings.steps)
