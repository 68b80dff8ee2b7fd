"""Files that pretend to be networks of EDM: each ends in one line that names it, exit code 4, and nothing is run."""

from __future__ import annotations

import collections
import io
import os
import pickle
import sys
from types import ModuleType

import nvidia
import pytest
import torch
from command import run
from gendiff_plugins.models import edm_pickle
from torch import nn

from gendiff import Model
from gendiff.errors import DataError


class Calls:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def bomb():
    return Calls(os.system, "touch pwned")


def pickled(content, protocol=4) -> bytes:
    stream = io.BytesIO()
    with nvidia._persistence() as reconstruct:
        nvidia._Pickler(stream, protocol, reconstruct, nvidia.TINY).dump(content)
    return stream.getvalue()


def named(module: str, name: str):
    """A function under a name that the reader knows, with whatever arguments."""

    def function(*arguments):
        raise AssertionError("it was called")

    function.__module__, function.__qualname__, function.__name__ = module, name, name
    return function


def dumped(content, module: str, function) -> bytes:
    """The pickle of ``content`` while ``function`` stands in ``module``."""
    holder, before = ModuleType(module), sys.modules.get(module)
    setattr(holder, function.__name__, function)
    sys.modules[module] = holder
    try:
        return pickled(content)
    finally:
        if before is None:
            del sys.modules[module]
        else:
            sys.modules[module] = before


def holding(value) -> nvidia.Other:
    """A network whose only weight is ``value``."""
    state = {"_parameters": {"weight": value}, "_buffers": {}, "_modules": {}}
    return nvidia.Other("EDMPrecond", nvidia.TINY, **state)


def storage(raw: bytes) -> bytes:
    """A weight whose numbers are these bytes."""
    load = named("torch.storage", "_load_from_bytes")
    tensor = named("torch._utils", "_rebuild_tensor_v2")
    holder, before = ModuleType("torch._utils"), sys.modules["torch._utils"]
    holder._rebuild_tensor_v2 = tensor
    sys.modules["torch._utils"] = holder
    try:
        value = Calls(tensor, Calls(load, raw), 0, (2,), (1,), False, collections.OrderedDict())
        return dumped({"ema": holding(value)}, "torch.storage", load)
    finally:
        sys.modules["torch._utils"] = before


def shaped(offset, size, stride) -> bytes:
    """A weight that says these of its two numbers."""
    tensor = named("torch._utils", "_rebuild_tensor_v2")
    numbers = torch.zeros(2).untyped_storage()
    typed = torch.storage.TypedStorage(wrap_storage=numbers, dtype=torch.float32, _internal=True)
    value = Calls(tensor, typed, offset, size, stride, False, collections.OrderedDict())
    return dumped({"ema": holding(value)}, "torch._utils", tensor)


def legacy(count: int, data: bytes, kind=torch.FloatStorage) -> bytes:
    """A storage in the older form of torch.save that says it has so many numbers."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            return ("storage", kind, "0", "cpu", count, None) if thing == "it" else None

    stream = io.BytesIO()
    for part in (edm_pickle.MAGIC, edm_pickle.PROTOCOL, {"little_endian": True}):
        pickle.dump(part, stream, 2)
    Pickler(stream, 2).dump("it")
    pickle.dump(["0"], stream, 2)
    return stream.getvalue() + count.to_bytes(8, "little", signed=True) + data


def without_end() -> bytes:
    modules: dict = {}
    network = nvidia.Other("EDMPrecond", nvidia.TINY, _parameters={}, _buffers={}, _modules=modules)
    modules["model"] = nn.ModuleDict()
    modules["model"]._modules = modules
    return pickled({"ema": network})


def doubled() -> bytes:
    inner = nn.ModuleDict()
    for _ in range(50):
        outer = nn.ModuleDict()
        outer._modules = {"a": inner, "b": inner}
        inner = outer
    return pickled(
        {"ema": nvidia.Other("EDMPrecond", nvidia.TINY, _parameters={}, _buffers={}, _modules={"model": inner})}
    )


def arguments(**values) -> bytes:
    stream = io.BytesIO()
    with nvidia._persistence() as reconstruct:
        network = nvidia.network()
        nvidia._Pickler(stream, 4, reconstruct, {**nvidia.TINY, **values}).dump({"ema": network})
    return stream.getvalue()


def nested(levels: int) -> list:
    value: list = []
    for _ in range(levels):
        value = [value, value]
    return value


def saved(zipped: bool) -> bytes:
    stream = io.BytesIO()
    torch.save({"ema": torch.zeros(2)}, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


class Precond(nn.Module):
    """A class of the attacker's own, which a reader would have to import."""


