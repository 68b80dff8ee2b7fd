"""Sources: what a user may write where a command asks for data, a spec or the path of something whose kind is recognised."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gendiff.command import quoted
from gendiff.component import component_class, parse_spec, spec_value
from gendiff.data import Data
from gendiff.datasets.images import located, reason
from gendiff.datasets.latents import Latents
from gendiff.datasets.split import HoldOut, ways
from gendiff.errors import ConfigError, DataError, GendiffError, did_you_mean
from gendiff.plugin.registry import Registry, registry_in_force
from gendiff.shapes import EventShape
from gendiff.storage.reading import empty


def source(registry: Registry, text: str, also: str = "") -> dict[str, Any]:
    """The table of a data component: what a spec says, or what recognises the file or folder at a path.

    A text that begins with the name of data is a spec; a folder of that name is written ``./name``, and a warning says so. A bare
    name of data that cannot be without a path is no spec: what lies there is meant.

    Args:
        also: what else may stand in its place, for the error where nothing is found.

    Raises:
        ConfigError: where it is neither, and where more than one component recognises a path.
        DataError: where nothing is at a path, or nothing that any component recognises.

    """
    names = registry.names("data")
    if is_spec(registry, text):
        if Path(text).exists():
            warnings.warn(
                f"'{text}' is taken as the data of that name; what is called so here is ./{text}", stacklevel=2
            )
        return _parsed(text)
    path = located(Path(text))
    if path.exists():
        return _recognised(registry, path, also)
    if "/" in text or text.startswith(("~", ".")):
        fix = f"correct the path (the working folder is {Path.cwd()})"
        raise DataError(
            f"there is no '{text}'", details=["allowed: data, or the path of a file or folder", also], fix=fix
        )
    raise ConfigError(
        f"no data and no file or folder is called '{text}'",
        details=[f"known data: {', '.join(names)}", did_you_mean(text.partition(":")[0], names), also],
        fix="write data:path=..., or the path alone",
    )


def is_spec(registry: Registry, text: str) -> bool:
    """Whether a text is a spec of data, and not the path of what is called like data that cannot be without a path."""
    if text.partition(":")[0].strip() not in registry.names("data"):
        return False
    if not Path(text).exists():
        return True
    try:
        path = component_class("data", text).model_fields.get("path")
    except GendiffError:  # it has parameters, or cannot be loaded
        return True
    return path is None or not path.is_required()


def settled(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """A table of configuration in which a text in the place of data, of the run or held out, has become their table."""
    changes: dict[str, Any] = {}
    if isinstance(table.get("data"), str):
        changes["data"] = _with_path(table["data"])
    if (hold_out := table.get("hold_out")) is not None:
        if not isinstance(hold_out, Mapping | HoldOut) or (isinstance(hold_out, Mapping) and "name" in hold_out):
            hold_out = HoldOut.said(hold_out)
        if isinstance(hold_out, Mapping) and isinstance(hold_out.get("data"), str):
            hold_out = {**hold_out, "data": _with_path(hold_out["data"], ways())}
        changes["hold_out"] = hold_out
    return {**table, **changes}


def _with_path(text: str, also: str = "") -> str | dict[str, Any]:
    """The table of a path; a spec stays as it is, and says itself what is wrong with it."""
    registry = registry_in_force()
    name = text.partition(":")[0].strip()
    may_be_spec = name in registry.names("data") or (name.isidentifier() and not also)
    if Path(text).exists() or not may_be_spec:
        return source(registry, text, also)
    if name in registry.names("data"):
        _parsed(text)
    return text


def _parsed(spec: str) -> dict[str, Any]:
    """The table of a spec of data; raises `ConfigError` as `parse_spec` does, and says how a path is written."""
    try:
        return parse_spec(spec)
    except ConfigError as error:
        name, _, rest = spec.partition(":")
        if "=" not in rest and "path" in component_class("data", name.strip()).model_fields:
            error.fix = f"write {name}:path={rest}"
        raise


def data_like(registry: Registry, text: str, shape: EventShape = (), also: str = "") -> Data:
    """The data of a spec or path; their size and channels are those of events of ``shape`` where nothing else is said.

    Raises as `source` does, and as data do that cannot be made.
    """
    table = source(registry, text, also)
    fields = component_class("data", table["name"]).model_fields
    if len(shape) == 3 and "size" in fields:
        table.setdefault("size", shape[1] if shape[1] == shape[2] else list(shape[1:]))
    if len(shape) == 3 and "channels" in fields:
        table.setdefault("channels", shape[0])
    with called_like_a_path(text, table["name"]):
        return Data.model_validate(table)


@contextmanager
def called_like_a_path(text: str, name: str) -> Iterator[None]:
    """Errors that arise inside, where ``text`` became data of this name, say how a file or folder that is called so is meant."""
    try:
        yield
    except GendiffError as error:
        if text == name and Path(text).exists():
            error.fix = f"write ./{text} for what is called so in the working folder, or {text}:path=..."
        raise


def _recognised(registry: Registry, path: Path, also: str) -> dict[str, Any]:
    readings: dict[str, Mapping[str, Any]] = {}
    refusal = ""
    for entry in registry.entries("data"):
        try:
            component: Any = entry.load()
            if (parameters := component.recognises(path)) is not None:
                readings[entry.name] = parameters
        except OSError as error:
            refusal = reason(error)
        except Exception:
            continue  # a broken plugin breaks only itself, and was not asked for
    if len(readings) > 1:
        specs = ", ".join(quoted(f"{name}:path={spec_value(str(it['path']))}") for name, it in readings.items())
        what = f"'{path}' can be read in more than one way"
        raise ConfigError(what, details=[f"as {', '.join(readings)}"], fix=f"say which: {specs}")
    if not readings:
        what = f"no data recognise what is in '{path}'"
        if refusal or empty(path):
            what = f"cannot read '{path}': {refusal}" if refusal else f"'{path}' is empty: there is nothing in it"
        hint = (
            "allowed: image files in a folder or zip, LSUN, CIFAR-10, MNIST, .npy, .npz, HDF5, Zarr, wav, tar shards, "
            "parquet, save_to_disk, packed sets"
        )
        raise DataError(what, details=[hint, also], fix="say what it is: gendiff data list shows what there is")
    ((name, parameters),) = readings.items()
    return {
        "name": name,
        **{key: str(value) if isinstance(value, Path) else value for key, value in parameters.items()},
    }


def tolerant(data: Data) -> Data:
    """``data`` where it can be opened; otherwise the same that leaves bad pictures out, where it can do that."""
    try:
        _ = data.length
    except DataError:
        if isinstance(data, Latents):
            return data.model_copy(update={"source": tolerant(data.source)})
        if "on_bad_image" not in type(data).model_fields:
            raise
        return type(data).model_validate({**data.table(), "on_bad_image": "skip"})
    return data
