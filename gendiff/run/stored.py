"""Stored process: a diffusion as numbers alone, which outlive the plugins that made them.

A run keeps its process in ``process.safetensors``: the scales for i = 0..N, the basis, the moments of the data, and whatever
components learned from them. The network was trained with these numbers and with no others, so they are what counts when a
plugin is gone, or has come to give other numbers since.

Scales that say themselves in formulas (`gendiff.formula`) are kept as these and their few tables. Of other scales the distinct
components are kept, each with its (log a, log s) for every i. A separable rotation is one matrix per axis; another one the
nonzero entries of U for one channel; where channels are mixed, ``U = V ⊗ W``, V besides what W is kept as.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, final

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from gendiff.blur import LOG_FLOOR
from gendiff.datasets.described import Described
from gendiff.dct import apply_per_axis
from gendiff.diffusion import Diffusion
from gendiff.errors import DataError, GendiffError
from gendiff.formula import expm1, log, logsigmoid, maximum, over_components, over_time, read, written
from gendiff.moments import Modes, Moments
from gendiff.objective import Objective
from gendiff.plain import json_object, json_value
from gendiff.precision import full_precision
from gendiff.rotation import ChannelRotation, Composition, Rotation, SeparableRotation, mixed
from gendiff.scales import (
    BlurScales,
    ColouredScales,
    DissipatingScales,
    Scales,
    VariancePreserving,
    of_formulas,
    picked,
)
from gendiff.score import Parametrization
from gendiff.shapes import EventShape, in_full, spatial
from gendiff.storage.reading import hollow, opened
from gendiff.streams import stream
from gendiff.velocity import Velocity

FORMATS = ("1", "2", "3")  # tables, or tensors told by their names; formulas; channels that are mixed
CHANNELS = "channels"  # the tensor of a basis that mixes them
FORMULAS = "formulas"  # the tensor that holds them, as the bytes of JSON
MAX_BYTES = 512 * 2**20  # of one process
MOST_BYTES = 2 * MAX_BYTES  # of its file
MOST_STEPS, MOST_VALUES = 10**7, 2**28  # of a process, and of one event
MAX_DENSE = 4096  # samples of a channel for which a rotation that is not separable is kept as a matrix


class StoredRotation(Rotation):
    """the basis of a run, from its numbers."""

    name = "stored"

    def rotate(self, x: Tensor) -> Tensor:
        return self._apply(x, transpose=False)

    def unrotate(self, x_bar: Tensor) -> Tensor:
        return self._apply(x_bar, transpose=True)

    def frequencies(self, event_shape: EventShape) -> Tensor:
        rho: Tensor = self.learned["frequencies"]
        return rho

    def channel_matrix(self, channels: int) -> Tensor | None:
        return self.learned.get(CHANNELS)

    def _apply(self, x: Tensor, transpose: bool) -> Tensor:
        x = in_full(x)
        if (V := self.channel_matrix(x.shape[1])) is not None:
            V = V.to(x)
            x = mixed(x, V.T if transpose else V)
        matrices = [U.T if transpose else U for U in self._matrices(x.dtype, x.device)]
        with full_precision(x.device):
            if "dense" in self.learned:
                return (x.flatten(2) @ matrices[0]).reshape(x.shape)
            return apply_per_axis(x, matrices)

    def _matrices(self, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        key = f"{dtype} {device}"
        if key not in self._cast:
            with torch.inference_mode(False):  # what is first used while sampling may later meet autograd
                self._cast[key] = [
                    value.to(device=device, dtype=dtype)
                    for name, value in sorted(self.learned.items())
                    if name.startswith(("axis", "dense"))
                ]
        return self._cast[key]

    def model_post_init(self, context: Any) -> None:
        self._cast: dict[str, list[Tensor]] = {}


class StoredVelocity(Velocity):
    """the scales of a run, from their numbers."""

    name = "stored"

    def scales(self, rotation: Rotation, event_shape: EventShape, N: int) -> Scales:
        if FORMULAS not in self.learned:
            return _scales(self.learned)
        text = bytes(self.learned[FORMULAS].tolist())
        formulas = {name: read(value, self.learned) for name, value in json_object(text).items()}
        if any(len(table) != N + 1 for formula in formulas.values() for table in formula.leaves("time")):
            raise ValueError("its tables have another length than N + 1")
        return of_formulas(N, formulas)


class StoredData(Described):
    """what is known of a run's data without them: enough to sample."""

    name = "stored"
    mark: str = ""

    def __getitem__(self, index: int) -> Tensor:
        raise DataError("the data of this run were not opened: only their shape is known here")

    @property
    def fingerprint(self) -> str:
        return self.mark


