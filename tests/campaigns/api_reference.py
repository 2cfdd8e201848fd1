"""Writes docs/api.md, the reference of the public names, from their signatures and docstrings.

python -m tests.campaigns.api_reference

tests/commands/test_api.py runs the examples of the docstrings, and fails if the page is outdated.
"""

import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gap_jax
from data_pipelines.core import files

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
WIDTH = 96
HEAD = """# Python API

`from gap_jax import NAME` imports a name and what it needs; `import gap_jax` alone loads nothing.
The docstrings below are the code's own: `python -m tests.campaigns.api_reference` writes them."""


def render() -> str:
    """Renders each public name with its signature, docstring and documented methods."""
    return "\n\n".join(
        [HEAD, *(part for name in sorted(gap_jax.MODULES) for part in _section(name))]
    )


def _section(name: str) -> Iterator[str]:
    found = getattr(gap_jax, name)
    is_class = inspect.isclass(found)
    yield f"## {name}"
    yield _block(_signature(name, found.__init__ if is_class else found))
    yield _prose(found)
    for method in [each for each in vars(found) if is_class and each.isidentifier()]:
        if method[0] != "_" and inspect.getdoc(vars(found)[method]):
            yield f"### {name}.{method}"
            yield _block(_signature(method, vars(found)[method]))
            yield _prose(vars(found)[method])


def _signature(name: str, function: Any) -> str:
    """Formats the call with its defaults and without types, wrapped."""
    arguments: list[str] = []
    for each in inspect.signature(function).parameters.values():
        if each.kind is each.KEYWORD_ONLY and "*" not in arguments:
            arguments.append("*")
        default = getattr(each.default, "__name__", repr(each.default))
        default = "..." if each.default is ... else default
        star = "**" if each.kind is each.VAR_KEYWORD else ""
        arguments.append(f"{star}{each.name}{'' if each.default is each.empty else f'={default}'}")
    call = f"{name}({', '.join(each for each in arguments if each != 'self')})"
    return textwrap.fill(call, WIDTH, subsequent_indent=" " * (len(name) + 1))


def _prose(found: Any) -> str:
    """Formats the docstring, with examples in blocks."""
    text = inspect.getdoc(found) or ""
    paragraphs = text.split("\n\n")
    return "\n\n".join(_block(each) if each.startswith(">>>") else each for each in paragraphs)


def _block(text: str) -> str:
    return f"```text\n{text}\n```"


if __name__ == "__main__":
    files.write_atomically(PAGE, render() + "\n")
