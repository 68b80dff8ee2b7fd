"""Memory: an allocation that fails, whoever asked for it, said as what was too large and what makes it smaller."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gendiff.errors import ConfigError, GendiffError

#: What torch, CUDA and C++ say of sizes that cannot be had, or not even be counted.
_SAID = re.compile(
    r"out of memory|can(no|')t allocate memory|not enough memory|bad_alloc|Unable to allocate"
    r"|Storage size calculation overflowed|numel: integer multiplication overflow|Overflow when unpacking long",
    re.IGNORECASE,
)
_BYTES = re.compile(r"(?:tried to allocate|Unable to allocate) ([\d.,]+) ?(\w+)", re.IGNORECASE)


def shortage(error: BaseException | None) -> str:
    """How much memory was asked for in vain, or that it was too much, in one line; empty where that is not what happened."""
    while error is not None:
        if isinstance(error, GendiffError):
            return ""  # said already
        if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _SAID.search(str(error))):
            match = _BYTES.search(str(error))
            device = "the GPU" if "CUDA" in str(error) else "this machine"
            if match is None:
                return f"it asks for more than {device} has"
            size = f"{int(match[1]):,}" if match[1].isdecimal() else match[1]
            return f"it asks for {size} {match[2]}, more than {device} has left"
        error = error.__cause__
    return ""


def out_of_memory(demand: str, what: str = "", fix: str = "") -> GendiffError:
    """The error for a shortage: ``what`` was too large, in which setting is ``fix``."""
    return GendiffError(
        f"out of memory: {what}" if what else "out of memory",
        details=[demand],
        fix=fix or "ask for less at a time, or use a machine with more memory",
    )


def available() -> float:
    """Bytes of memory that this machine, or the container, could still give: at most; infinite where nobody says."""
    most = [float("inf")]
    with suppress(OSError):
        match = re.search(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
        most += [int(match[1]) * 1024] if match else []
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # "max" is no number
            most.append(int(Path(limit).read_text(encoding="ascii")))
    return min(most)


def resident() -> int:
    """Bytes of memory that this process holds now, as the kernel counts them; 0 where nobody says."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def most_resident() -> int:
    """The most that it has held since it was started."""
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def check_memory(size: int, what: str, fix: str, subject: str = "") -> None:
    """Raise `ConfigError` where ``size`` bytes are more than there are: asked before hours of filling them."""
    if size > (free := available()):
        raise ConfigError(
            f"out of memory: {what}",
            details=[f"it needs {size:,} bytes at least, and {int(free):,} are free"],
            fix=fix,
            subject=subject,
        )


@contextmanager
def memory_for(what: str, fix: str) -> Iterator[None]:
    """An allocation that fails inside the block is told as too little memory for ``what``."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if demand := shortage(error):
            raise out_of_memory(demand, what, fix) from error
        raise
