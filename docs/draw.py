"""Draw the pictures of docs/processes.md: ``python docs/draw.py`` (``make pictures``). The same code draws the same pictures."""

from __future__ import annotations

from pathlib import Path

import generate
import torch
from PIL import Image

from gendiff.datasets import pictures
from gendiff.diffusion import Diffusion
from gendiff.lab import figures
from gendiff.lab.descent import descend
from gendiff.lab.forward import BandSNR, corrupted, in_frequencies
from gendiff.plugin.registry import Registry
from gendiff.run.config import Config
from gendiff.run.layers import Layer, resolve
from gendiff.sampler import Sampler
from gendiff.streams import stream

DATA = "dead-leaves:size=32"
PICTURE = 4  # index of the event that is shown
MOMENTS = 9
BANDS = 32


def configuration(name: str) -> Config:
    """The process at its defaults, on the data of this page; learned speeds as ten evaluations of DDIM want them."""
    config = resolve([Layer("docs", {"process": name, "data": DATA, "N": generate.STEPS.get(name, 1000)})]).config
    if config.velocity.trained:
        config = descend(config, Sampler("ddim:steps=10,grid=uniform,prior=matched"), None).config
    return config


def draw_strip(diffusion: Diffusion, x_0: torch.Tensor, path: Path) -> None:
    """Columns at equal steps from 0 to N."""
    eps = torch.randn(x_0.shape, generator=stream(0, "picture"))
    steps = [round(k * diffusion.N / (MOMENTS - 1)) for k in range(MOMENTS)]
    views = zip(*corrupted(diffusion, x_0, eps, steps), strict=True)
    pictures.strip([torch.cat(pair) for pair in views]).save(path, optimize=True)


def draw_snr(name: str, diffusion: Diffusion, path: Path) -> None:
    """One panel, small enough to stand beside a strip."""
    figure = figures.snr({name: BandSNR(diffusion, BANDS)})
    figure.set_size_inches(4.4, 3.0)
    figure.set_dpi(90)
    figures.save(figure, path)
    with Image.open(path) as drawn:
        few = drawn.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


if __name__ == "__main__":
    for name in Registry(third_party=False).names("process"):
        config = configuration(name).fitted()
        diffusion = config.diffusion()
        strip, snr = generate.pictures_of(name)
        strip.parent.mkdir(parents=True, exist_ok=True)
        draw_strip(diffusion, config.data[PICTURE][None], strip)
        draw_snr(name, in_frequencies(diffusion, config.data), snr)
        print(strip, snr)
