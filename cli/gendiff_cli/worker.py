"""Worker: ``gendiff`` with some words, in the process of a job that an engine has started."""

from __future__ import annotations

import sys


def work(words: list[str]) -> int:
    """Do what ``gendiff *words`` does; returns its exit code."""
    from gendiff_cli.app import main

    sys.argv[1:] = words
    try:
        main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0
