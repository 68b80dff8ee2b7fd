"""Model: the recipe of a network.

A model component builds a ``torch.nn.Module`` that maps ``(x, i)`` to a tensor of the shape of an event, where ``x`` has
shape ``(B, in_channels, *spatial)`` and ``i`` is the step, shape ``(B,)``, a float in 1..N, whole or real. What the output means
(ε, x_0, v, ...) is the objective's business; the network never knows. One that is told of conditions maps ``(x, i, condition)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from gendiff.clock import Clock
from gendiff.component import Component, abstractmethod
from gendiff.condition import Conditions, Given
from gendiff.errors import ConfigError, PluginError
from gendiff.shapes import EventShape, check_kind, takes


class Model(Component):
    """Builds a network for events of a given shape."""

    kind: ClassVar[str] = "model"

    if TYPE_CHECKING:

        def __init__(self, spec: str | Mapping[str, Any] | Self = ..., /, **parameters: Any) -> None: ...

    #: Concatenate the rotated input U^T x to x along the channels: the network then has ``2 C`` input channels.
    frequency_features: bool = False

    @abstractmethod
    def build(self, event_shape: EventShape) -> nn.Module:
        """A freshly initialised network for events ``(C, *spatial)``; `in_channels` gives its input channels.

        Raises `ConfigError` where the event's sizes do not fit the architecture. Initial weights come from torch's
        global generator, which the caller seeds.
        """

    def build_conditional(self, event_shape: EventShape, conditions: Conditions) -> nn.Module:
        """A network that is told of these conditions too, ``forward(x, i, condition)``; `gendiff.condition` says in what form.

        Raises `ConfigError` where it cannot take one of them; here, where there are any.
        """
        if not conditions:
            return self.build(event_shape)
        raise ConfigError(
            f"model '{self.name}' takes no conditions",
            details=[f"it is to be told of {', '.join(conditions)}"],
            fix="leave out condition, or choose a model that takes some, such as --model unet",
            subject="model.name",
        )

    def attach(self, network: nn.Module, diffusion: Any) -> None:
        """Tell a network that `build` gave of the process, a `Diffusion`, in which it is asked, where it needs that.

        Here: each `Clock` in it. What it keeps of the process is no weight: buffers that are not persistent.
        """
        for module in network.modules():
            if isinstance(module, Clock):
                module.attach(diffusion)

    def configuration(self) -> Mapping[str, Any]:
        """The settings that the weights of this model were trained for, a part of the table of a configuration; here none.

        Such as ``{"N": 1000, "velocity": {...}, "objective": {...}}``: who begins from these weights begins with these settings
        too, as far as nothing else is said.
        """
        return {}

    def stages_of(self, network: nn.Module) -> Sequence[nn.Module]:
        """The parts of a network that `build` gave, most of its work, of which each is called once with tensors alone.

        Their activations are those that `train.recompute` computes a second time instead of keeping them. Here: what its
        ``ModuleList`` hold.
        """
        stages: list[nn.Module] = []
        for child in network.children():
            of_a_list = isinstance(network, nn.ModuleList) and not isinstance(child, nn.ModuleList)
            stages += [child] if of_a_list else Model.stages_of(self, child)
        return stages

    @property
    def reads_whole_steps(self) -> bool:
        """Whether its network knows whole steps alone, as one does that has a table with an entry for each; here False."""
        return False

    def in_channels(self, event_shape: EventShape) -> int:
        """How many channels the network reads."""
        return event_shape[0] * (2 if self.frequency_features else 1)


def ask(
    network: nn.Module,
    x: Tensor,
    i: Tensor,
    event_shape: EventShape,
    dtype: torch.dtype | None = None,
    condition: Given | None = None,
) -> Tensor:
    """What a network says of ``x`` at steps ``i``, ``(B, *event)``, asked in the precision of its own weights.

    Args:
        dtype: a lower precision in which it may answer, besides float32 and float64.
        condition: what it is told besides; left out, or empty, it is called without.

    Raises:
        PluginError: where the answer is anything but that: a tuple, other channels, another type of number.

    """
    weights = network.parameters() if isinstance(network, nn.Module) else ()
    if isinstance(network, type) or not callable(network):
        check_kind(network, nn.Module, "the network")
    x = x.to(next((weight.dtype for weight in weights if weight.is_floating_point()), x.dtype))
    arguments: tuple[object, ...] = (x, i, condition) if condition else (x, i)
    try:
        output: Tensor = network(*arguments)
    except TypeError as error:
        if takes(network.forward if isinstance(network, nn.Module) else network, *arguments):
            raise
        told = ", and conditions by name" if condition else ""
        raise PluginError(
            f"the network cannot be asked: {error}",
            details=[f"it is called with events (B, C, *spatial) and steps (B,){told}"],
            fix=f"write its forward(x, i{', condition' if condition else ''}), or wrap it in a module that does",
            subject="model.name",
        ) from error
    shape = (len(x), *event_shape)
    fault = ""
    if not isinstance(output, Tensor):
        fault = f"a {type(output).__name__}"
    elif output.device != x.device:
        fault = f"a tensor on {output.device}"
    elif output.layout != torch.strided:
        fault = "a sparse tensor"
    elif output.shape != shape:
        fault = f"a tensor of shape {tuple(output.shape)}"
    elif output.dtype not in (torch.float32, torch.float64, x.dtype, dtype):
        fault = f"numbers of type {output.dtype}".replace("torch.", "")
    if fault:
        raise PluginError(
            f"the network returned {fault}",
            details=[f"expected: one tensor of shape {shape}, {x.dtype}".replace("torch.", "")],
            fix="return that from its forward(x, i), or wrap it in a module that does",
            subject="model.name",
        )
    return output
