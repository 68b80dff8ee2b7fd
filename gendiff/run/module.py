"""Torch module: a network that a program has in its hands, as the model of a run."""

from __future__ import annotations

import hashlib
import inspect
from copy import deepcopy
from pathlib import Path

from pydantic import Field, PrivateAttr
from torch import nn

from gendiff.condition import Conditions
from gendiff.errors import ArgumentError, ConfigError
from gendiff.model import Model
from gendiff.shapes import EventShape, takes


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
        network = self.build(event_shape)
        if conditions and not takes(network.forward, None, None, {}):
            raise ConfigError(
                f"the network, a {self.module}, is not told of {', '.join(conditions)}: its forward takes (x, i)",
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
        return Model(model)
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
