"""``gendiff doctor``: what a report of a bug needs, and nothing that is the user's own business.

Only the variables of `VARIABLES` are shown, with the user's home as ``~`` and no password of an address; neither the name of the
machine nor that of the user.
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

import typer

from gendiff import __version__
from gendiff.command import command
from gendiff.errors import PluginError, reason
from gendiff.machine import hardware, installation
from gendiff.plugin.registry import Registry
from gendiff_cli.console import json_result, paragraph
from gendiff_cli.options import JsonOption

#: What changes what gendiff does, and holds no secret.
VARIABLES = (
    "GENDIFF_CACHE",
    "GENDIFF_FID_WEIGHTS",
    "GENDIFF_FOLLOW_LINKS",
    "GENDIFF_PLUGINS",
    "PYTHONPATH",
    "TORCH_DEVICE_BACKEND_AUTOLOAD",
    "TORCH_HOME",
    "XDG_CACHE_HOME",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_LAUNCH_BLOCKING",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "NCCL_DEBUG",
    "NCCL_P2P_DISABLE",
    "NCCL_SOCKET_IFNAME",
    "WORLD_SIZE",
    "RANK",
    "LOCAL_RANK",
)
GIB = 2**30
LABEL = 13  # characters


def doctor(context: typer.Context, json: JsonOption = False) -> None:
    """Show what a bug report needs: versions, machine, GPUs, plugins; exit code 3 where a plugin is broken."""
    registry: Registry = context.obj
    problems = registry.health()
    facts = {
        "gendiff": {"version": __version__, "commit": installation.commit(), "folder": _shown(_folder())},
        "python": {"version": platform.python_version(), "implementation": platform.python_implementation()},
        "machine": _machine(),
        "torch": _torch(),
        "packages": installation.packages(),
        "extras": installation.extras(),
        "plugins": _plugins(registry, problems),
        "files": _files(registry),
        "cache": _cache(),
        "environment": {name: _shown(os.environ[name]) for name in VARIABLES if name in os.environ},
        "report_to": installation.issues(),
    }
    if json:
        json_result(facts)
    else:
        _print(facts)
    if broken := [problem for problem in problems if problem.status == "broken"]:
        names = sorted({problem.provider.distribution for problem in broken})
        raise PluginError(
            f"{len(names)} {'plugin is' if len(names) == 1 else 'plugins are'} broken",
            details=[_shown(f"{problem.provider}: {problem.why}") for problem in broken[:5]],
            fix=f"leave it out: {command('--block', names[0], 'COMMAND')}",
        )


def _folder() -> Path:
    import gendiff

    return Path(gendiff.__file__).parent


def _shown(text: object) -> str:
    """A text without the user's home, and without who speaks to an address."""
    text = re.sub(r"://[^/@\s]+@", "://", str(text))
    return re.sub(rf"{re.escape(str(Path.home()))}(?![\w.-])", "~", text)


def _machine() -> dict[str, Any]:
    (there, usable), (total, free) = hardware.cores(), hardware.memory()
    return {
        "system": hardware.system(),
        "processor": hardware.processor(),
        "cores": there,
        "usable_cores": usable,
        "memory_bytes": total,
        "free_bytes": free,
        "driver": hardware.driver(),
    }


def _torch() -> dict[str, Any]:
    """What torch says of itself and of the GPUs; what keeps it from being imported, where something does."""
    try:
        import torch

        return {
            "version": torch.__version__,
            "cuda": torch.version.cuda,
            "hip": torch.version.hip,
            "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
            "nccl": ".".join(map(str, torch.cuda.nccl.version())) if torch.cuda.is_available() else None,
            "threads": torch.get_num_threads(),
            "interop_threads": torch.get_num_interop_threads(),
            "gpus": [_gpu(number) for number in range(torch.cuda.device_count())],
        }
    except Exception as error:  # a library that does not fit, a driver that is gone: that is what the report is for
        return {"error": _shown(reason(error))}


def _gpu(number: int) -> dict[str, Any]:
    import torch

    facts = torch.cuda.get_device_properties(number)
    try:
        free = torch.cuda.mem_get_info(number)[0]
    except RuntimeError:  # it is there, and will not be used: another process holds it alone
        free = None
    return {
        "name": facts.name,
        "memory_bytes": facts.total_memory,
        "free_bytes": free,
        "capability": f"{facts.major}.{facts.minor}",
    }


