"""Draw the pictures of docs/conditions.md: ``python docs/draw_conditions.py RUNS``, RUNS being a folder of the runs

    gendiff train --data digits --condition label --steps 2000 --rotation dct --schedule quartic --out RUNS/cond-blur
    gendiff train --data emoji --size 16 --condition label --batch 32 --steps 1500 --rotation dct --schedule quartic \
        --out RUNS/emoji-blur

    gendiff train --data digits --steps 1000 --hold-out 200 --seed 0 --rotation dct --schedule quartic --out RUNS/blur-0

and the last two with ``--schedule none`` too, as ``emoji-standard`` and ``standard-0``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

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


TASKS = {
    "digits": {"blur:sigma=1": ("ddrm", 0.05), "mask:rectangle=[2,2,4,4]": ("pigdm", 0.0)},
    "emoji": {"blur:sigma=1.5": ("ddrm", 0.05), "mask:rectangle=[4,4,8,8]": ("pigdm", 0.0)},
}
RUNS = {"digits": ("standard-0", "blur-0"), "emoji": ("emoji-standard", "emoji-blur")}
CHOSEN = {"digits": range(5, 185, 30), "emoji": (10, 350, 520, 700, 1250, 1700)}


def restoration(runs: Path) -> None:
    """Held-out digits, and emoji, blurred and with a hole: as they were, what was measured, and drawn by both processes."""
    for name, tasks in TASKS.items():
        standard, blur = (gendiff.load(runs / run, device="cpu") for run in RUNS[name])
        data = standard.run.split().held_out or standard.data
        clean = torch.stack([data[k] for k in CHOSEN[name]])
        panels = []
        for operator, (method, sigma) in tasks.items():
            noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
            y = gendiff.Operator(operator).apply(clean) + sigma * noise
            rows = [clean, y, *(model.restore(y, operator, sigma, method).clamp(-1, 1) for model in (standard, blur))]
            columns = torch.stack(rows, dim=1).flatten(0, 1)
            panels.append((f"{operator.split(':')[0]}, {method}", pictures.sheet(columns.clamp(-1, 1), len(rows))))
        beside(panels, IMAGES / f"restoration-{name}.png")


if __name__ == "__main__":
    guidance(Path(sys.argv[1]))
    restoration(Path(sys.argv[1]))
