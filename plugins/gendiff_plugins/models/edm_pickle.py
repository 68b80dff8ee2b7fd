"""NVIDIA's network pickles, read as data.

The file is the pickle of a dictionary, in which ``ema`` is a network. NVIDIA's classes are pickled with the text of their source,
which whoever unpickles them runs. Here that text is passed over: of an object the name of its class, the arguments that it was
made with and its state are kept (`gendiff.storage.pickled`), and of the state the tensors alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gendiff.storage import pickled, reading
from gendiff.storage.pickled import Made, Name

MOST = 8 * 2**30  # bytes of a file; the largest that is published has 1.2 GB
MODULES = 20_000  # of a network, at most, and as many tensors
DEEPEST = 64  # modules inside each other
NESTED = 100  # values inside each other, in the arguments of a network

OBJECT = "torch_utils.persistence._reconstruct_persistent_obj"
TENSOR, PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
STORAGE = "torch.storage._load_from_bytes"
DICTIONARIES = ("collections.OrderedDict", "dnnlib.util.EasyDict")
SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
KINDS: Mapping[str, torch.dtype] = {
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.DoubleStorage": torch.float64,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.BoolStorage": torch.bool,
}
CONTAINERS = tuple(f"torch.nn.modules.container.{name}" for name in ("ModuleDict", "ModuleList", "Sequential"))

#: All that such a file may name. What it wants done with them is not done.
NAMES = frozenset(
    {
        OBJECT,
        TENSOR,
        PARAMETER,
        STORAGE,
        *DICTIONARIES,
        *SCALARS,
        *CONTAINERS,
        "torch.nn.modules.linear.Identity",
        "numpy.dtype",
        "numpy.ndarray",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
        "_codecs.encode",
        "builtins.set",
        "__builtin__.set",
        "torch.float32",
        "torch.float16",
        "torch.device",
        "torch.Size",
    }
)
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of torch's form of a storage


@dataclass(frozen=True)
class Network:
    """What a file says of its network.

    Args:
        name: of its class.
        arguments: that it was made with, by position and by name: plain values.
        state: of the object, in which its tensors are.

    """

    name: str
    arguments: tuple[Any, ...]
    named: Mapping[str, Any]
    state: Mapping[str, Any]

    def weights(self) -> dict[str, Tensor]:
        """The tensors by the names that they have in a state dict; raises `ValueError` for what is none."""
        return dict(_tensors(self.state))


def read(path: Path) -> Network:
    """The network in a file; raises `DataError` naming the file and what is wrong."""
    try:
        with reading.opened(path, MOST) as file:
            start = file.read(4)
            _check_start(start)
            if reading.hollow(file, path.stat().st_size):
                raise ValueError("it is a hole with next to nothing in it")
            file.seek(0)
            stream = BytesIO(file.read())
        return _network(pickled.read(stream, NAMES))
    except (OSError, ValueError) as error:
        raise reading.unreadable(path, error) from error


def weights(path: Path) -> dict[str, Tensor]:
    """The tensors of the network in a file, by their names in a state dict; raises `DataError`."""
    network = read(path)
    try:
        return network.weights()
    except ValueError as error:
        raise reading.unreadable(path, error) from error


def _check_start(start: bytes) -> None:
    if not start:
        raise ValueError(reading.EMPTY)
    if start.startswith(b"PK"):
        raise ValueError(
            "it is an archive, as torch.save writes them, and no pickle of a network (adm: reads state dicts)"
        )
    if not start.startswith(b"\x80"):
        raise ValueError("no pickle of a network")


def _network(content: Any) -> Network:
    if content == MAGIC:
        raise ValueError("it is of torch.save, and no pickle of a network (adm: reads state dicts)")
    if not isinstance(content, dict) or "ema" not in content:
        raise ValueError("no pickle of a network: a dictionary with 'ema' is expected")
    name, state = _object(content["ema"])
    arguments, named = state.get("_init_args", ()), state.get("_init_kwargs", {})
    values = _plain(arguments), _plain(named)
    if not isinstance(values[0], list) or not isinstance(values[1], dict):
        raise ValueError("it does not say what its network was made with")
    return Network(name, tuple(values[0]), values[1], state)


def _object(value: Any) -> tuple[str, Mapping[str, Any]]:
    """Name and state of an object of NVIDIA's."""
    if isinstance(value, Made) and value.name == OBJECT and len(value.arguments) == 1:
        about = _dictionary(value.arguments[0])
        name, state = about.get("class_name"), about.get("state")
        if about.get("type") == "class" and isinstance(name, str):
            return name, _dictionary(state)
    raise ValueError("'ema' is no network of NVIDIA's")


def _dictionary(value: Any) -> Mapping[str, Any]:
    if isinstance(value, Made) and value.name in DICTIONARIES:
        value = value.items
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__} stands where a dictionary is expected")
    return value


def _plain(value: Any, depth: int = NESTED, budget: list[int] | None = None) -> Any:
    """Numbers, texts, lists and dictionaries; raises `ValueError` for anything else, and for what has no end."""
    budget = [10_000] if budget is None else budget
    budget[0] -= 1
    if not depth or budget[0] < 0:
        raise ValueError("its network was made with values without end")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(part, depth - 1, budget) for part in value]
    if isinstance(value, Made) and value.name in SCALARS:
        return _scalar(value)
    if isinstance(value, dict | Made):
        return {str(key): _plain(part, depth - 1, budget) for key, part in _dictionary(value).items()}
    raise ValueError(f"its network was made with a {type(value).__name__}, which is no number and no text")