FILES = {
    "a call": (lambda: pickled({"ema": bomb()}), "it asks for 'posix.system'"),
    "a call beside the network": (lambda: pickled({"ema": nvidia.network(), "loss_fn": bomb()}), "'posix.system'"),
    "eval": (lambda: pickled({"ema": Calls(eval, "1")}), "it asks for '[a-z_]*builtin[a-z_]*.eval'"),
    "getattr": (
        lambda: pickled({"ema": Calls(getattr, "text", "system")}),
        "it asks for '[a-z_]*builtin[a-z_]*.getattr'",
    ),
    "torch.load": (lambda: pickled({"ema": Calls(torch.load, "x")}), "it asks for 'torch.serialization.load'"),
    "a module of its own": (lambda: pickled({"ema": Precond()}), "it asks for '.*test_edm_hostile.Precond'"),
    "a call inside of a tensor": (lambda: storage(pickle.dumps(bomb(), 2)), "it asks for 'posix.system'"),
    "a tensor of another class": (lambda: pickled({"ema": holding({"a": 1})}), "something that is no tensor"),
    "a tensor of bytes": (lambda: storage(b"abc"), "."),
    "a tensor that lacks numbers": (lambda: storage(legacy(2, b"\0" * 4)), "of 2 numbers, for which 4 bytes follow"),
    "a tensor of too many numbers": (lambda: storage(legacy(2**60, b"\0" * 8)), "numbers, for which 8 bytes follow"),
    "a tensor of fewer than none": (lambda: storage(legacy(-1, b"")), "a tensor of -1 numbers"),
    "strides of nothing": (lambda: shaped(0, (2**40,), (0,)), "where there are 2 numbers"),
    "a shape beyond its numbers": (lambda: shaped(1, (2,), (1,)), "where there are 2 numbers"),
    "an offset before its numbers": (lambda: shaped(-1, (1,), (1,)), "a shape that cannot be"),
    "a side below 0": (lambda: shaped(0, (-2, -1), (1, 1)), "a shape that cannot be"),
    "a shape of text": (lambda: shaped(0, ("2",), (1,)), "a shape that cannot be"),
    "modules in themselves": (without_end, "modules without end"),
    "modules twice and twice": (doubled, "modules without end"),
    "values twice and twice": (lambda: arguments(attn_resolutions=nested(60)), "values without end"),
    "a tensor as a size": (lambda: arguments(model_channels=torch.zeros(1)), "no number and no text|stands where"),
    "no dictionary": (lambda: pickled([1, 2]), "a dictionary with 'ema' is expected"),
    "no network": (lambda: pickled({"ema": {"a": 1}}), "'ema' is no network of NVIDIA's"),
    "an archive": (lambda: saved(True), "an archive, as torch.save writes them"),
    "torch.save": (lambda: saved(False), "it is of torch.save"),
    "text": (lambda: b"<html>not found</html>", "no pickle of a network"),
    "nothing": (lambda: b"", "the file is empty"),
    "a larger network": (lambda: arguments(model_channels=4096), "its network would have [0-9,]+ weights"),
}


def opened(path):
    edm_pickle.weights(path)
    Model("edm", path=path)


@pytest.mark.parametrize("name", FILES)
def test_one_line_says_what_is_wrong(tmp_path, monkeypatch, name):
    make, why = FILES[name]
    path = tmp_path / "network.pkl"
    path.write_bytes(make())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=why) as error:
        opened(path)
    assert str(path) in error.value.what
    assert "\n" not in error.value.what
    assert [entry.name for entry in tmp_path.iterdir()] == ["network.pkl"]


def test_a_file_that_ends_anywhere_is_refused(tmp_path):
    whole = nvidia.write(tmp_path / "whole.pkl", nvidia.network()).read_bytes()
    path = tmp_path / "part.pkl"
    for size in [1, 2, 10, 100, *range(1000, len(whole), len(whole) // 17), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match="cannot read"):
            edm_pickle.weights(path)


@pytest.mark.slow
def test_no_byte_of_a_file_that_is_changed_does_harm(tmp_path):
    whole = bytearray(nvidia.write(tmp_path / "whole.pkl", nvidia.network()).read_bytes())
    path, generator = tmp_path / "changed.pkl", torch.Generator().manual_seed(0)
    for place in torch.randint(0, len(whole), (40,), generator=generator).tolist():
        changed = whole.copy()
        changed[place] ^= 0xFF
        path.write_bytes(changed)
        try:
            edm_pickle.weights(path)
        except DataError as error:
            assert "\n" not in error.what


def test_what_is_no_regular_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "hole").open("wb") as file:
        file.write(b"\x80\x04")
        file.truncate(2**32)
    for name, why in (("pipe", "not a regular file"), ("hole", "a hole"), (".", "not a regular file")):
        with pytest.raises(DataError, match=why):
            Model("edm", path=tmp_path / name)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"model_type": "VAE"}, "a network 'VAE' is none that is known"),
        ({"model_channels": -8}, "model_channels = -8"),
        ({"backdoor": 1}, "has no parameter 'backdoor'"),
        ({"num_blocks": 10**6}, "num_blocks = 1000000"),
    ],
)
def test_a_network_that_is_none_is_refused(tmp_path, values, why):
    path = tmp_path / "network.pkl"
    path.write_bytes(arguments(**values))
    with pytest.raises(DataError, match=why):
        Model("edm", path=path)


def test_the_command_says_it_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "network.pkl").write_bytes(pickled({"ema": bomb()}))
    result = run("import", "edm:network.pkl")
    assert result.code == 4
    assert result.out == ""
    lines = result.err.splitlines()
    assert "it asks for 'posix.system'" in lines[0]
    assert len(lines) <= 3
    assert "Traceback" not in result.err
    assert [entry.name for entry in tmp_path.iterdir()] == ["network.pkl"]
