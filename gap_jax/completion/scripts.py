"""Writes the scripts that complete the command line in bash, zsh and fish.

A script holds the whole table of commands, so that a completion starts no Python.
"""

import shlex
from collections.abc import Callable, Iterator, Sequence
from importlib import resources

from gap_jax import variants
from gap_jax.completion.table import Node, Option, Value, read_commands, read_fields


def write_script(shell: str) -> str:
    """Returns the script of a shell."""
    nodes, of_fields = read_commands(), list(read_fields())
    table = "\n".join(TABLES[shell](nodes, of_fields))
    name = f"completion.{shell}"
    template = resources.files("gap_jax.completion").joinpath(name).read_text("utf-8")
    return template.replace("@TABLE@", table)


def _quote_all(words: Sequence[str]) -> str:
    return " ".join(map(shlex.quote, words))


def _write_parts(body: Callable[[str, str], str], start: str, end: str) -> Iterator[str]:
    """Writes the function that prints the parts of a config, a line for each kind."""
    yield start
    for name, kinds in variants.PARTS.items():
        lines = [" ".join(parts) for parts in kinds.values()]
        yield body(shlex.quote(name), _quote_all(lines))
    yield end


def _write_posix(
    nodes: Sequence[Node], of_fields: Sequence[Option], *, with_help: bool
) -> Iterator[str]:
    """Writes the table as functions that bash and zsh read."""

    def entries(options: Sequence[Option]) -> str:
        return _quote_all(
            [
                f"{name} {_name_value(each.value)}" + (f"\t{each.help}" if with_help else "")
                for each in options
                for name in each.names
            ]
        )

    yield f"_gap_jax_configs=({_quote_all(variants.list_configs())})"
    yield f"_gap_jax_fields=({entries(of_fields)})"
    yield from _write_parts(
        lambda name, lines: f"    {name}) printf '%s\\n' {lines} ;;",
        "_gap_jax_parts() {\n  case $1 in",
        "  esac\n}",
    )
    yield "_gap_jax_at() {  # sets the options, commands and places of a node, if there is one"
    yield "  case $1 in"
    for node in nodes:
        commands = [f"{name}:{text}" if with_help else name for name, text in node.commands]
        yield f"    {shlex.quote(node.path)})"
        yield f"      options=({entries(node.options)})"
        if node.takes_config:
            yield '      options+=("${_gap_jax_fields[@]}")'
        yield f"      commands=({_quote_all(commands)})"
        yield f"      places=({_quote_all([_name_value(each) for each in node.places])})"
        yield f"      repeats={'yes' if node.repeats else ''} ;;"
    yield "    *) return 1 ;;\n  esac\n}"


def _name_value(value: Value) -> str:
    return " ".join([value.kind, *value.words])


def _write_bash(nodes: Sequence[Node], of_fields: Sequence[Option]) -> Iterator[str]:
    return _write_posix(nodes, of_fields, with_help=False)


def _write_zsh(nodes: Sequence[Node], of_fields: Sequence[Option]) -> Iterator[str]:
    return _write_posix(nodes, of_fields, with_help=True)


def _write_fish(nodes: Sequence[Node], of_fields: Sequence[Option]) -> Iterator[str]:
    quote = _quote_fish
    yield f"set -g __gap_jax_nodes {' '.join(quote(node.path) for node in nodes[1:])}"
    yield f"set -g __gap_jax_configs {' '.join(map(quote, variants.list_configs()))}"
    yield from _write_parts(
        lambda name, lines: f"        case {name}\n            printf '%s\\n' {lines}",
        "function __gap_jax_parts\n    switch $argv[1]",
        "    end\nend",
    )
    yield "complete -c gap_jax -f"
    for node in nodes:
        here = f"__gap_jax_at {quote(node.path)}"
        for name, text in node.commands:
            yield f"complete -c gap_jax -n {quote(here)} -a {quote(name)} -d {quote(text)}"
        for option in node.options:
            yield f"complete -c gap_jax -n {quote(here)} {_describe_fish(option)}"
        valued = [name for each in node.options if each.value.kind != "flag" for name in each.names]
        for index, value in enumerate(node.places):
            last = "+" if node.repeats and index == len(node.places) - 1 else ""
            place = f"__gap_jax_place {quote(node.path)} {index}{last} {' '.join(valued)}"
            yield f"complete -c gap_jax -n {quote(place)} {_offer_fish(value)}"
    trees = " or ".join(f"__gap_jax_at {quote(node.path)};" for node in nodes if node.takes_config)
    yield f"complete -c gap_jax -n {quote(trees)} -a '(__gap_jax_field)'"
    for each in of_fields:
        words = each.value.words or [f"({each.value.kind})"]
        entry = "\t".join([each.names[0], each.help, *words])
        yield f"set -ga __gap_jax_fields {quote(entry)}"


def _describe_fish(option: Option) -> str:
    names = [f"-s {name[1:]}" if len(name) == 2 else f"-l {name[2:]}" for name in option.names]
    value = "" if option.value.kind == "flag" else f" -r {_offer_fish(option.value)}"
    return f"{' '.join(names)} -d {_quote_fish(option.help)}{value}"


def _offer_fish(value: Value) -> str:
    match value.kind:
        case "file":
            return "-F"
        case "folder":
            return "-f -a '(__gap_jax_folders)'"
        case "config":
            return "-f -a '(__gap_jax_config)'"
        case "words":
            return f"-f -a {_quote_fish(' '.join(value.words))}"
        case _:
            return "-f"


def _quote_fish(text: str) -> str:
    r"""Quotes a word for fish, where \ and ' need a backslash between single quotes."""
    return "'" + text.replace("\\", r"\\").replace("'", r"\'") + "'"


TABLES = {"bash": _write_bash, "zsh": _write_zsh, "fish": _write_fish}
