"""Load: how much of this machine other processes use, where /proc says it."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

SHORTEST = 0.2  # seconds that are looked at, at least: the kernel counts in hundredths
STAT = Path("/proc/stat")


def cores() -> list[int]:
    """The cores that this process may use, by number."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


class Load:
    """What has been going on since it was made; nothing is waited for: whoever makes it early has the longer look."""

    def __init__(self) -> None:
        self.begin = time.monotonic()
        self._busy, self._own = _busy(), _own()

    def others(self) -> float | None:
        """How many of `cores` other processes have kept busy since, on average; None where nobody says, or too soon to say."""
        seconds, busy = time.monotonic() - self.begin, _busy()
        if seconds < SHORTEST or busy is None or self._busy is None:
            return None
        theirs = busy - self._busy - (_own() - self._own)
        return min(max(theirs / seconds, 0.0), float(len(cores())))


def _own() -> float:
    """Seconds of computing of this process and of those it has waited for."""
    return sum(os.times()[:4])


def _busy() -> float | None:
    """Seconds that `cores` were busy since the machine was started; None where that is not said."""
    total, numbers = 0.0, {f"cpu{number}" for number in cores()}
    with suppress(OSError, ValueError, IndexError):
        for line in STAT.read_text(encoding="ascii").splitlines():
            name, *ticks = line.split()
            if name in numbers:
                user, nice, system, _, _, irq, softirq, steal, *_ = map(
                    int, ticks
                )  # idle, and waiting for a disk, aside
                total += user + nice + system + irq + softirq + steal
                numbers.remove(name)
        return None if numbers else total / os.sysconf("SC_CLK_TCK")
    return None
