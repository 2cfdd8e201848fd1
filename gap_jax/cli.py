"""Runs the console script `gap_jax`; imports only the packages of the chosen command."""

import contextlib
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from data_pipelines.core.errors import ConfigError, nearest
from gap_jax import __version__, process

COMMANDS = {
    "demo": "draw people, train three heads on them, report scores and attention",
    "train": "train or evaluate; the same as python -m gap_jax.main",
    "data": "prepare, check and show data sets",
    "config": "show, explain and compare configs",
    "features": "compute the maps of a frozen backbone once, to train on them",
    "sweep": "the papers' tables and figures, a grid, or a search of the best values",
    "weights": "list and make files for init.weights",
    "predict": "classes, probabilities and attention of your images",
    "evaluate": "exact metrics of a run on a split",
    "report": "one page on one or more runs: scores, differences, attention",
    "serve": "a page on which photographs are dropped and models answer",
    "export": "write a trained model as a folder without its run",
    "doctor": "check this machine: devices, driver, memory, packages, a self-test",
    "completion": "print the script that completes commands in bash, zsh or fish",
}
ELSEWHERE = {
    "demo": "gap_jax.demo",
    "completion": "gap_jax.completion.command",
    "sweep": "gap_jax.sweep.command",
}
SHOWN_PACKAGES = ("jax", "jaxlib", "flax", "grain", "tensorflow-datasets", "numpy")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line, or that of this process; returns the exit code."""
    return run_process() if argv is None else process.exit_code(lambda: _dispatch(list(argv)))


def run_process(*command: str) -> int:
    """Runs `command` with the arguments of this process."""
    return process.run(lambda: _dispatch([*command, *sys.argv[1:]]))


def import_command(name: str) -> ModuleType:
    """Imports the module of a command; its `run` takes the command's arguments."""
    return importlib.import_module(ELSEWHERE.get(name, f"gap_jax.commands.{name}"))


def _dispatch(words: list[str]) -> int | None:
    match [_expand_home(word) for word in words]:
        case ["--version" | "-V"]:
            from importlib import metadata  # slow

            found = [f"{name} {metadata.version(name)}" for name in SHOWN_PACKAGES]
            python = ".".join(map(str, sys.version_info[:3]))
            print(" · ".join([f"gap_jax {__version__}", f"python {python}", *found]))
        case ["--help" | "-h"] | ["help"]:
            print("gap_jax COMMAND ...\n")
            for name, text in COMMANDS.items():
                print(f"  {name:<10}  {text}")
            print("\n  --version (-V), or --help after any command")
        case [word, *rest] if word in COMMANDS:
            return import_command(word).run(rest)
        case []:
            raise ConfigError(f"no command was given; use one of {', '.join(COMMANDS)}")
        case [word, *_]:
            raise ConfigError(f"unknown command {word!r}{nearest(word, tuple(COMMANDS))}")
    return None


def _expand_home(word: str) -> str:
    """Expands ~ in --option=~/x, which shells do not expand."""
    option, _, value = word.partition("=")
    if option.startswith("-") and value.startswith("~"):
        with contextlib.suppress(RuntimeError):  # unknown user
            return f"{option}={Path(value).expanduser()}"
    return word
