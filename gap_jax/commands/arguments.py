"""Parses the arguments of all commands but train; a mistake ends in one line and code 64."""

import argparse
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from data_pipelines.core.errors import ConfigError, propose

OVERRIDES = ("--config.", "--noconfig.")
OPTION = re.compile(r"--[A-Za-z][\w.-]*")
DESCRIBE = ("\0",)  # for these words a command raises `Described` instead of doing anything


class Parser(argparse.ArgumentParser):
    """Refuses mistakes in one line, and abbreviations; `takes_config` allows overrides.

    Proposes the nearest option or choice for one that does not exist.
    """

    def __init__(self, *, takes_config: bool = False, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})
        self.set_defaults(takes_config=takes_config)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(
            message if message.endswith("?") else f"{message}; see {self.prog} --help"
        )

    def parse_known_args(self, *given: Any, **options: Any) -> tuple[Any, list[str]]:
        """Refuses an unknown option before a required one that its typing error leaves out."""
        words = given[0]
        asks_help = not {"-h", "--help"}.isdisjoint(words)
        if self._subparsers is None and not asks_help:  # a subcommand checks its own words
            self._refuse_unknown(words)
        return super().parse_known_args(*given, **options)

    def _refuse_unknown(self, words: Sequence[str]) -> None:
        known = [name for name in self._option_string_actions if name.startswith("--")]
        for word in itertools.takewhile(lambda word: word != "--", words):
            name = word.partition("=")[0]
            is_override = self.get_default("takes_config") and word.startswith(OVERRIDES)
            if OPTION.fullmatch(name) and name not in known and not is_override:
                near = propose(name[2:], [each[2:] for each in known], prefix="--")
                self.error(f"unknown argument {word!r}{near}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += propose(str(value), [*map(str, action.choices or ())])
            raise


class Described(Exception):
    """Carries the parser of a command, for the scripts that complete its command line."""

    def __init__(self, parser: Parser) -> None:
        super().__init__(parser.prog)
        self.parser = parser


def parse(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    """Parses the options; `overrides` holds the --config.group.field=value words."""
    if tuple(words) == DESCRIBE:
        raise Described(parser)
    options, rest = parser.parse_known_args(words)
    overrides = [word for word in rest if options.takes_config and word.startswith(OVERRIDES)]
    unknown = [word for word in rest if word not in overrides]
    if unknown:
        parser.error(f"unknown argument {unknown[0]!r}")
    options.overrides = overrides
    return options


def checkpoint(text: str) -> Literal["best", "latest"] | int:
    """Parses a choice of a checkpoint."""
    if text == "best" or text == "latest":
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} must be best, latest or a step")
    return int(text)


def local_path(text: str) -> Path:
    """Parses a path; refuses an address in a bucket."""
    if "://" in text:
        raise argparse.ArgumentTypeError(f"{text} is an address; name a path, and copy it there")
    return Path(text)


def path_ending(suffix: str) -> Callable[[str], Path]:
    """Returns a parser of paths with that suffix; a photograph named by mistake stays untouched."""

    def parse_path(text: str) -> Path:
        if not text.lower().endswith(suffix):
            raise argparse.ArgumentTypeError(f"{text!r} must end in {suffix}")
        return local_path(text)

    return parse_path


def natural(text: str, lowest: int = 0) -> int:
    """Parses an integer of `lowest` or more."""
    number = int(text)
    if number < lowest:
        raise argparse.ArgumentTypeError(f"{text} must be {lowest} or more")
    return number


def positive(text: str) -> int:
    """Parses an integer of 1 or more."""
    return natural(text, 1)


def share(text: str) -> float:
    """Parses a share between 0 and 1, without either."""
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{text} must be above 0 and below 1")
    return number
