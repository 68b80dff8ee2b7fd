"""Small networks of guided-diffusion, with weights that are functions of their names' order."""

from __future__ import annotations

import torch
from gendiff_plugins.models.adm import Architecture, _network

SMALL = {
    "channels": 32,
    "widths": (32, 64),
    "blocks": 1,
    "attention": (False, True),
    "in_channels": 3,
    "out_channels": 6,
    "size": 8,
}
NEW = {"head_channels": 32, "new_order": True, "classes": 3, "residual_resampling": True, "scale_shift": True}
OLD = {"heads": 4, "residual_resampling": False, "scale_shift": False}


def network(kind: str):
    made = _network(Architecture.model_validate({**SMALL, **(NEW if kind == "new" else OLD)}), 0.0)
    filled(made)
    return made.eval().requires_grad_(False)


def filled(made) -> None:
    """Weights that are a function of their names' order."""
    with torch.no_grad():
        for k, (name, weight) in enumerate(sorted(made.named_parameters())):
            values = (torch.arange(weight.numel(), dtype=torch.float64) * (1.3 + 0.1 * (k % 7))).cos() * 0.3
            values = values / (weight[0].numel() if weight.ndim > 1 else 9) ** 0.5
            gain = 1 if name.endswith("weight") and weight.ndim == 1 else 0
            weight.copy_((values + gain).reshape(weight.shape))
        for name, buffer in made.named_buffers():
            if name.endswith("freqs"):
                buffer.copy_(torch.linspace(0.5, 3, len(buffer)))
