"""Run the notebooks of examples/ and keep what they print and show: ``python docs/notebooks.py`` (``make notebooks``, minutes).

What is kept is what the site shows. Progress goes to stderr, and is left out.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "examples"


def execute(cells: list[dict[str, Any]], change: Callable[[str], str] = str) -> dict[str, Any]:
    """Run code cells one after the other in the working folder, and write into each what it left.

    Args:
        cells: of a notebook; ``outputs`` and ``execution_count`` are replaced.
        change: what is made of the text of a cell before it is run.

    Returns:
        The names that the cells gave.

    """
    names: dict[str, Any] = {"__name__": "notebook"}
    for count, cell in enumerate((cell for cell in cells if cell["cell_type"] == "code"), 1):
        tree = ast.parse(change("".join(cell["source"])))
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(tree, "notebook", "exec"), names)
            value = eval(compile(ast.Expression(last.value), "notebook", "eval"), names) if last else None
        cell["execution_count"] = count
        cell["outputs"] = _printed(printed.getvalue()) + _shown(value, count)
    return names


def _printed(text: str) -> list[dict[str, Any]]:
    return [{"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)}] if text else []


def _shown(value: object, count: int) -> list[dict[str, Any]]:
    """What a notebook shows of the last value of a cell: a picture where it is one."""
    if value is None:
        return []
    data: dict[str, Any] = {"text/plain": [repr(value).partition(" at 0x")[0]]}
    if hasattr(value, "_repr_png_"):
        data = {"image/png": base64.b64encode(value._repr_png_()).decode() + "\n", **data}
    return [{"data": data, "execution_count": count, "metadata": {}, "output_type": "execute_result"}]


if __name__ == "__main__":
    for path in sorted(FOLDER.glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            execute(notebook["cells"])
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(path)
