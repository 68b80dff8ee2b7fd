"""What a process makes a newcomer wonder about, said where it is chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gendiff_cli.console import note

if TYPE_CHECKING:
    from gendiff.diffusion import Diffusion
    from gendiff.run.config import Config
    from gendiff.run.layers import Resolved


def remark_schedule(config: Config) -> None:
    """Say where a blur schedule was chosen that has nothing to act on."""
    schedule = getattr(config.velocity, "schedule", None)
    if schedule is not None and config.rotation.name == "identity":
        is_choice = schedule.spec not in ("none", type(config.velocity).model_fields["schedule"].default)
        if is_choice:
            note(f"rotation 'identity' has D = 1: schedule '{schedule.spec}' has no effect, this is DDPM")


def remark_speeds(config: Config) -> None:
    """Say where it was chosen how speeds are learned, and none are."""
    fixed = not config.velocity.trained and config.velocity.name != "stored"
    if fixed and config.train.speeds != type(config.train.speeds)():
        note(f"velocity '{config.velocity.name}' learns no speeds: train.speeds has no effect")


def remark_overruled(*all_settings: Resolved) -> None:
    """Say where data have another size, or other channels, than the preset or file that they were put into is for."""
    for text in dict.fromkeys(text for settings in all_settings for text in settings.overruled()):
        note(text)


def remark_end(diffusion: Diffusion, config: Config, label: str = "", fix: str = "") -> None:
    """Say where samples from the standard prior would start from noise that the process never becomes."""
    from gendiff.lab.diagnosis import never_ends
    from gendiff.lab.forward import BandSNR

    if finding := never_ends(BandSNR(diffusion, 1), config.velocity):
        note(": ".join(part for part in (label, finding.text, fix) if part))
