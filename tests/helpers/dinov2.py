"""A tiny DINOv2 in a folder, as transformers writes it and as it was published."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file


def dinov2(folder: Path, swiglu: bool = False, **config: Any) -> Path:
    """Two layers of width 12 with patches of 4, whose weights are sines: a function of their names and places alone."""
    width, layers, side, patch = 12, 2, 6, 4
    said = {
        "architectures": ["Dinov2Model"],
        "model_type": "dinov2",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 3,
        "mlp_ratio": 4,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "image_size": side * patch,
        "patch_size": patch,
        "num_channels": 3,
        "qkv_bias": True,
        "layerscale_value": 1.0,
        "use_swiglu_ffn": swiglu,
        **config,
    }
    hidden = (int(width * 4 * 2 / 3) + 7) // 8 * 8
    shapes = {
        "embeddings.cls_token": (1, 1, width),
        "embeddings.mask_token": (1, width),
        "embeddings.position_embeddings": (1, side**2 + 1, width),
        "embeddings.patch_embeddings.projection.weight": (width, 3, patch, patch),
        "embeddings.patch_embeddings.projection.bias": (width,),
        "layernorm.weight": (width,),
        "layernorm.bias": (width,),
    }
    linears = {"attention.attention.query": (width, width), "attention.attention.key": (width, width)}
    linears |= {"attention.attention.value": (width, width), "attention.output.dense": (width, width)}
    linears |= (
        {"mlp.weights_in": (2 * hidden, width), "mlp.weights_out": (width, hidden)}
        if swiglu
        else {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
    )
    for layer in range(layers):
        at = f"encoder.layer.{layer}"
        shapes |= {f"{at}.norm{k}.{part}": (width,) for k in (1, 2) for part in ("weight", "bias")}
        shapes |= {f"{at}.layer_scale{k}.lambda1": (width,) for k in (1, 2)}
        for name, shape in linears.items():
            shapes |= {f"{at}.{name}.weight": shape, f"{at}.{name}.bias": shape[:1]}
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: (0.7 * torch.sin(0.37 * torch.arange(math.prod(shape), dtype=torch.float64) + 1.1 * k)).float()
        for k, (name, shape) in enumerate(shapes.items())
    }
    weights = {name: value.reshape(shapes[name]) for name, value in weights.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(said))
    return folder
