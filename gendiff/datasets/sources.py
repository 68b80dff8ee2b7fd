"""Sources: what a user may write where a command asks for data, a spec or the path of something whose kind is recognised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gendiff.command import quoted
from gendiff.component import parse_spec, spec_value
from gendiff.data import Data
from gendiff.datasets.images import located, reason
from gendiff.errors import ConfigError, DataError, GendiffError, did_you_mean
from gendiff.plugin.registry import Registry
from gendiff.storage.reading import empty


def source(registry: Registry, text: str, also: str = "") -> dict[str, Any]:
    """The table of a data component: what a spec says, or what recognises the file or folder at a path.

    A text that begins with the name of data is a spec; a folder of that name is written ``./name``.

    Args:
        also: what else may stand in its place, for the error where nothing is found.

    Raises:
        ConfigError: where it is neither, and where more than one component recognises a path.
        DataError: where nothing is at a path, or nothing that any component recognises.

    """
    names = registry.names("data")
    if text.partition(":")[0].strip() in names:
        return parse_spec(text)
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
        hint = "allowed: image files in a folder or zip, LSUN, CIFAR-10, MNIST, .npy, save_to_disk, packed sets"
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
        if "on_bad_image" not in type(data).model_fields:
            raise
        return type(data).model_validate({**data.table(), "on_bad_image": "skip"})
    return data
