"""Lists the commands, options and values that a shell can complete, read from the parsers."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, get_origin

from data_pipelines.core.settings import list_choices
from gap_jax.cli import COMMANDS, import_command
from gap_jax.commands.arguments import DESCRIBE, Described, local_path
from gap_jax.commands.train import FLAGS, MODES
from gap_jax.config import Config, fields

LONGEST_HELP = 80
CONFIG = "FILE[:parts]"  # the metavar of a config
_FILES = ("FILE", "TAR", "SRC", "DST", "RUN", "MODEL", "PATH")
_FOLDERS = ("DIR", "ROOT")

Kind = Literal["flag", "any", "file", "folder", "config", "words"]


class Value(NamedTuple):
    """The values that an option or a position takes; `words` are those of the kind `words`."""

    kind: Kind
    words: tuple[str, ...] = ()


class Option(NamedTuple):
    """An option with all its spellings; a field's spelling ends in = and takes its value there."""

    names: tuple[str, ...]
    help: str
    value: Value


class Node(NamedTuple):
    """A command line before its options: its path, such as 'data prepare', and what may follow."""

    path: str
    options: tuple[Option, ...] = ()
    commands: tuple[tuple[str, str], ...] = ()  # name and help
    places: tuple[Value, ...] = ()  # positional arguments
    repeats: bool = False  # the last place takes all further words
    takes_config: bool = False  # also --config.group.field=value


def read_commands() -> list[Node]:
    """Lists the nodes of all commands."""
    options = (
        Option(("--version", "-V"), "print versions", Value("flag")),
        Option(("--help", "-h"), "list the commands", Value("flag")),
    )
    nodes = [Node("", options, tuple(COMMANDS.items()))]
    for name in COMMANDS:
        nodes += [read_train()] if name == "train" else _read_parser(find_parser(name), name)
    return nodes


def find_parser(command: str) -> argparse.ArgumentParser:
    """Returns the parser that a command makes."""
    try:
        import_command(command).run(DESCRIBE)
    except Described as found:
        return found.parser
    raise AssertionError(f"gap_jax {command} does not parse its arguments by `parse`")


def read_train() -> Node:
    """Lists the flags of `gap_jax train`, which absl parses."""
    values = {"workdir": Value("folder"), "mode": Value("words", MODES)}
    options = [
        Option((f"--{name}",), text, values.get(name, Value("any"))) for name, text in FLAGS.items()
    ]
    config = Option(("--config",), "a config, and the parts of its variant", Value("config"))
    helping = Option(("--help", "-h"), "list the flags and all fields", Value("flag"))
    return Node("train", (config, *options, helping), takes_config=True)


def read_fields() -> Iterator[Option]:
    """Lists --config.group.field= for every field of a run."""
    for name, field, default in fields(Config()):
        if choices := list_choices(field):
            value = Value("words", choices)
        elif field.type is bool:
            value = Value("words", ("true", "false"))
        else:
            is_path = field.type is str and get_origin(field.type) is None
            value = Value("file" if is_path else "any")
        text = f"{field.metadata['help']} (default {default!r})"
        yield Option((f"--config.{name}=",), _shorten(text), value)


def _read_parser(parser: argparse.ArgumentParser, path: str) -> Iterator[Node]:
    options, places, commands, below = [], [], [], []
    repeats = False
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            commands = [(each.dest, each.help or "") for each in action._choices_actions]
            for name, child in action.choices.items():
                below += _read_parser(child, f"{path} {name}")
        elif action.option_strings:
            text = "" if action.help is None else parser._get_formatter()._expand_help(action)
            options.append(Option(tuple(action.option_strings), _shorten(text), _value_of(action)))
        else:
            places.append(_value_of(action))
            repeats = action.nargs in ("+", "*")
    takes_config = bool(parser.get_default("takes_config"))
    yield Node(path, tuple(options), tuple(commands), tuple(places), repeats, takes_config)
    yield from below


def _value_of(action: argparse.Action) -> Value:
    """Reads the values of an argument from its choices, or else its metavar and type."""
    if action.nargs == 0:
        return Value("flag")
    if action.choices is not None:
        return Value("words", tuple(map(str, action.choices)))
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    if metavar == CONFIG:
        return Value("config")
    parts = re.split(r"[|,]", metavar)
    if any(part.startswith(_FILES) for part in parts):
        return Value("file")
    if any(part.startswith(_FOLDERS) for part in parts):
        return Value("folder")
    if action.type in (Path, local_path):
        return Value("file")
    words = tuple(part for part in parts if re.fullmatch("[a-z][a-z0-9_]*", part))
    return Value("words", words) if words else Value("any")


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_HELP else f"{line[: LONGEST_HELP - 1]}\u2026"
