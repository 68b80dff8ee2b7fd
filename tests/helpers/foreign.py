"""Folders of diffusers with tiny networks, which diffusers itself writes."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DDPMPipeline, DDPMScheduler, DiTTransformer2DModel, UNet2DModel

N = 20
SCHEDULE = {"num_train_timesteps": N, "beta_start": 0.002, "beta_end": 0.3}


def unet(channels: int = 1, **settings) -> UNet2DModel:
    """A network for events of 8x8, its weights other than those of a beginning, where much is 0."""
    torch.manual_seed(3)
    network = UNet2DModel(
        **{
            "sample_size": 8,
            "in_channels": channels,
            "out_channels": channels,
            "layers_per_block": 1,
            "block_out_channels": (8, 16),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            "norm_num_groups": 4,
            "attention_head_dim": 4,
            **settings,
        }
    )
    return drawn(network)


def dit(**settings) -> DiTTransformer2DModel:
    """A transformer for events of 8x8."""
    torch.manual_seed(3)
    network = DiTTransformer2DModel(
        **{
            "sample_size": 8,
            "in_channels": 1,
            "out_channels": 2,
            "num_layers": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "norm_num_groups": 4,
            "num_embeds_ada_norm": 3,
            **settings,
        }
    )
    return drawn(network)


def drawn(network):
    """The same network, each weight moved a little: none is exactly 0."""
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return network.eval()


def pipeline(folder: Path, network=None, **schedule) -> Path:
    """The folder of a pipeline."""
    network = unet() if network is None else network
    DDPMPipeline(network, DDPMScheduler(**{**SCHEDULE, **schedule})).save_pretrained(folder)
    return folder


def chain(network, scheduler, noise: torch.Tensor, steps: int, labels=None, **how) -> torch.Tensor:
    """What diffusers' own loop makes of this noise."""
    scheduler.set_timesteps(steps)
    x = noise
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = network(x, t.expand(len(x)), class_labels=labels).sample[:, : x.shape[1]]
            x = scheduler.step(output, t, x, **how).prev_sample
    return x
