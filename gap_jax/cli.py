"""The console script `gap_jax`: it picks the command, and the command alone loads its packages."""

import contextlib
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.errors import nearest
from gap_jax import __version__, process
from gap_jax.errors import ConfigError

HELP = """gap_jax COMMAND ...

  demo      draw people, train three heads on them, report what they reach and where they look
  train     train or evaluate; the same as python -m gap_jax.main
  data      prepare, check and show data sets
  config    show, explain and compare configs
  weights   list and make files for init.weights
  evaluate  exact numbers of a run on a split
  report    one page on one run or several: numbers, differences, where they look
  export    a trained model as a folder of its own

  --version, and --help behind any command
"""

COMMANDS = {
    "demo": "gap_jax.demo",
    **{
        name: f"gap_jax.commands.{name}"
        for name in ("train", "data", "config", "weights", "evaluate", "report", "export")
    },
}
SHOWN_PACKAGES = ("jax", "jaxlib", "flax", "grain", "tensorflow-datasets", "numpy")


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of a command line; of this process's own where `argv` is None."""
    return run_process() if argv is None else process.exit_code(lambda: _dispatch(list(argv)))


def run_process(*before: str) -> int:
    """Runs the words `before` and the command line of this process."""
    return process.run(lambda: _dispatch([*before, *sys.argv[1:]]))


def _dispatch(words: list[str]) -> int | None:
    match [_expand_home(word) for word in words]:
        case ["--version"]:
            print(_versions())
        case ["--help" | "-h"] | ["help"]:
            print(HELP)
        case [word, *rest] if word in COMMANDS:
            return importlib.import_module(COMMANDS[word]).run(rest)
        case []:
            raise ConfigError(f"no command was given; commands are {', '.join(COMMANDS)}")
        case [word, *_]:
            raise ConfigError(f"unknown command {word!r}{nearest(word, tuple(COMMANDS))}")
    return None


def _expand_home(word: str) -> str:
    """The word with the home folder for ~ in --option=~/x, where shells leave it."""
    option, _, value = word.partition("=")
    if not option.startswith("-") or not value.startswith("~"):
        return word
    with contextlib.suppress(RuntimeError):  # of a user who is unknown
        value = str(Path(value).expanduser())
    return f"{option}={value}"


def _versions() -> str:
    import importlib.metadata  # takes long

    found = [f"{name} {importlib.metadata.version(name)}" for name in SHOWN_PACKAGES]
    python = ".".join(map(str, sys.version_info[:3]))
    return f"gap_jax {__version__} · python {python} · " + " · ".join(found)
