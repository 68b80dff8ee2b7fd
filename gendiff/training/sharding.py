"""Sharding: a network of which each process holds a part, with its gradient, its moments and its averages (FSDP2).

Each stage is put together when it is computed, and taken apart again; gradients are averaged over processes as they are scattered
(Zhao et al. 2023, PyTorch FSDP, arXiv 2304.11277). A sharded tensor is a `DTensor`; all others are whole in each process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gendiff.machine.world import World

if TYPE_CHECKING:  # half a second, for who shards
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


def shard(network: nn.Module, stages: Sequence[nn.Module], world: World) -> None:
    """Leave each process its part of a network, which is moved to its device; stages are put together one at a time."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    for stage in stages:
        fully_shard(stage, mesh=mesh)
    fully_shard(network, mesh=mesh)


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether each process holds a part of it."""
    return hasattr(tensor, "to_local")


def _is_stage(module: nn.Module) -> TypeGuard[FSDPModule]:
    return hasattr(module, "set_requires_gradient_sync")


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds, in the same memory."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def full(tensor: Tensor) -> Tensor:
    """The whole tensor; all processes must ask for it."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def put(target: Tensor, value: Tensor) -> None:
    """Write a whole tensor, which each process has, into one that may be sharded."""
    if is_sharded(target):
        from torch.distributed.tensor import distribute_tensor

        # Without a source: nothing is sent, or processes that come to their tensors in another order would wait for ever.
        parts = distribute_tensor(value.to(target.device), target.device_mesh, target.placements, src_data_rank=None)
        value = parts.to_local()
    local(target).copy_(value)


def copies(groups: Mapping[str, Mapping[str, Tensor]], main: bool) -> dict[str, dict[str, Tensor]]:
    """Groups of whole tensors, copied to the CPU; all processes must ask, and ``main`` alone gets those that are sharded."""
    result: dict[str, dict[str, Tensor]] = {}
    for group, named in groups.items():
        result[group] = {}
        for name, tensor in named.items():
            whole = full(tensor.detach())
            if main or not is_sharded(tensor):
                result[group][name] = whole.to("cpu", copy=True).contiguous()
    return result


@contextmanager
def gradients_kept_apart(denoiser: nn.Module) -> Iterator[None]:
    """Inside the block gradients add up in each process; those of all are put together by the next backward pass behind it."""
    if isinstance(denoiser, DistributedDataParallel):
        with denoiser.no_sync():
            yield
        return
    sharded = [module for module in denoiser.modules() if _is_stage(module)]
    for module in sharded:
        module.set_requires_gradient_sync(False)
    yield
    for module in sharded:
        module.set_requires_gradient_sync(True)
