"""The command line, run in this process."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from dataclasses import dataclass
from unittest.mock import patch

import gendiff_cli.app
from gendiff_cli.console import Verbosity

from gendiff.names import default_resolver, set_default_resolver

INSTALLED = default_resolver()


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        return json.loads(self.out)


def run(*argv: object) -> Result:
    """``gendiff *argv``: its exit code and what it wrote."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with (
            patch.object(sys, "argv", ["gendiff", *map(str, argv)]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            gendiff_cli.app.main()
        code = 0
    except SystemExit as done:
        code = done.code or 0
    finally:
        Verbosity.level = 0
        set_default_resolver(INSTALLED)
    return Result(code, out.getvalue(), err.getvalue())


#: The smallest training there is: a few hundredths of a second.
TINY = ("--model", "mlp:width=8,depth=1", "--batch", 4, "--set", "train.sample_every=0", "--steps", 3)
