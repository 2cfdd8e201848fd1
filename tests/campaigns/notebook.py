"""Executes docs/photos.ipynb on the demo's data and model, and stores its outputs.

    gap_jax demo --quick && python -m tests.campaigns.notebook    in one folder

tests/commands/test_demo.py executes the same cells on tiny people. An output is what a cell prints
and, of its last expression, text and a PNG or HTML.
"""

import ast
import base64
import code
import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipelines.core import files

PAGE = Path(__file__).parents[2] / "docs" / "photos.ipynb"


def read_cells() -> list[dict[str, Any]]:
    """Returns the cells of the notebook."""
    return json.loads(PAGE.read_text("utf-8"))["cells"]


class _Interpreter(code.InteractiveInterpreter):
    """Executes code, and lets its exceptions pass."""

    def showtraceback(self) -> None:
        raise


def execute(cells: list[dict[str, Any]]) -> None:
    """Executes code cells in order with shared variables, and replaces their outputs."""
    interpreter = _Interpreter({})
    number = 0
    for cell in cells:
        if cell["cell_type"] == "code":
            number += 1
            cell["execution_count"] = number
            cell["outputs"] = list(_execute("".join(cell["source"]), interpreter, number))


def _execute(source: str, interpreter: _Interpreter, number: int) -> Iterator[dict[str, Any]]:
    tree = ast.parse(source)
    last = tree.body[-1]
    if isinstance(last, ast.Expr):
        tree.body[-1] = ast.Assign([ast.Name("_", ast.Store())], last.value)
    interpreter.locals["_"] = None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        interpreter.runcode(compile(ast.fix_missing_locations(tree), f"<cell {number}>", "exec"))
    if printed.getvalue():
        text = printed.getvalue().splitlines(keepends=True)
        yield {"output_type": "stream", "name": "stdout", "text": text}
    value = interpreter.locals["_"]
    if value is not None:
        shown = {"data": _show(value), "execution_count": number, "metadata": {}}
        yield {"output_type": "execute_result", **shown}


def _show(value: Any) -> dict[str, Any]:
    """Returns the representations of a value by their MIME types."""
    shown: dict[str, Any] = {"text/plain": repr(value).splitlines(keepends=True)}
    if hasattr(value, "_repr_png_"):
        shown["text/plain"] = [f"<{type(value).__name__}>"]  # its repr has an address in memory
        shown["image/png"] = base64.b64encode(value._repr_png_()).decode()
    elif hasattr(value, "_repr_html_"):
        shown["text/html"] = value._repr_html_().splitlines(keepends=True)
    return shown


def main() -> None:
    """Executes the notebook in the current folder and stores it."""
    page = json.loads(PAGE.read_text("utf-8"))
    execute(page["cells"])
    files.write_atomically(PAGE, json.dumps(page, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
