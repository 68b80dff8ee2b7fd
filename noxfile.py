"""What the classifiers promise: the tests under each Python, with the oldest and the newest torch (``make matrix``).

Each session has an environment of its own, gendiff installed as users install it. uv brings a Python that is not there.
``make matrix ARGS="--list"`` shows the sessions, ``ARGS="-s 'tests(python=''3.12'')'"` runs some.
"""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_missing_interpreters = True

PYTHONS = ("3.11", "3.12", "3.13")
TORCH = {"oldest": "torch==2.9.*", "newest": "torch"}


@nox.session
@nox.parametrize("python,torch", [(python, torch) for python in PYTHONS for torch in TORCH])
def tests(session: nox.Session, torch: str) -> None:
    """The tests that ``make test`` runs, or those that are named behind ``--``."""
    session.install(".[dev]", "pip", TORCH[torch])  # tests install packages of plugins with pip, which uv leaves out
    session.run("python", "-m", "pytest", *(session.posargs or ("--numprocesses", "auto", "--dist", "loadfile")))
