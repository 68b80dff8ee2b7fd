"""Arithmetic: in which precision a device computes a network well."""

from __future__ import annotations

from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")
SLOW = "this processor has no units for bf16: it takes many times as long as fp32"
DTYPES: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16}  # of autocast


def chosen(precision: str, device: torch.device) -> str:
    """``fp32`` or ``bf16`` as it says; for ``auto``, bf16 on a GPU that has units for it, and fp32 elsewhere."""
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"


def autocast(precision: str, device: torch.device) -> torch.dtype | None:
    """The type to which a network is cast there; None for float32."""
    return DTYPES[chosen(precision, device)]


def is_slow(precision: str, device: torch.device) -> bool:
    """Whether the device computes in it, but many times as slowly as in float32: a processor without units for bfloat16."""
    return device.type == "cpu" and precision == "bf16" and not _has_bf16()


def _has_bf16() -> bool:
    try:
        flags = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True  # it does not say
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", " bf16"))
