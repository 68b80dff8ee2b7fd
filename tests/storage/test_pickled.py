"""A pickle is read as data: nothing is imported, called or set, and memory and time have bounds."""

from __future__ import annotations

import collections
import io
import os
import pickle
import pickletools

import pytest

from gendiff.storage import pickled
from gendiff.storage.pickled import Made, Name, read


class Calls:
    """Whatever is pickled as a call of a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def of(content: bytes, *names: str):
    return read(io.BytesIO(content), names)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_are_what_they_were(protocol):
    value = {
        "numbers": [0, -1, 255, 2**16, 2**40, -(2**70), 2.5, float("inf")],
        "others": (None, True, False, "text", "ü" * 300, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        7: {"inner": [[], {}, [1]]},
    }
    value["again"] = value["numbers"]
    back = of(pickle.dumps(value, protocol))
    assert back == value
    assert back["again"] is back["numbers"]


def test_calls_are_kept_as_what_they_would_have_been():
    content = pickle.dumps(collections.OrderedDict(a=1, b=[2]), 4)
    made = of(content, "collections.OrderedDict")
    assert isinstance(made, Made)
    assert (made.name, made.arguments, made.items) == ("collections.OrderedDict", (), {"a": 1, "b": [2]})
    assert of(pickle.dumps(collections.OrderedDict, 4), "collections.OrderedDict") == Name("collections.OrderedDict")
    assert of(pickle.dumps(Calls(len, "x"), 4), "builtins.len").arguments == ("x",)
    with pytest.raises(ValueError, match=r"it asks for 'collections.OrderedDict'"):
        of(content)


def test_one_pickle_ends_where_the_next_begins():
    stream = io.BytesIO(pickle.dumps([1]) + pickle.dumps({"a": 2}) + b"rest")
    assert read(stream, ()) == [1]
    assert read(stream, ()) == {"a": 2}
    assert stream.read() == b"rest"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch pwned",), "system"),
        (eval, ("open('pwned', 'w')",), "eval"),
        (getattr, (collections.OrderedDict, "__init__"), "getattr"),
        (__import__, ("os",), "__import__"),
    ],
    ids=["system", "eval", "getattr", "import"],
)
def test_nothing_is_run(tmp_path, monkeypatch, function, arguments, name, protocol):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"it asks for '[a-z_]+.{name}', which is none of the few names") as error:
        of(pickle.dumps({"ema": Calls(function, *arguments)}, protocol), "collections.OrderedDict")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


ALLOWED = b"\x80\x04ccollections\nOrderedDict\n"


BAD = {
    "dotted name": (b"\x80\x04\x8c\x0bcollections\x8c\x1dOrderedDict.fromkeys.__self__\x93.", "it asks for"),
    "name that is no text": (b"\x80\x04K\x01K\x02\x93.", "names something that is no name"),
    "call of a value": (b"\x80\x04]K\x01\x85R.", "calls something that is no name"),
    "call of what was made": (ALLOWED + b")R)R.", "calls something that is no name"),
    "call with a list": (ALLOWED + b"]R.", "calls something that is no name"),
    "state of a name": (ALLOWED + b"}b.", "changes something that it did not make"),
    "state of a list": (b"\x80\x04]}b.", "changes something that it did not make"),
    "old instance": (b"(ios\nsystem\n.", "an instruction INST"),
    "old object": (b"(cos\nsystem\no.", "it asks for 'os.system'"),
    "extension": (b"\x80\x02\x82\x01.", "an instruction EXT1"),
    "call by name": (ALLOWED + b")}\x92.", "an instruction NEWOBJ_EX"),
    "buffer": (b"\x80\x05\x97.", "an instruction NEXT_BUFFER"),
    "outside, as text": (b"Pfile\n.", "an instruction PERSID"),
    "outside": (b"\x80\x02K\x01Q.", "it asks for 'persistent'"),
    "list in a name": (b"\x80\x04]a.", "damaged"),
    "items in a list": (b"\x80\x04]K\x01K\x02s.", "holds nothing"),
    "parts in a number": (b"\x80\x04K\x01(K\x02e.", "holds nothing"),
    "tuple as a key": (b"\x80\x04})K\x01s.", "a tuple as a key"),
    "odd items": (b"\x80\x04}(K\x01u.", "damaged"),
    "no mark": (b"\x80\x04K\x01t.", "damaged"),
    "mark as a value": (b"\x80\x04(\x85.", "damaged"),
    "unknown memo": (b"\x80\x04h\x07.", "damaged"),
    "empty stack": (b"\x80\x04.", "damaged"),
    "nothing": (b"", "."),
    "no end": (b"\x80\x04]", "."),
    "no pickle": (b"\x89PNG\r\n", "."),
    "length beyond the file": (b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"ab", "."),
    "number of too many digits": (b"I" + b"9" * 5000 + b"\n.", "."),
    "text that is none": (b"\x80\x04\x8c\x02\xff\xfe.", "."),
}


@pytest.mark.parametrize(("content", "why"), BAD.values(), ids=BAD)
def test_what_is_no_such_pickle_is_refused(content, why):
    with pytest.raises(ValueError, match=why) as error:
        of(content, "collections.OrderedDict")
    assert len(str(error.value).splitlines()) == 1


def test_every_instruction_is_read_or_refused():
    for code in pickletools.opcodes:
        content = b"\x80\x04" + code.code.encode("latin1") + b"\x01" * 16
        with pytest.raises(ValueError, match=r"."):
            of(content)


def test_what_contains_itself_is_read():
    itself: list = []
    itself.append(itself)
    back = of(pickle.dumps(itself))
    assert back[0] is back


def test_deep_nests_and_many_instructions_end(monkeypatch):
    deep = of(b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".")
    assert isinstance(deep, list)
    monkeypatch.setattr(pickled, "STEPS", 1000)
    with pytest.raises(ValueError, match="more than 1,000 instructions"):
        of(b"\x80\x04" + b"N0" * 1000 + b"N.")
