"""What waits for the host on a GPU is seen without one, in a process of its own (`waits`)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.mark.skipif(
    torch.__version__ < (2, 10), reason="there no tensor can say that it is on a GPU without its driver"
)
def test_nothing_waits():
    file = Path(__file__).with_name("waits.py")
    words = ["-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", str(file)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=file.parents[2])
    assert done.returncode == 0, done.stdout
