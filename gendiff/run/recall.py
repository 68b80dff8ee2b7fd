"""Recall: the configuration of a run that exists, with stand-ins for what is gone since.

A run was trained with numbers. Where the plugins that made them are here and still give them, they are used; where one is gone,
or gives others now, the numbers take its place. To sample, nothing of the data is needed but their shape.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gendiff.command import again, quoted
from gendiff.component import Component
from gendiff.errors import DataError, GendiffError, PluginError, reason
from gendiff.moments import Moments
from gendiff.run import stored
from gendiff.run.config import Config
from gendiff.run.layers import Layer, resolve
from gendiff.run.stored import StoredData, StoredObjective, StoredProcess, difference
from gendiff.storage import reading

PROCESS = "process.safetensors"


@dataclass
class Recalled:
    """A configuration that can be used, and what a user should know about it."""

    config: Config
    notes: list[str] = field(default_factory=list)


def recall(path: Path, layer: Layer, info: Mapping[str, Any], training: bool) -> Recalled:
    """The configuration of the run at ``path``.

    Args:
        layer: its config.toml.
        info: its run.json.
        training: whether it is to be trained on: then data, objective and all else that training uses must be there.

    Raises:
        DataError: where the stored numbers are damaged.
        PluginError: where a component is missing that nothing can stand in for.

    """
    process = _stored_process(path / PROCESS, info)
    table, errors, notes = dict(layer.table), dict[str, GendiffError](), list[str]()
    objective = layer.table.get("objective")
    basis = objective.get("basis", "process") if isinstance(objective, Mapping) else "process"
    spare = _stand_ins(process, info, training, basis)
    if not training:
        table["data"] = spare["data"]
        table.pop("hold_out", None)  # `Run.split` opens data, and what is held out of them
        table["train"] = {
            key: value
            for key, value in table.get("train", {}).items()
            if key not in ("preview", "metrics", "loggers")  # of no use here, and perhaps not installed
        }
    for key in Config.model_fields:
        try:
            resolve([Layer(layer.origin, {key: table[key]} if key in table else {})])
        except GendiffError as error:
            errors[key] = error
    for key in [key for key in errors if key in spare]:
        table[key] = spare[key]
        notes.append(f"{_absence(key, errors[key], info)}: the numbers stored with the run are used")
    defaults = {"sampler"} & errors.keys() if not training else set[str]()  # by the default
    for key in defaults:
        del table[key]
    if missing := next((key for key in errors if key not in {*spare, *defaults}), None):
        raise _needed(path, missing, errors[missing], info)
    config = resolve([Layer(layer.origin, table)]).config.splitting_at(info.get("held_out", {}).get("below"))
    if "sampler" in defaults:
        spec = config.sampler.spec
        notes.append(f"{_absence('sampler', errors['sampler'], info)}: {spec} stands in; choose with --sampler")
    if process is None:  # an older run whose process was too large to store
        standard = Moments.standard(tuple(info["data"].get("event_shape", ())))
        return Recalled(config if training else config.holding(config.rotation, config.velocity, standard), notes)
    rotation, velocity = config.rotation, config.velocity
    if process.learned_rotation and "rotation" not in errors:
        rotation = rotation.with_learned(process.learned_rotation)
    if process.learned_velocity and "velocity" not in errors:
        velocity = velocity.with_learned(process.learned_velocity)
    own = rotation  # what stands in is stored in the basis in which the moments are
    if not errors.keys() & {"rotation", "velocity"}:
        with suppress(Exception):  # of a component that gives no process any more: `_change` says why
            own = config.basis_of(rotation, velocity, process.event_shape)
    config = config.holding(rotation, velocity, process.moments, own)
    if process.parts and not {"rotation", "velocity"} <= errors.keys() and (change := _change(config, process)):
        notes.append(f"{change}: the numbers stored with the run are used")
        config = config.holding(*process.parts, process.moments)
    return Recalled(config, notes)


def _stored_process(file: Path, info: Mapping[str, Any]) -> StoredProcess | None:
    """The numbers of the process; None where none were stored."""
    digest = info.get("process", {}).get("sha256")
    if digest is None:
        return None
    try:
        with reading.opened(file, stored.MOST_BYTES) as content:
            actual = hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]  # a binary file
    except (OSError, ValueError) as error:
        raise reading.unreadable(file, error) from error
    if actual != digest:
        raise DataError(f"{file} is damaged: its SHA-256 is not the one in run.json", fix="restore it from a copy")
    return StoredProcess.load(file)


def _stand_ins(
    process: StoredProcess | None, info: Mapping[str, Any], training: bool, basis: Any
) -> dict[str, Component]:
    """What can take the place of a component, by its key in the configuration."""
    spare = dict[str, Component]()
    if process is not None and process.parts:
        spare |= dict(zip(("rotation", "velocity"), process.parts, strict=True))
    if not training:
        data = info["data"]
        shape = {key: data.get(own) for key, own in (("shape", "event_shape"), ("bounds", "value_range"))}
        shape |= {"known": data.get("conditions", {}), "by": data.get("latent")}
        spare["data"] = StoredData.model_validate({**shape, "mark": str(data.get("fingerprint", ""))})
        if "predicts" in info:
            spare["objective"] = StoredObjective.model_validate({"predicts": info["predicts"], "basis": basis})
    return spare


def _change(config: Config, process: StoredProcess) -> str:
    """Why the process of the configuration is not taken for the stored one; empty where it is that one."""
    try:
        why = difference(config.diffusion(), process.diffusion())
    except DataError as error:  # it needs them where not all that was learned from them is stored
        return f"its data cannot be read, to make its process anew ({reason(error)})"
    except Exception as error:  # a component may raise anything
        return f"its process cannot be made anew ({reason(error)})"
    return f"its configuration now gives another process ({why})" if why else ""


def _absence(key: str, error: GendiffError, info: Mapping[str, Any]) -> str:
    """What cannot be made, why, and who provided it."""
    phrase = error.what.replace("'", "") + " "  # "unknown schedule sine "
    by = [who["plugin"] for what, who in info.get("providers", {}).items() if f"{what} " in phrase]
    return f"its {key} cannot be made: {error.what}" + (f" (it came from {by[0]})" if by else "")


def _needed(path: Path, key: str, error: GendiffError, info: Mapping[str, Any]) -> GendiffError:
    """The error where a run cannot do without a component: how to get it back."""
    strangers = {
        f"{who['plugin']} {who['origin']}": who for who in info.get("providers", {}).values() if not who.get("built_in")
    }
    if not strangers:
        return error
    copies = {file["given"]: file["copy"] for file in info.get("plugin_files", {}).values()}
    fixes = [
        again("--plugin", path / copies[who["origin"]])
        if who["origin"] in copies
        else quoted("pip", "install", f"{who['distribution']}=={who['version']}")
        for who in strangers.values()
    ]
    return PluginError(
        f"'{path}' cannot go on: {_absence(key, error, info)}",
        details=[f"plugins of this run: {', '.join(strangers)}"],
        fix=f"bring it back: {'; '.join(fixes)}",
    )
