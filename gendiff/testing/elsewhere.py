"""Elsewhere: what a function returns in another process, of another hash seed, that has seen nothing before.

One server imports torch, which takes seconds, and forks a child for each question; it ends with the process that asks.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from gendiff.errors import reason
from gendiff.testing.card import require


def elsewhere(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)`` in another process; raises `CheckFailed` where it does not return there."""
    server = _server()
    assert server.stdin
    assert server.stdout
    pickle.dump((sys.path, pickle.dumps((function, arguments))), server.stdin)
    server.stdin.flush()
    ok, answer = pickle.load(server.stdout)  # our own bytes
    require(ok, "no error in another process", str(answer))
    return answer


@cache
def _server() -> subprocess.Popen[bytes]:
    server = subprocess.Popen(
        [sys.executable, "-c", "from gendiff.testing import elsewhere; elsewhere.serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": "20220711"},
    )
    atexit.register(server.communicate)
    return server


def serve() -> None:
    """The server: answers what comes in on stdin until nobody can ask any more."""
    import gendiff.testing.probes  # noqa: F401  # and with it torch, before there are children

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a component prints is no answer
    with contextlib.suppress(EOFError):
        while True:
            answers.write(_in_a_child(*pickle.load(sys.stdin.buffer)))
            answers.flush()


def _in_a_child(path: list[str], question: bytes) -> bytes:
    """Pickled: whether it returned, and what, or why it did not."""
    receiver, sender = os.pipe()
    child = os.fork()
    if not child:
        try:
            sys.path[:] = path
            function, arguments = pickle.loads(question)
            outcome = True, function(*arguments)
        except BaseException as error:  # somebody else's component may raise anything
            outcome = False, reason(error)
        with os.fdopen(sender, "wb") as file:
            pickle.dump(outcome, file)
        os._exit(0)
    os.close(sender)
    with os.fdopen(receiver, "rb") as file:
        answer = file.read()
    _, status = os.waitpid(child, 0)
    return answer or pickle.dumps((False, f"it ended with exit code {os.waitstatus_to_exitcode(status)}"))
