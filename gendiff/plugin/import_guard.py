"""Process state: what belongs to the whole process, and is not a plugin's to change while it is imported."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
from typing import Any

from gendiff.machine.stopping import STOP_SIGNALS


def process_state() -> dict[str, Any]:
    """What is in force now, by name; torch is asked only where it is imported."""
    torch = _torch()
    return {
        "the working directory": _working_directory(),
        "the signal handlers": [signal.getsignal(number) for number in STOP_SIGNALS],
        "the root logger": (logging.root.level, list(logging.root.handlers)),
        "the random state": random.getstate(),
        "torch's default dtype": torch.get_default_dtype() if torch else None,
        "torch's gradient mode": torch.is_grad_enabled() if torch else True,
        # Of a tensor: `get_default_device` of torch 2.9 fails where one was set, and none is any more.
        "torch's default device": str(torch.empty(0).device) if torch else None,
        "torch's number of threads": torch.get_num_threads() if torch else None,
        "torch's random state": torch.get_rng_state().numpy().tobytes() if torch else None,
    }


def restore(before: dict[str, Any]) -> list[str]:
    """Undo what has changed since; returns the names of that."""
    torch, after = _torch(), process_state()
    if torch and before["torch's default dtype"] is None:  # torch came in since; its threads and seed are the machine's
        defaults = {"torch's default dtype": torch.float32, "torch's default device": "cpu"}
        before = {**before, **{name: value for name, value in after.items() if before[name] is None}, **defaults}
    names = [name for name in before if before[name] != after[name]]
    for name in names:
        value = before[name]
        match name:
            case "the working directory":
                os.chdir(value or ".")
            case "the signal handlers":
                for number, handler in zip(STOP_SIGNALS, value, strict=True):
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
            case "torch's default device":
                torch.set_default_device(None if value == "cpu" else value)
            case "torch's number of threads":
                torch.set_num_threads(value)
            case "torch's random state":
                torch.set_rng_state(torch.frombuffer(bytearray(value), dtype=torch.uint8))
    return names


def _working_directory() -> str:
    try:
        return os.getcwd()  # noqa: PTH109  # the text that os.chdir takes
    except OSError:  # it was removed
        return ""


def _torch() -> Any:
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "get_default_dtype") else None
