"""Hardware: what this machine is made of, as far as it says so. Nothing here imports torch."""

from __future__ import annotations

import os
import platform
import re
from contextlib import suppress
from pathlib import Path

from gendiff.machine.memory import available


def system() -> str:
    """The operating system, its release and the kernel."""
    name = platform.system()
    with suppress(OSError):
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    return f"{name}, {platform.system()} {platform.release()} {platform.machine()}"


def processor() -> str:
    """The model of the processor."""
    for key in ("model name", "Hardware", "Processor"):
        if match := re.search(rf"^{key}\s*: *(.+)$", _text("/proc/cpuinfo"), re.MULTILINE):
            return match[1].strip()
    return platform.processor() or platform.machine() or "unknown"


def cores() -> tuple[int, int]:
    """How many cores there are, and how many of them this process may use."""
    there = os.cpu_count() or 1
    return there, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there


def memory() -> tuple[int | None, int | None]:
    """Bytes of memory there are, and bytes that are free; None where nobody says."""
    match = re.search(r"^MemTotal: +(\d+) kB", _text("/proc/meminfo"), re.MULTILINE)
    free = available()
    return int(match[1]) * 1024 if match else None, int(free) if free != float("inf") else None


def driver() -> str:
    """The version of the NVIDIA driver; empty where there is none."""
    match = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)\s", _text("/proc/driver/nvidia/version"))
    return match[1] if match else ""


def _text(path: str) -> str:
    """What a file of the kernel says; empty where it is not there."""
    with suppress(OSError):
        return Path(path).read_text(encoding="utf-8", errors="replace")
    return ""
