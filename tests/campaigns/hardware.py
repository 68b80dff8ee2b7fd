"""Hardware: what it is, what it can do, and what it does during a step."""

from __future__ import annotations

import hashlib
import itertools
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

WARM = 6  # calls before the clock starts: cuDNN chooses, a compiler compiles, a step is recorded and replayed
#: Kinds of kernels by what their names hold, the first that fits.
KERNELS = {
    "attention": r"flash|fmha|attention",
    "optimiser, clipping and averages": r"multi_tensor|foreach|adam|lp_norm",
    "convolutions and matrix products": (
        r"gemm|gemv|conv|cudnn|xmma|cutlass|nvjet|wgrad|dgrad|sm90|sm80|winograd|aten::(add|badd)?b?mm\b|aten::_?mkldnn"
    ),
    "copies": r"memcpy|memset|copy",
}
HOST = DeviceType.CPU
REST = "normalisation, activations and noising"


def name(device: torch.device) -> str:
    """The hardware in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads)"


def identity(device: torch.device, *measuring: str) -> dict[str, str]:
    """What numbers belong to: hardware, torch, and the code that is measured and that measures, files or folders."""
    code, root = hashlib.sha256(), Path(__file__).parents[2]
    for part in ("gendiff", "plugins", "cli", "tests/campaigns/hardware.py", *measuring):
        place = root / part
        for file in sorted(place.rglob("*.py")) if place.is_dir() else (place,):
            code.update(file.read_bytes())
    return {"hardware": name(device), "torch": torch.__version__, "code": code.hexdigest()[:16]}


def is_hopper(device: torch.device) -> bool:
    """Whether targets are judged there: an H100 or H200, or what is of their class."""
    return device.type == "cuda" and bool(re.search(r"\bG?H[12]00\b", torch.cuda.get_device_name(device)))


def now(device: torch.device) -> float:
    """Seconds by a clock that waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def worked(device: torch.device) -> float:
    """Seconds by a clock that runs while this process computes, in any of its threads; on a GPU `now`.

    On a processor that others use too it says what the work takes, and `now` how long it lasted.
    """
    return now(device) if device.type == "cuda" else time.process_time()


def fair(device: torch.device) -> Callable[[torch.device], float]:
    """The clock for what takes turns: `worked` where one thread of a processor does all of it, for others only add to `now`."""
    return worked if device.type == "cpu" and torch.get_num_threads() == 1 else now


def turns(
    works: Mapping[str, Callable[[], object]],
    rounds: int,
    times: int,
    device: torch.device,
    warm: int = WARM,
    clock: Callable[[torch.device], float] = now,
) -> dict[str, list[float]]:
    """Seconds of one call of each, by round; they take turns, and in odd rounds in the other order, so that drift meets all."""
    for work in works.values():
        for _ in range(warm):
            work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds):
        for key in list(works)[:: 1 if number % 2 == 0 else -1]:
            started = clock(device)
            for _ in range(times):
                works[key]()
            seconds[key].append((clock(device) - started) / times)
    return seconds


def ratio(seconds: Mapping[str, list[float]], of: str, to: str) -> float:
    """How many times as fast ``of`` is as ``to``: the median over rounds."""
    return statistics.median(theirs / ours for ours, theirs in zip(seconds[of], seconds[to], strict=True))


def product(device: torch.device, dtype: torch.dtype, n: int) -> Callable[[], object]:
    """A product of two matrices of n x n normal numbers, 2 n³ operations."""
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    return lambda: a @ b


def matrix_rates(device: torch.device, n: int) -> dict[str, float]:
    """Operations per second of large matrix products, in float32 as torch does them, and in bfloat16 on a GPU."""
    dtypes = {"fp32": torch.float32, **({"bf16": torch.bfloat16} if device.type == "cuda" else {})}
    works = {key: product(device, dtype, n) for key, dtype in dtypes.items()}
    seconds = turns(works, rounds=5, times=10 if device.type == "cuda" else 1, device=device, warm=2)
    return {key: 2 * n**3 / statistics.median(values) for key, values in seconds.items()}


def where_time_goes(step: Callable[[], object], times: int, device: torch.device) -> dict[str, float]:
    """Shares of the time by kind of kernel; what is left to 1 is time in which the device computes nothing."""
    for _ in range(WARM):
        step()
    now(device)
    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity], acc_events=True) as record:
        started = now(device)
        for _ in range(times):
            step()
        total = 1e6 * (now(device) - started)
    kind = DeviceType.CUDA if device.type == "cuda" else HOST
    kernels = [
        event for event in record.events() or () if event.device_type == kind and ("::" in event.name or kind != HOST)
    ]
    shares = dict.fromkeys([*KERNELS, REST], 0.0)
    for event in kernels:  # on a processor one is inside another
        own = event.self_cpu_time_total if kind == HOST else event.time_range.elapsed_us()
        shares[_kind(event.name)] += own / total
    shares["no kernel"] = max(
        1 - _covered([(one.time_range.start, one.time_range.end) for one in kernels]) / total, 0.0
    )
    shares["kernels of a step"] = len(kernels) / times
    return shares


def _kind(called: str) -> str:
    return next((kind for kind, words in KERNELS.items() if re.search(words, called, re.IGNORECASE)), REST)


def _covered(kernels: list[tuple[float, float]]) -> float:
    """The time in which at least one of them runs."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(kernels):
        total += max(end - max(start, until), 0.0)
        until = max(until, end)
    return total


def peak(work: Callable[[], object], times: int, device: torch.device) -> dict[str, float]:
    """GiB at most, allocated to tensors and taken from the device, while ``work`` is done; 0 where nobody counts."""
    if device.type != "cuda":
        for _ in itertools.repeat(None, times):
            work()
        return {"allocated": 0.0, "reserved": 0.0}
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    for _ in itertools.repeat(None, times):
        work()
    now(device)
    return {
        "allocated": torch.cuda.max_memory_allocated(device) / 2**30,
        "reserved": torch.cuda.max_memory_reserved(device) / 2**30,
    }