def _scalar(value: Made) -> float:
    """A number of NumPy's, of 64 bits, as such a file has a square root of 0.5."""
    kind, data = value.arguments if len(value.arguments) == 2 else (None, None)
    data = _bytes(data)
    letter = kind.arguments[0] if isinstance(kind, Made) and kind.arguments else None
    if letter not in ("f8", "i8") or not isinstance(data, bytes) or len(data) != 8:
        raise ValueError("it has a number in a form that is not read")
    return float(torch.frombuffer(bytearray(data), dtype=torch.float64 if letter == "f8" else torch.int64))


def _bytes(value: Any) -> Any:
    """The same, and the bytes that protocol 2 writes as a text."""
    if isinstance(value, Made) and value.name == "_codecs.encode":
        text, *encoding = value.arguments
        if isinstance(text, str) and encoding == ["latin1"]:
            return text.encode("latin1")
    return value


def _tensors(state: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a module and of what is inside it: not by recursion, which a file could have without end."""
    modules, count = [("", state, 0)], 0
    kept: dict[int, tuple[torch.dtype, bytes]] = {}
    while modules:
        prefix, state, depth = modules.pop()
        count += 1
        if depth > DEEPEST or count > MODULES:
            raise ValueError("its network has modules without end")
        for kind in ("_parameters", "_buffers"):
            for name, value in _dictionary(state.get(kind, {})).items():
                count += 1
                if value is not None:
                    yield f"{prefix}{name}", _tensor(value, kept)
        for name, child in _dictionary(state.get("_modules", {})).items():
            if child is not None:
                modules.append((f"{prefix}{name}.", _state(child), depth + 1))


def _state(module: Any) -> Mapping[str, Any]:
    if isinstance(module, Made) and module.name == OBJECT:
        return _object(module)[1]
    if isinstance(module, Made) and module.name.startswith("torch.nn.modules."):
        return _dictionary(module.state)
    raise ValueError("something that is no module stands where one is expected")


def _tensor(value: Any, kept: dict[int, tuple[torch.dtype, bytes]]) -> Tensor:
    if isinstance(value, Made) and value.name == PARAMETER and value.arguments:
        value = value.arguments[0]
    if not isinstance(value, Made) or value.name != TENSOR or len(value.arguments) < 4:
        raise ValueError("something that is no tensor stands where one is expected")
    storage, offset, size, stride = value.arguments[:4]
    if not isinstance(storage, Made) or storage.name != STORAGE or len(storage.arguments) != 1:
        raise ValueError("a tensor without numbers")
    data = storage.arguments[0]
    if id(data) not in kept:
        kept[id(data)] = _storage(data)
    dtype, raw = kept[id(data)]
    whole = all(isinstance(sizes, tuple) and all(type(n) is int and n >= 0 for n in sizes) for sizes in (size, stride))
    if type(offset) is not int or offset < 0 or not whole or len(size) != len(stride) or len(size) > 8:
        raise ValueError("a tensor of a shape that cannot be")
    count = len(raw) // dtype.itemsize
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    # Strides of 0 would make a large tensor of few numbers.
    if math.prod(size) > count or (math.prod(size) and last >= count):
        raise ValueError(f"a tensor of shape {size!s:.60} where there are {count:,} numbers")
    if not math.prod(size):
        return torch.empty(size, dtype=dtype)
    return torch.frombuffer(bytearray(raw), dtype=dtype).as_strided(size, stride, offset).clone()


def _storage(data: Any) -> tuple[torch.dtype, bytes]:
    """The numbers of a storage, in the older form of ``torch.save``: five pickles, a length, and the numbers."""
    data = _bytes(data)
    if not isinstance(data, bytes):
        raise ValueError("a tensor without numbers")
    stream = BytesIO(data)
    names = frozenset({pickled.PERSISTENT, *KINDS})
    magic, protocol, system, about, keys = (pickled.read(stream, names) for _ in range(5))
    if (magic, protocol) != (MAGIC, PROTOCOL) or _dictionary(system).get("little_endian") is not True:
        raise ValueError("a tensor in a form that is not read")
    told = about.arguments[0] if isinstance(about, Made) and about.name == pickled.PERSISTENT else ()
    if not isinstance(told, tuple) or len(told) not in (5, 6) or told[0] != "storage" or not isinstance(told[1], Name):
        raise ValueError("a tensor in a form that is not read")
    dtype, key, count = KINDS[told[1].name], told[2], told[4]
    if keys != [key] or any(part is not None for part in told[5:]):
        raise ValueError("a tensor in a form that is not read")
    length = int.from_bytes(stream.read(8), "little", signed=True)
    raw = stream.read()
    if length != count or count < 0 or len(raw) != count * dtype.itemsize:
        raise ValueError(f"a tensor of {count!s:.20} numbers, for which {len(raw):,} bytes follow")
    return dtype, raw
