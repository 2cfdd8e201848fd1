"""argparse as every command but training uses it: a slip is one line and exit code 64."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NoReturn

from gap_jax.errors import ConfigError

OVERRIDES = ("--config.", "--noconfig.")


class Parser(argparse.ArgumentParser):
    """A parser that refuses in one line; pass allow_abbrev=False to it and to its subparsers."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def parse(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    """The options; `overrides` holds the --config.group.field=value words of a command with one."""
    options, rest = parser.parse_known_args(words)
    overrides = [word for word in rest if options.takes_config and word.startswith(OVERRIDES)]
    strays = [word for word in rest if word not in overrides]
    if strays:
        raise ConfigError(f"unknown argument {strays[0]!r}; see {parser.prog} --help")
    options.overrides = overrides
    return options


def checkpoint(text: str) -> Literal["best", "latest"] | int:
    """An option's choice among the checkpoints of a run."""
    if text == "best" or text == "latest":
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither best nor latest nor a step")
    return int(text)


def local_path(text: str) -> Path:
    """An option's path, which is no address in a bucket."""
    if "://" in text:
        raise argparse.ArgumentTypeError(f"{text} is an address; name a path, and copy it there")
    return Path(text)


def natural(text: str) -> int:
    """An option's whole number of 0 or more."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative; it takes 0 or more")
    return number


def positive(text: str) -> int:
    """An option's whole number of 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is too few; it takes 1 or more")
    return number
