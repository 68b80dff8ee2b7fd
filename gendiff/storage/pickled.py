"""Pickled: what a pickle says, as data.

A pickle is a program for a machine with a stack. Here it builds plain values alone: where it would import a name there is a
`Name`, where it would call one there is a `Made` with what it would have been called with. Nothing is imported, called, or set
on anything, so that there is nothing to attack but memory and time, and those have bounds. Names that are not expected are
refused, and so is every instruction that is not listed here.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

STEPS = 5_000_000  # instructions of one pickle; a network of a thousand layers has some hundred thousand
PERSISTENT = "persistent"  # the name under which what lies outside of a pickle is found

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = frozenset(
    [
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
    ]
)
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


@dataclass(frozen=True)
class Name:
    """What a pickle would import: ``module.name``."""

    name: str


@dataclass(eq=False)
class Made:
    """What a pickle would make by a call.

    Args:
        name: what it would call.
        arguments: with which.
        state: what it would then set.
        items: what it would then put in, by key, as into a dictionary.
        parts: what it would then append, as to a list.

    """

    name: str
    arguments: tuple[Any, ...]
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    parts: list[Any] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"Made({self.name!r})"  # what is in it may be itself


def read(file: BytesIO, names: Collection[str]) -> Any:
    """The value of one pickle, which begins where ``file`` stands; afterwards it stands behind it.

    Args:
        names: those that it may name, each ``module.name``.

    Raises:
        ValueError: for a name or an instruction that is not allowed, and where the pickle is damaged.

    """
    try:
        return _Machine(names).run(file)
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise ValueError("it is damaged, or no pickle") from error


class _Machine:
    def __init__(self, names: Collection[str]) -> None:
        self.names = names
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, file: BytesIO) -> Any:
        for count, (code, argument, _) in enumerate(pickletools.genops(file)):
            if count > STEPS:
                raise ValueError(f"it has more than {STEPS:,} instructions")
            if code.name == "STOP":
                return self.stack.pop()
            self.step(code.name, argument)
        raise ValueError("it has no end")

    def step(self, code: str, argument: Any) -> None:
        """One instruction."""
        stack = self.stack
        if code in _VALUES:
            stack.append(argument)
        elif code in _CONSTANTS:
            stack.append(_CONSTANTS[code])
        elif code in _EMPTY:
            stack.append(_EMPTY[code]())
        elif code in _TUPLES:
            parts = tuple(self.pop() for _ in range(_TUPLES[code]))
            stack.append(parts[::-1])
        elif code == "MARK":
            stack.append(_MARK)
        elif code in ("TUPLE", "LIST", "DICT", "FROZENSET", "POP_MARK"):
            self.gather(code)
        elif code in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS"):
            self.put_in(code)
        elif code in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[len(self.memo) if code == "MEMOIZE" else argument] = stack[-1]
        elif code in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif code in ("POP", "DUP"):
            stack[-1:] = [] if code == "POP" else [stack[-1]] * 2
        elif code not in ("PROTO", "FRAME"):
            self.make(code, argument)

    def make(self, code: str, argument: Any) -> None:
        """What would import, call or set something."""
        if code == "GLOBAL":
            self.stack.append(self.known(argument.replace(" ", ".", 1)))
        elif code == "STACK_GLOBAL":
            name, module = self.pop(), self.pop()
            if not isinstance(name, str) or not isinstance(module, str):
                raise ValueError("it names something that is no name")
            self.stack.append(self.known(f"{module}.{name}"))
        elif code in ("REDUCE", "NEWOBJ"):
            arguments, called = self.pop(), self.pop()
            if not isinstance(called, Name) or not isinstance(arguments, tuple):
                raise ValueError("it calls something that is no name")
            self.stack.append(Made(called.name, arguments))
        elif code == "BUILD":
            state, made = self.pop(), self.stack[-1]
            if not isinstance(made, Made):
                raise ValueError("it changes something that it did not make")
            made.state = state
        elif code == "BINPERSID":
            self.stack.append(Made(self.known(PERSISTENT).name, (self.pop(),)))
        else:
            raise ValueError(f"it has an instruction {code}, which is not read")

    def known(self, name: str) -> Name:
        """A name that is allowed."""
        if name not in self.names:
            raise ValueError(
                f"it asks for '{name[:120]}', which is none of the few names that are known, and is not run"
            )
        return Name(name)

    def pop(self) -> Any:
        """The top of the stack, no mark."""
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("it is damaged, or no pickle")
        return value

    def above_mark(self) -> list[Any]:
        """What lies above the last mark; both leave the stack."""
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise ValueError("it is damaged, or no pickle")
        parts = self.stack[place + 1 :]
        del self.stack[place:]
        return parts

    def gather(self, code: str) -> None:
        """All above the last mark as one value."""
        parts = self.above_mark()
        if code == "TUPLE":
            self.stack.append(tuple(parts))
        elif code == "LIST":
            self.stack.append(parts)
        elif code == "DICT":
            self.stack.append(_paired(parts))
        elif code == "FROZENSET":
            self.stack.append(frozenset(map(_key, parts)))

    def put_in(self, code: str) -> None:
        """Parts or items into what lies below them."""
        if code.endswith("S"):
            parts = self.above_mark()
        else:
            parts = self.stack[-1 if code == "APPEND" else -2 :]
            del self.stack[-len(parts) :]
        whole = self.stack[-1]
        if code == "ADDITEMS" and isinstance(whole, set):
            whole.update(map(_key, parts))
        elif code.startswith("APPEND") and isinstance(whole, list | Made):
            (whole if isinstance(whole, list) else whole.parts).extend(parts)
        elif code.startswith("SETITEM") and isinstance(whole, dict | Made):
            (whole if isinstance(whole, dict) else whole.items).update(_paired(parts))
        else:
            raise ValueError("it fills something that holds nothing")


def _paired(parts: list[Any]) -> dict[Any, Any]:
    if len(parts) % 2:
        raise ValueError("it is damaged, or no pickle")
    return dict(zip(map(_key, parts[::2]), parts[1::2], strict=True))


def _key(value: Any) -> Any:
    """A plain value: to hash a tuple of tuples of tuples can exhaust the stack of the interpreter itself."""
    if not isinstance(value, str | bytes | int | float | None):
        raise ValueError(f"it has a {type(value).__name__} as a key")
    return value
