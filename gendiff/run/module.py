"""Torch module: a network that a program has in its hands, or that a file of the user's makes, as the model of a run."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import Field, PrivateAttr, model_validator
from torch import nn

from gendiff.command import again, is_command
from gendiff.component import parse_spec
from gendiff.condition import Conditions
from gendiff.errors import ArgumentError, ConfigError, PluginError, did_you_mean, reason
from gendiff.model import Model
from gendiff.plain import json_object, json_text
from gendiff.plugin import discovery
from gendiff.shapes import EventShape, takes

DOOR = "module"  # the model whose code is a file of the user's


class TorchModule(Model):
    """a network that was given in Python, by `as_model`.

    A run stores which it was, not its code: who opens the run has to give it again. Training begins with the weights that it has,
    and with a copy: the module itself stays as it is.
    """

    name = "python-module"
    module: str = Field(description="its class, as module:class")
    parameters: int = Field(ge=0, description="how many numbers can be trained in it")
    file: str = Field("", description="the source of its class; empty where there is none, as in a session")
    sha256: str = Field("", description="of that file")

    _network: nn.Module | None = PrivateAttr(None)

    def __repr__(self) -> str:
        return f"TorchModule({self.module}, {self.parameters:,} parameters{'' if self._network is not None else ', not here'})"

    __str__ = __repr__

    def build(self, event_shape: EventShape) -> nn.Module:
        if self._network is None:
            own = self.module.rpartition(":")[2].rpartition(".")[2]
            source = [f"source: {self.file}, SHA-256 {self.sha256[:12]}"] if self.file else []
            raise ConfigError(
                f"the network was given in Python, a {self.module} with {self.parameters:,} parameters, and is not here",
                details=source,
                fix=f"give it again in Python: gendiff.load(RUN, model={own}(...)), gendiff.resume(RUN, model={own}(...))",
                subject="model.name",
            )
        return deepcopy(self._network)

    def build_conditional(self, event_shape: EventShape, conditions: Conditions) -> nn.Module:
        return _told(self.build(event_shape), conditions, self.module)


class ModuleFile(Model):
    """a network that a function in a Python file makes: 'module:path=net.py:make_network'.

    The function, or the class of a module, is called with those of ``event_shape``, ``in_channels`` and ``conditions`` that it
    has parameters for, and with the ``arguments`` that are given here. What it returns maps ``(x, i)``, or ``(x, i, condition)``.

    The file is executed where it is named on the command line, or given with ``--plugin``. A configuration or a run that names it
    executes nothing: its content is known by its SHA-256, and the user gives a file of that content.
    """

    name = DOOR

    path: str = Field(description="the file and the function in it, FILE:NAME")
    arguments: str = Field(
        "", description="what the function is called with besides, by name: {width=64}; kept as JSON"
    )
    sha256: str = Field("", description="of the file; left out, that of the file as it is")
    frequency_features: bool = Field(False, description="read U^T x beside x")

    @property
    def file(self) -> Path:
        """The file with the function."""
        return Path(self.path.rpartition(":")[0]).expanduser()

    @property
    def function(self) -> str:
        """The name of the function in it."""
        return self.path.rpartition(":")[2]

    @model_validator(mode="before")
    @classmethod
    def _hashed(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or not isinstance(path := value.get("path"), str):
            return value
        file, colon, function = path.rpartition(":")
        if not colon or not file or not function.isidentifier():
            raise ConfigError(
                f"model '{DOOR}' cannot read '{path}'",
                details=["allowed: a Python file and the name of a function or a class in it"],
                fix=f"write --model {DOOR}:path=net.py:make_network",
                subject="model.path",
            )
        value = {**value, "arguments": _as_json(value.get("arguments", ""))}
        if value.get("sha256"):
            return value
        return {**value, "sha256": discovery.file(Path(file).expanduser(), f"model '{DOOR}'").provider.sha256}

    def build(self, event_shape: EventShape) -> nn.Module:
        return self.build_conditional(event_shape, {})

    def build_conditional(self, event_shape: EventShape, conditions: Conditions) -> nn.Module:
        maker = self._maker()
        known = {"event_shape": event_shape, "in_channels": self.in_channels(event_shape), "conditions": conditions}
        network = maker if isinstance(maker, nn.Module) else self._made(maker, known)
        if not isinstance(network, nn.Module):
            raise PluginError(
                f"'{self.path}' gives a {type(network).__name__}, no torch.nn.Module",
                fix="return a network whose forward(x, i) gives the shape of an event",
                subject="model.path",
            )
        return _told(deepcopy(network) if network is maker else network, conditions, self.path)

    def _made(self, maker: Any, known: Mapping[str, Any]) -> Any:
        try:
            parameters = inspect.signature(maker).parameters
        except (TypeError, ValueError) as error:
            raise PluginError(f"'{self.path}' is no function", subject="model.path") from error
        arguments = {name: value for name, value in known.items() if name in parameters}
        arguments |= json_object(self.arguments) if self.arguments else {}
        try:
            return maker(**arguments)
        except TypeError as error:
            try:
                inspect.signature(maker).bind(**arguments)
            except TypeError as misfit:
                raise ConfigError(
                    f"'{self.path}' cannot be called: {misfit}",
                    details=[f"its parameters: {', '.join(parameters) or 'none'}", f"given: {', '.join(known)}"],
                    fix="say the others, such as --model 'module:path=FILE:NAME,arguments={width=64}'",
                    subject="model.arguments",
                ) from error
            raise

    def _maker(self) -> Any:
        """What the file has under that name; raises `PluginError` where the user has not given the file."""
        file = discovery.given_file(self.sha256)
        if file is None:
            change = self._change()
            place = Path("RUN/plugins", self.file.name) if change else self.file
            way = again("--plugin", place) if is_command() else f'model="{self.spec}"'
            raise PluginError(
                f"the network is made by '{self.path}', and a configuration or a run never executes code",
                details=[f"SHA-256 of the file: {self.sha256}", change, "it runs with your rights: read it first"],
                fix=f"give it yourself: {way}",
                subject="model.path",
            )
        try:
            module = discovery.loaded(file, self.sha256)
        except Exception as error:  # somebody's file may raise anything
            raise PluginError(f"cannot import '{file}': {reason(error)}", subject="model.path") from error
        if not hasattr(module, self.function):
            own = {name: value for name, value in vars(module).items() if not name.startswith("_")}
            names = [
                name
                for name, value in own.items()
                if isinstance(value, nn.Module) or getattr(value, "__module__", "") == module.__name__
            ]
            raise PluginError(
                f"there is no '{self.function}' in '{file}'",
                details=[did_you_mean(self.function, names), f"it has: {', '.join(names[:12]) or 'nothing'}"],
                subject="model.path",
            )
        return getattr(module, self.function)

    def _change(self) -> str:
        """What has become of the file, where it is not as it was."""
        copy = "; a run keeps a copy in its folder plugins/"
        try:
            now = discovery.file(self.file).provider.sha256
        except PluginError:
            return f"there is no '{self.file}' any more{copy}"
        return "" if now == self.sha256 else f"of '{self.file}' now: {now}{copy}"

    @property
    def spec(self) -> str:
        arguments = f",arguments={self.arguments}" if self.arguments else ""
        features = ",frequency_features=true" if self.frequency_features else ""
        return f"{DOOR}:path={self.path}{arguments}{features}"


def _as_json(arguments: Any) -> str:
    """Arguments by name as JSON; raises `ConfigError` where they are none."""
    try:
        table = json_object(arguments) if isinstance(arguments, str) and arguments else arguments
        if not table:
            return ""
        if isinstance(table, Mapping):
            return json_text(dict(table))
    except (TypeError, ValueError):
        pass
    raise ConfigError(
        f"model '{DOOR}' cannot read the arguments {str(arguments)[:80]!r}",
        details=["allowed: values by name"],
        fix="write arguments={width=64}",
        subject="model.arguments",
    )


def named_by_user(model: Any) -> Any:
    """A model as the user says it, on the command line or in Python: the file that it names is let in.

    A spec or a table of another model, and anything else, is given back as it is.
    """
    table = parse_spec(model) if isinstance(model, str) and model.strip() else model
    if not isinstance(table, Mapping) or table.get("name") != DOOR or not isinstance(table.get("path"), str):
        return model
    file = Path(table["path"].rpartition(":")[0]).expanduser()
    provider = discovery.file(file, f"model '{DOOR}'").provider
    discovery.open_to(provider.sha256, file)
    return {**table, "sha256": provider.sha256}


def signature(network: nn.Module) -> str:
    """How a network is called: ``(x, i)`` or ``(x, i, condition)``, found by inspection; raises `PluginError` for neither."""
    whole, plain = takes(network.forward, None, None, {}), takes(network.forward, None, None)
    if not (whole or plain):
        raise PluginError(
            f"forward{_parameters(network)} of {type(network).__name__} can be called neither with (x, i) nor with "
            "(x, i, condition)",
            details=["x are events (B, C, *spatial), i their steps (B,), condition tensors by name"],
            fix="write forward(self, x, i), or wrap it in a module that does",
            subject="model.name",
        )
    return "(x, i, condition)" if whole else "(x, i)"


def _parameters(network: nn.Module) -> str:
    try:
        return f"({', '.join(inspect.signature(network.forward).parameters)})"
    except (TypeError, ValueError):
        return ""


def _told(network: nn.Module, conditions: Conditions, origin: str) -> nn.Module:
    """The same network; raises `ConfigError` where it is to be told of conditions, and is not."""
    if conditions and signature(network) == "(x, i)":
        raise ConfigError(
            f"the network, a {origin}, is not told of {', '.join(conditions)}: its forward takes (x, i)",
            fix="write forward(self, x, i, condition), condition being tensors by name, or leave out condition",
            subject="condition",
        )
    return network


def as_model(model: nn.Module | Model | str) -> Model:
    """A model from what there is: a module of torch, a model of gendiff, or its spec.

    Args:
        model: a module that maps ``(x, i)``, ``(B, *event)`` and the steps as floats ``(B,)``, to ``(B, *event)``.

    Raises:
        ArgumentError: for a class of modules, which is not called yet.

    """
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise ArgumentError(f"{model.__name__} is a class of networks", fix=f"make one: {model.__name__}(...)")
    if not isinstance(model, nn.Module):
        return Model(named_by_user(model))
    cls = type(model)
    try:
        file = Path(inspect.getfile(cls))
        source = {"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    except (OSError, TypeError):  # a class of a session, or of no file
        source = {}
    size = sum(parameter.numel() for parameter in model.parameters())
    wrapper = TorchModule(module=f"{cls.__module__}:{cls.__qualname__}", parameters=size, **source)
    wrapper._network = deepcopy(model)
    return wrapper
