"""Process state: what belongs to the whole process, and is not a plugin's to change while it is imported."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def process_state() -> dict[str, Any]:
    """What is in force now, by name; torch is asked only where it is imported."""
    torch = _torch()
    return {
        "the working directory": _working_directory(),
        "the signal handlers": [signal.getsignal(number) for number in _SIGNALS],
        "the root logger": (logging.root.level, list(logging.root.handlers)),
        "the random state": random.getstate(),
        "torch's default dtype": torch.get_default_dtype() if torch else None,
        "torch's gradient mode": torch.is_grad_enabled() if torch else True,
    }


def restore(before: dict[str, Any]) -> list[str]:
    """Undo what has changed since; returns the names of that."""
    torch, after = _torch(), process_state()
    if torch and before["torch's default dtype"] is None:
        before = {**before, "torch's default dtype": torch.float32}  # torch came in since
    changed = [name for name in before if before[name] != after[name]]
    for name in changed:
        value = before[name]
        match name:
            case "the working directory":
                os.chdir(value or ".")
            case "the signal handlers":
                for number, handler in zip(_SIGNALS, value, strict=True):
                    signal.signal(number, handler)
            case "the root logger":
                logging.root.setLevel(value[0])
                logging.root.handlers[:] = value[1]
            case "the random state":
                random.setstate(value)
            case "torch's default dtype":
                torch.set_default_dtype(value)
            case "torch's gradient mode":
                torch.set_grad_enabled(value)
    return changed


def _working_directory() -> str:
    try:
        return os.getcwd()  # noqa: PTH109  # the text that os.chdir takes
    except OSError:  # it was removed
        return ""


def _torch() -> Any:
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "get_default_dtype") else None
