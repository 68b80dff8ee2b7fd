"""Draw the pictures of docs/conditions.md: ``python docs/draw_conditions.py RUNS``, RUNS being a folder of the runs

    gendiff train --data digits --condition label --steps 2000 --rotation dct --schedule quartic --out RUNS/cond-blur
    gendiff train --data emoji --size 16 --condition label --batch 32 --steps 1500 --rotation dct --schedule quartic \
        --out RUNS/emoji-blur

and the same with ``--schedule none`` as ``cond-standard`` and ``emoji-standard``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import gendiff
from gendiff.datasets import pictures

IMAGES = Path(__file__).parent / "images"
WEIGHTS = (0, 1, 3, 7)
COLUMNS = 5
TITLE = 22  # pixels above a panel


def beside(panels: Sequence[tuple[str, Image.Image]], path: Path) -> None:
    """Panels side by side, each under its title."""
    height = max(panel.height for _, panel in panels) + TITLE
    width = sum(panel.width for _, panel in panels) + 12 * (len(panels) - 1)
    canvas = Image.new("RGB", (width, height), "white")
    draw, font, left = ImageDraw.Draw(canvas), ImageFont.load_default(15), 0
    for title, panel in panels:
        draw.text((left + 2, 2), title, fill="black", font=font)
        canvas.paste(panel.convert("RGB"), (left, TITLE))
        left += panel.width + 12
    canvas.save(path, optimize=True)
    print(path)


def by_class(model: gendiff.TrainedModel, guide: str, steps: int = 50) -> Image.Image:
    """A row of each class; the noise of a place is the same for every guide."""
    classes = next(iter(model.config.conditions.values())).size
    events = model.sample(classes * COLUMNS, f"trig:solver=ab2,steps={steps}", guide=guide)
    rows = [events[k::classes] for k in range(classes)]
    return pictures.sheet(torch.cat(rows).clamp(-1, 1), COLUMNS)


def guidance(runs: Path) -> None:
    """Digits at four weights of classifier-free guidance, and emoji with a weight for each band."""
    digits = gendiff.load(runs / "cond-blur", device="cpu")
    beside([(f"weight {w}", by_class(digits, f"cfg:weight={w}")) for w in WEIGHTS], IMAGES / "guidance-digits.png")
    emoji = gendiff.load(runs / "emoji-blur", device="cpu")
    guides = {
        "conditional": "cfg:weight=1",
        "cfg, weight 4": "cfg:weight=4",
        "coarse 1, fine 4": "frequency:weights=[1,4]",
        "coarse 4, fine 1": "frequency:weights=[4,1]",
    }
    panels = [(title, by_class(emoji, guide)) for title, guide in guides.items()]
    beside(panels, IMAGES / "guidance-frequency.png")


def spread(events: Tensor, count: int) -> Tensor:
    """``count`` of the events."""
    return torch.stack([events[k * len(events) // count] for k in range(count)])


if __name__ == "__main__":
    guidance(Path(sys.argv[1]))