class StoredObjective(Objective):
    """what a run's network predicts: enough to sample."""

    name = "stored"
    predicts: Parametrization

    @property
    def parametrization(self) -> Parametrization:  # type: ignore[override]  # a constant of other objectives
        return self.predicts


@final
@dataclass(frozen=True, repr=False)
class TableVariancePreserving(VariancePreserving):
    """Scales looked up in a table of ``log Ā_i``, shape ``(N+1, K)``, by the class of each component."""

    L: Tensor
    index: Tensor

    @property
    def N(self) -> int:  # type: ignore[override]  # derived from the table
        return len(self.L) - 1

    def log_alpha_bar(self, i: Tensor) -> Tensor:
        return self.L[i][:, self.index]


@final
@dataclass(frozen=True, repr=False)
class TableScales(Scales):
    """Scales looked up in tables of log a and log s, each ``(N+1, K)``, by the class of each component."""

    table_a: Tensor
    table_s: Tensor
    index: Tensor

    @property
    def N(self) -> int:  # type: ignore[override]  # derived from the table
        return len(self.table_a) - 1

    def log_a(self, i: Tensor) -> Tensor:
        return self.table_a[i][:, self.index]

    def log_s(self, i: Tensor) -> Tensor:
        return self.table_s[i][:, self.index]


#: The tables of scales, which are told by the names of what they hold.
TABLES: tuple[type[TableVariancePreserving | TableScales], ...] = (TableVariancePreserving, TableScales)


# --- writing ----------------------------------------------------------------------------------------------------------


def dump(
    diffusion: Diffusion, velocity: Velocity | None = None, rotation: Rotation | None = None, whole: bool = True
) -> bytes:
    """The numbers of a process, as the content of a safetensors file.

    Args:
        velocity, rotation: that made the process, what they learned is stored too; left out, that in which it is diagonal.
        whole: False leaves out scales and basis, and keeps what was learned from data.

    Raises:
        GendiffError: where scales or basis are too many numbers.

    """
    tensors = {f"learned.{name}": value for name, value in (rotation or diffusion.rotation)._learned.items()}
    tensors |= {f"velocity.{name}": value for name, value in (velocity._learned if velocity else {}).items()}
    if whole:
        tensors |= {f"scales.{name}": value for name, value in scales_tensors(diffusion.scales).items()}
        basis = rotation_tensors(diffusion.rotation, diffusion.event_shape)
        tensors |= {f"rotation.{name}": value for name, value in basis.items()}
    moments = diffusion.moments
    tensors |= {"moments.mean": moments.mean, "moments.variance": moments.variance}
    if moments.modes is not None:
        tensors["moments.modes"] = torch.stack([moments.modes.variance, moments.modes.weight])
    content = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()
    }
    about = {
        "format": FORMATS[2 if f"rotation.{CHANNELS}" in tensors else f"scales.{FORMULAS}" in tensors],
        "N": str(diffusion.N),
        "event_shape": json.dumps(diffusion.event_shape),
        "moments": json.dumps({"count": moments.count, "fingerprint": moments.fingerprint}),
    }
    return safetensors.torch.save(content, about)


def scales_tensors(scales: Scales) -> dict[str, Tensor]:
    """Scales as they are kept; raises `GendiffError` where they are too many numbers."""
    if formulas := scales.formulas:
        tables: dict[str, Tensor] = {}
        text = json.dumps({name: written(formula, tables) for name, formula in formulas.items()})
        return {**tables, FORMULAS: torch.tensor(list(text.encode()), dtype=torch.uint8)}
    if isinstance(scales, TABLES):
        return {field.name: getattr(scales, field.name) for field in fields(scales)}
    columns: dict[str, Callable[[Tensor], Tensor]] = {"table_a": scales.log_a, "table_s": scales.log_s}
    if isinstance(scales, VariancePreserving):
        columns = {"L": scales.log_alpha_bar}
    index, representatives = _classes(scales.N, columns)
    if len(columns) * len(representatives) * (scales.N + 1) * 8 > MAX_BYTES:
        raise GendiffError(f"the scales have {len(representatives)} different components, too many to store")
    steps = torch.arange(scales.N + 1).split(64)
    tables = {
        name: torch.cat([column(i).flatten(1)[:, representatives] for i in steps]) for name, column in columns.items()
    }
    return {**tables, "index": index}


