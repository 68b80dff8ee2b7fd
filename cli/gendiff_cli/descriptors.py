"""Descriptors: who may write where.

Descriptor 1 is for results, and a component, or a C library or another program that it calls, writes to it without asking Python.
So while gendiff runs, descriptor 1 is stderr, and the real stdout is reached through ``sys.stdout`` alone. It is stderr again
when the program ends: what a component does then, and what a C library still holds, is no result either.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def results_apart() -> Iterator[None]:
    """Inside the block ``sys.stdout`` is the real stdout, and descriptor 1 is stderr.

    Where ``sys.stdout`` is not descriptor 1, as under a test, it is out of reach already, and nothing changes. A closed
    descriptor becomes the null device: the next file that is opened would take its place, and what is meant for stdout would
    end in it.
    """
    for descriptor in (0, 1, 2):
        _occupy(descriptor)
    before = sys.stdout
    if not isinstance(before, io.TextIOWrapper) or _descriptor(before) != 1:
        yield
        return
    before.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = io.TextIOWrapper(
        open(real, "wb"),  # noqa: PTH123, SIM115 - closed below
        before.encoding,
        "backslashreplace",  # a name that is no text is no reason to fail
        line_buffering=before.line_buffering,
        write_through=before.write_through,
    )
    own = sys.stdout
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            before.flush()  # a component can reach it as sys.__stdout__
        sys.stdout = before
        atexit.unregister(_end)
        atexit.register(_end)  # the last one to be registered is called first, before those of components
        try:
            own.flush()
        except BrokenPipeError:
            pass  # its reader has seen enough
        finally:
            _flush_libraries()
            os.dup2(real, 1)
            with contextlib.suppress(OSError):  # what could not be written is given up, and said above
                own.close()


def _flush_libraries() -> None:
    """Write what C libraries hold back, while descriptor 1 is stderr: the interpreter does it before what is called at exit."""
    with contextlib.suppress(OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).fflush(None)


def _end() -> None:
    """Nothing more is a result."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.dup2(2, 1)
    sys.stdout = sys.stderr


def _occupy(descriptor: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)


def _descriptor(stream: io.TextIOWrapper) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None