def _plugins(registry: Registry, problems: list[Any]) -> list[dict[str, Any]]:
    """Each distribution, or file, with what it provides and how it is."""
    rows: dict[str, dict[str, Any]] = {}
    for provider in registry.providers:
        row = rows.setdefault(
            str(provider), {"provider": str(provider), "components": 0, "status": "ok", "problems": []}
        )
        row["components"] += sum(entry.provider == provider for entry in registry.entries())
        if provider.sha256:
            row["sha256"] = provider.sha256
        for problem in problems:
            if problem.provider == provider:
                row["problems"].append(f"{problem.status}: {_shown(problem.why)}")
                row["status"] = max(row["status"], problem.status, key=["ok", "warning", "blocked", "broken"].index)
    return list(rows.values())


def _files(registry: Registry) -> dict[str, dict[str, Any]]:
    """What features read that does not come with them, such as the Inception weights: where, and whether it is there."""
    files = {}
    for entry in registry.entries("features"):
        try:
            places = entry.load().model_validate({}).files()  # type: ignore[attr-defined]  # of features
        except Exception:  # a plugin may raise anything; what is broken is said of the plugins
            continue
        for place in places:
            files[f"{entry.kind} {entry.name}"] = {"path": _shown(place), "present": place.is_file()}
    return files


def _cache() -> dict[str, Any]:
    """Where gendiff keeps what it can compute again, and how much that is."""
    try:
        from gendiff.storage.cache import Cache

        folder = Cache.of_user().folder
        sizes = [file.stat().st_size for file in folder.glob("*.cached")]
    except Exception as error:  # torch is missing, or there is no home
        return {"error": _shown(reason(error))}
    return {"path": _shown(folder), "files": len(sizes), "bytes": sum(sizes)}


# --- showing ----------------------------------------------------------------------------------------------------------


def _print(facts: dict[str, Any]) -> None:
    own, python, machine, torch = facts["gendiff"], facts["python"], facts["machine"], facts["torch"]
    _line("gendiff", f"{own['version']}{', commit ' + own['commit'] if own['commit'] else ''}, in {own['folder']}")
    _line("Python", f"{python['version']} ({python['implementation']})")
    _line("system", machine["system"])
    _line("processor", f"{machine['processor']}, {machine['cores']} cores, {machine['usable_cores']} to use")
    _line("memory", f"{_gib(machine['memory_bytes'])}, {_gib(machine['free_bytes'])} free")
    if "error" in torch:
        _line("torch", f"cannot be used: {torch['error']}")
    else:
        _line("torch", ", ".join(_said_of_torch(torch)))
        for number, gpu in enumerate(torch["gpus"]):
            free = f", {_gib(gpu['free_bytes'])} free"
            _line(f"GPU {number}", f"{gpu['name']}, {_gib(gpu['memory_bytes'])}{free}, capability {gpu['capability']}")
        if not torch["gpus"]:
            _line("GPU", "none")
    if machine["driver"]:
        _line("driver", f"NVIDIA {machine['driver']}")
    _line("packages", ", ".join(f"{name} {version or 'missing'}" for name, version in facts["packages"].items()))
    for extra, needs in facts["extras"].items():
        _line(
            "extra", f"{extra}: " + ", ".join(f"{name} {version or 'not installed'}" for name, version in needs.items())
        )
    for row in facts["plugins"]:
        _line("plugin", f"{row['provider']}: {row['status']}, {row['components']} components")
        for problem in row["problems"]:
            _line("", problem)
    for user, file in facts["files"].items():
        _line("file", f"of {user}: {file['path']}, {'there' if file['present'] else 'not there'}")
    cache = facts["cache"]
    _line(
        "cache", cache.get("error") or f"{cache['path']}, {cache['files']:,} files, {cache['bytes'] / 2**20:,.0f} MiB"
    )
    for name, value in facts["environment"].items():
        _line("variable", f"{name}={value}")
    if facts["report_to"]:
        _line("report to", facts["report_to"])


def _said_of_torch(torch: dict[str, Any]) -> list[str]:
    libraries = [f"{name} {torch[key]}" for key, name in NAMES_OF_LIBRARIES.items() if torch[key]]
    count = torch["threads"]
    return [torch["version"], *(libraries or ["no CUDA"]), f"{count} {'thread' if count == 1 else 'threads'}"]


NAMES_OF_LIBRARIES = {"cuda": "CUDA", "hip": "HIP", "cudnn": "cuDNN", "nccl": "NCCL"}


def _gib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / GIB:.1f} GiB"


def _line(label: str, text: str) -> None:
    paragraph(f"{label:{LABEL}}{text}", LABEL)