def _classes(N: int, columns: Mapping[str, Callable[[Tensor], Tensor]]) -> tuple[Tensor, Tensor]:
    """Which components have the same scales at every i: the class of each, in the shape of the diagonal, and one of each class.

    Equal columns are found by two random projections, so that the whole table is never there at once.
    """
    generator = stream(0, "classes")
    keys, shape = torch.zeros(()), torch.Size()
    for i in torch.arange(N + 1).split(64):
        for column in columns.values():
            values = column(i)
            shape = values.shape[1:]
            weights = torch.randn(2, len(i), generator=generator, dtype=torch.float64)
            finite = values.flatten(1).nan_to_num(neginf=-1e6)
            keys = keys + torch.stack([(weight[:, None] * finite).sum(0) for weight in weights], dim=1)
    _, index = torch.unique(keys, dim=0, return_inverse=True)
    first = torch.full((int(index.max()) + 1,), len(index)).scatter_reduce(
        0, index, torch.arange(len(index)), reduce="amin"
    )
    return index.reshape(shape), first


def rotation_tensors(rotation: Rotation, shape: EventShape) -> dict[str, Tensor]:
    """The basis as it is kept: a matrix per axis, ``axis.0`` and so on, or ``at``, ``values`` and ``size`` of `dense`.

    Where channels are mixed, ``channels`` besides.
    """
    frequencies = {"frequencies": rotation.frequencies(shape)}
    if isinstance(rotation, StoredRotation):
        return dict(rotation.learned)
    if isinstance(rotation, Composition | ChannelRotation):
        space = rotation_tensors(rotation.space, shape) if isinstance(rotation, Composition) else frequencies
        return {CHANNELS: rotation.channel_matrix(shape[0]), **space}
    if isinstance(rotation, SeparableRotation):
        return {f"axis.{axis}": rotation.matrix(n) for axis, n in enumerate(spatial(shape))} | frequencies
    n = torch.Size(spatial(shape)).numel()
    probe = one_hot(torch.arange(min(n, 64)), n).double().reshape(-1, 1, *spatial(shape)).expand(-1, *shape)
    if torch.equal(rotation.unrotate(probe), probe):  # the identity needs no numbers, whatever its size
        probe = torch.randn(2, *shape, generator=stream(0, "probe"), dtype=torch.float64)
        if torch.equal(rotation.unrotate(probe), probe):
            return frequencies
    if n > MAX_DENSE:
        raise GendiffError(
            f"rotation '{rotation.name}' is not separable, and a matrix of {n} x {n} is too large to store"
        )
    rows = []
    for chunk in torch.arange(n).split(256):
        basis = one_hot(chunk, n).double().reshape(-1, 1, *spatial(shape)).expand(-1, *shape)
        rows.append(rotation.unrotate(basis)[:, 0].flatten(1))
    U = torch.cat(rows).T  # column k is u_k
    at = U.nonzero()
    return {"at": at.int(), "values": U[at[:, 0], at[:, 1]], "size": torch.tensor(n)} | frequencies


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoredProcess:
    """What ``process.safetensors`` holds.

    Args:
        parts: basis and scales; None where they were too many to store.
        learned_rotation, learned_velocity: the tensors that the run's rotation and velocity learned from the data.
        moments: of the data; assumed ones where the run is older than they are.

    """

    parts: tuple[StoredRotation, StoredVelocity] | None
    learned_rotation: Mapping[str, Tensor]
    learned_velocity: Mapping[str, Tensor]
    moments: Moments
    N: int
    event_shape: EventShape

    @classmethod
    def load(cls, path: Path) -> StoredProcess:
        """Read the file; raises `DataError` where it is damaged or of another format."""
        try:
            with opened(path, MOST_BYTES) as looked_at:
                if hollow(looked_at, os.fstat(looked_at.fileno()).st_size):
                    raise ValueError("there is next to nothing in it but a hole")
            with safetensors.safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                if about.get("format") not in FORMATS:
                    raise ValueError(
                        f"its format is {about.get('format')!r:.20}, this gendiff reads {' and '.join(FORMATS)}"
                    )
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            N, event_shape = int(about["N"]), tuple(int(size) for size in json_value(about["event_shape"]))
            if not 0 < N <= MOST_STEPS or min(event_shape) < 1 or math.prod(event_shape) > MOST_VALUES:
                raise ValueError(f"no process has {N} steps for events {event_shape}")
            basis, scales = _named(tensors, "rotation."), _named(tensors, "scales.")
            if "at" in basis:
                basis["dense"] = dense(basis.pop("at"), basis.pop("values"), int(basis.pop("size")))
            moments = _moments(_named(tensors, "moments."), about.get("moments", "{}"), event_shape)
            parts = (StoredRotation().with_learned(basis), StoredVelocity().with_learned(scales)) if scales else None
            process = cls(parts, _named(tensors, "learned."), _named(tensors, "velocity."), moments, N, event_shape)
            if parts and process.diffusion().N != N:
                raise ValueError("its tables have another length than N + 1")
            return process
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            IndexError,
            RuntimeError,
            RecursionError,
            MemoryError,
            GendiffError,
            safetensors.SafetensorError,
        ) as error:
            raise DataError(f"the stored process '{path}' cannot be read: {error!s:.200}") from error

    def diffusion(self) -> Diffusion:
        """The process; raises `DataError` where scales and basis were too many to store."""
        if self.parts is None:
            raise DataError("scales and basis of this process were not stored")
        rotation, velocity = self.parts
        return Diffusion.of(rotation, velocity, self.event_shape, self.N, self.moments)


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _moments(tensors: Mapping[str, Tensor], about: str, event_shape: EventShape) -> Moments:
    if not tensors:
        return Moments.standard(event_shape)
    mean, variance = tensors["mean"].double(), tensors["variance"].double()
    if not (torch.isfinite(mean).all() and torch.isfinite(variance).all() and (variance > 0).all()):
        raise ValueError("its moments are not finite, or a variance is not positive")
    for values in (mean, variance):
        torch.broadcast_to(values, event_shape)
    modes = None
    if "modes" in tensors:
        values, weight = tensors["modes"].double()
        if not (torch.isfinite(values + weight).all() and (values > 0).all() and (weight > 0).all()):
            raise ValueError("the modes of its data are not finite, or not positive")
        modes = Modes(values, weight)
    facts = json_object(about)
    return Moments(mean, variance, int(facts["count"]), str(facts["fingerprint"]), modes=modes)


