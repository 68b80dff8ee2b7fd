"""Load: how much of this machine other processes use, where /proc says it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

SHORTEST = 0.2  # seconds that are looked at, at least: the kernel counts in hundredths
BUSY = 0.5  # of a core: what other processes may use before it matters
STAT = Path("/proc/stat")
GROUPS = Path("/proc/self/cgroup")
CONTROL = Path("/sys/fs/cgroup")


def cores() -> list[int]:
    """The cores that this process may use, by number."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def allowance() -> float:
    """How many cores this process may keep busy: those of `cores`, or fewer where a container or a job has a share of them."""
    return min([float(len(cores())), *_quotas()])


def _quotas() -> Iterator[float]:
    """What the control groups allow that this process is in, and those around them, in cores."""
    groups = [""]
    with suppress(OSError, ValueError):
        for line in GROUPS.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or "cpu" in controllers.split(","):
                groups += [path, *map(str, Path(path).parents)]
    for group in dict.fromkeys(group.strip("/") for group in groups):
        with suppress(OSError, ValueError):  # "max" is no number
            quota, period = (CONTROL / group / "cpu.max").read_text(encoding="ascii").split()
            yield int(quota) / int(period)
        with suppress(OSError, ValueError):
            folder = CONTROL / "cpu" / group
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period")
            )
            if int(quota) > 0:
                yield int(quota) / int(period)


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
