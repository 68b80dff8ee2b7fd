"""Pretrained: a network that comes with weights, in files of another library.

Such a model is made of a ``path``. What is read there once is kept as ``architecture``, so that a run of it opens where the files
are gone: its own checkpoints have the weights. What the weights were trained for, N, velocity and objective, is their
`configuration`, which a run that begins from them may overrule.

Nothing that is read executes code: weights are safetensors, or tensors that a restricted reader finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, final

from pydantic import Field, model_validator
from torch import Tensor, nn

from gendiff.component import Component, abstractmethod, component_class, parse_spec
from gendiff.condition import Conditions
from gendiff.errors import ConfigError, DataError, GendiffError
from gendiff.model import Model
from gendiff.plain import json_object, json_text
from gendiff.shapes import EventShape

# In an architecture: the path that it was read from, and of what was fetched, which it was.
OF, REVISION = "of", "revision"


class Pretrained(Model):
    """A network of another library, with its weights.

    An author gives `read`, `weights`, and `build` or `build_conditional`, which make the network without them.
    """

    #: What lies at a path, for the error where nothing does.
    files: ClassVar[str] = "a file or folder of weights"

    path: Path = Field(description="where its weights are (~ is your home)")
    architecture: str = Field("", description="what it is, as JSON: read at the path, and kept with a run")

    @classmethod
    @abstractmethod
    def read(cls, path: Path, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the files at ``path`` say of the network and of its process: values of JSON, with which it is built.

        Args:
            parameters: the others of the model, as they were given.

        Raises:
            DataError: where there are no such files, or they cannot be read.
            ConfigError: where they are of a network or a process that cannot be expressed exactly, and why.

        """

    @abstractmethod
    def weights(self, network: nn.Module) -> Mapping[str, Tensor]:
        """The weights at the path, by the names that they have in ``network``, which `build_conditional` gave.

        All that there are: those that have no place in this network too. Raises `DataError` where they cannot be read.
        """

    @classmethod
    def fetched(cls, path: str, revision: str = "") -> tuple[Path, str] | None:
        """Where that lies now which a path names on another machine, and its exact revision; None, as here, for no such name.

        Asked where nothing is at the path. Such a model has a parameter ``revision``.

        Raises:
            DataError: where it cannot be had.
            PluginError: without the library that brings it.

        """
        return None

    @property
    def remarks(self) -> list[str]:
        """What somebody should know who begins from these weights, a line each."""
        return []

    @property
    def event_shape(self) -> EventShape | None:
        """Of the events that it was trained on; None where that is not known."""
        return None

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Where their values lie."""
        return (-1.0, 1.0)

    @property
    def conditions(self) -> Conditions:
        """What it was told of them."""
        return {}

    @final
    @property
    def facts(self) -> dict[str, Any]:
        """What `read` said."""
        return json_object(self.architecture)

    @final
    @property
    def located(self) -> Path:
        """The path with ``~`` written out."""
        return written_out(self.path)

    @property
    def spec(self) -> str:
        return Component.spec.fget(self.model_copy(update={"architecture": ""}))  # type: ignore[attr-defined,no-any-return]  # a property

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        # An architecture is that of its path alone: a layer may have given another path since.
        if not isinstance(value, Mapping) or not isinstance(path := value.get("path"), str | Path) or path == "":
            return value
        try:
            kept = json_object(value.get("architecture") or "{}")
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"model '{cls.name}': its architecture is no JSON", fix="leave it out", subject="model.architecture"
            ) from error
        revision = str(value.get(REVISION) or "")
        if kept.get(OF) == str(path) and kept.get(REVISION, "") == revision:
            return value
        place, about = written_out(Path(path)), {OF: str(path)}
        if place.exists() and revision:
            raise ConfigError(
                f"'{path}' is here, and has no revision '{revision}'",
                fix="leave out revision: it is of what is downloaded",
                subject="model.revision",
            )
        if not place.exists():
            brought = cls.fetched(str(path), revision)
            if brought is None:
                raise DataError(
                    f"there is no '{path}'",
                    details=[f"allowed: {cls.files}"],
                    fix=f"correct the path (the working folder is {Path.cwd()})",
                    subject="model.path",
                )
            place, exact = brought
            about, value = {**about, REVISION: exact}, {**value, REVISION: exact}
        parameters = {key: entry for key, entry in value.items() if key not in ("name", "path", "architecture")}
        return {**value, "architecture": json_text({**about, **cls.read(place, parameters)})}


def written_out(path: Path) -> Path:
    """The path with ``~`` written out; raises `DataError` where there is no such home."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise DataError(f"no home folder for '{path}'", subject="model.path", fix="write the whole path") from error


def pretrained(text: str) -> Pretrained | None:
    """The pretrained model that ``NAME:PATH`` or ``NAME:path=PATH,...`` names; None where it names none."""
    name, colon, rest = text.partition(":")
    if not colon:
        return None
    try:
        cls = component_class("model", name.strip())
    except GendiffError:
        return None
    if not issubclass(cls, Pretrained):
        return None
    if rest and ("=" not in rest or Path(rest).exists()):
        return cls.model_validate({"path": rest})
    return cls.model_validate({key: value for key, value in parse_spec(text).items() if key != "name"})