def dense(at: Tensor, values: Tensor, n: int) -> Tensor:
    """The matrix ``(n, n)`` float64 of its nonzero entries; raises `ValueError` where it is too large."""
    if not 0 < n <= MAX_DENSE:
        raise ValueError(f"a matrix of {n} x {n}")
    U = torch.zeros(n, n, dtype=torch.float64)
    U[at[:, 0].long(), at[:, 1].long()] = values
    return U


def _scales(tensors: Mapping[str, Tensor]) -> Scales:
    """Scales of tables, or of what was told by the names of its tensors before there were formulas."""
    if "partner" in tensors:
        inner, partner = _scales(_named(tensors, "inner.")), tensors["partner"].long()
        return picked(inner, partner[None], tuple(partner.shape))
    for form in TABLES:
        if tensors.keys() == {field.name for field in fields(form)}:
            return form(**{name: value.long() if name == "index" else value for name, value in tensors.items()})
    for names, maker in BEFORE_FORMULAS.items():
        if tensors.keys() == set(names.split()):
            return maker(*(tensors[name] for name in names.split()))
    raise ValueError(f"no scales are made of {sorted(tensors)}")


def _linear_log_snr(t: Tensor, gamma: Tensor, delta: Tensor) -> Scales:
    level = over_components(gamma) + over_time(t) * over_components(delta)
    clean = over_time(torch.where(t.isneginf(), t, -24.0))
    return of_formulas(len(t) - 1, {"log_alpha_bar": logsigmoid(-maximum(level, clean))})


def _geodesic(tau: Tensor, log_S: Tensor) -> Scales:
    over, x = over_time(tau), over_components(log_S.abs().clamp_min(1e-12))
    L = log(expm1(-over * x) / expm1(-x)) + (over - 1) * over_components(log_S.clamp_min(0))
    return of_formulas(len(tau) - 1, {"log_alpha_bar": maximum(L, 2 * LOG_FLOOR)})


#: What files of format 1 hold besides tables, by the names of their tensors.
BEFORE_FORMULAS: Mapping[str, Callable[..., Scales]] = {
    "log_alpha_bar_noise F log_D": BlurScales,
    "log_a_common log_s_common tau mu d": DissipatingScales,
    "log_alpha_bar_noise log_C": ColouredScales,
    "t gamma delta": _linear_log_snr,
    "tau log_S": _geodesic,
}


def difference(one: Diffusion, other: Diffusion) -> str:
    """How two processes differ, in a few words; an empty string where they give the same numbers."""
    if (one.N, one.event_shape) != (other.N, other.event_shape):
        return f"N = {one.N} and events {one.event_shape} against N = {other.N} and {other.event_shape}"
    for i in sorted({0, 1, 2, *range(0, one.N, max(one.N // 64, 1)), one.N}):
        at, theirs = one.at(i, torch.float64), other.at(i, torch.float64)
        error = max(float((at.a - theirs.a).abs().max()), float((at.s - theirs.s).abs().max()))
        if not error < 1e-9:
            return f"a_i or s_i at i = {i} by {error:.1e}"
    x = torch.randn(2, *one.event_shape, generator=stream(0, "probe"), dtype=torch.float64)
    error = float((one.rotate(x) - other.rotate(x)).abs().max())
    return "" if error < 1e-8 else f"U^T x by {error:.1e}"
