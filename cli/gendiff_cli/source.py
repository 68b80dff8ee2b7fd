"""Pictures that a command goes on from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gendiff.errors import ConfigError

if TYPE_CHECKING:
    from gendiff.run.asked import Asked
    from gendiff.run.directory import Run

STRENGTH = 0.5
FromOption = Annotated[
    list[Path] | None,
    typer.Option("--from", help="Go on from this picture, with noise; may be given again.", metavar="PICTURE"),
]
StrengthOption = Annotated[
    float | None,
    typer.Option(
        help="With --from: how much noise, in (0, 1]; 1 leaves nothing of the picture. Default: 0.5.",
        show_default=False,
    ),
]


def going_on(run: Run, asked: Asked, source: Sequence[Path] | None, strength: float | None) -> Asked:
    """What is asked, gone on from pictures, where some are given.

    Raises:
        ConfigError: where the strength is none, or a picture does not fit.
        DataError: where a picture cannot be read.

    """
    from gendiff.datasets.given import events_of

    if strength is not None and not source:
        raise ConfigError("--strength is of pictures to go on from", fix="say which: --from PICTURE")
    if strength is not None and not 0 < strength <= 1:
        raise ConfigError(f"--strength {strength:g}", details=["allowed: above 0, up to 1, which leaves nothing of it"])
    if not source:
        return asked
    data = run.config.data
    pictures = events_of(source, data.picture_shape, f"an event of '{run.path}'")
    return asked.going_on(data.events(pictures), STRENGTH if strength is None else strength, data.event_shape)


def options_of(source: Sequence[Path] | None, strength: float | None) -> list[str]:
    """The words of a command line that say the same."""
    words = [word for path in source or () for word in ("--from", str(path))]
    return [*words, *([] if strength is None else ["--strength", f"{strength:g}"])]


def name_of(asked: Asked) -> str:
    """What tells the folder of samples that go on from pictures from others."""
    import hashlib

    if asked.source is None:
        return ""
    digest = hashlib.sha256(asked.source.contiguous().numpy().tobytes()).hexdigest()[:8]
    return f"-from-{digest}-{asked.strength:g}"
