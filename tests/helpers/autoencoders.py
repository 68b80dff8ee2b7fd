"""A tiny AutoencoderKL of diffusers in a folder, as its library writes it."""

from pathlib import Path
from typing import Any

import torch


def autoencoder(folder: Path, channels: int = 1, **config: Any) -> Any:
    """Written to ``folder``, in two levels, so that latents are half as large; returns the network."""
    from diffusers import AutoencoderKL

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = AutoencoderKL(
            **{
                "in_channels": channels,
                "out_channels": channels,
                "down_block_types": ("DownEncoderBlock2D",) * 2,
                "up_block_types": ("UpDecoderBlock2D",) * 2,
                "block_out_channels": (8, 8),
                "norm_num_groups": 4,
                "latent_channels": 4,
                "scaling_factor": 1.7,
                **config,
            }
        )
    network.save_pretrained(folder)
    return network.eval()
