"""`gap_jax config`: shows, explains and compares configs."""

import dataclasses
import json
from collections.abc import Sequence

from gap_jax.commands.arguments import Parser, parse
from gap_jax.config import Config, differences
from gap_jax.flags import explain, read_config


def run(words: Sequence[str]) -> None:
    """Runs `gap_jax config` with its arguments."""
    parser = Parser(
        prog="gap_jax config",
        description="Show a config as JSON, explain its fields, or list differences.",
        epilog="Fields can be overridden: --config.group.field=value",
        takes_config=True,
    )
    parser.add_argument("action", choices=("show", "explain", "diff"))
    parser.add_argument("config", metavar="FILE[:parts]", help="a config, as for --config")
    parser.add_argument(
        "--against",
        metavar="FILE[:parts]",
        help="diff: the other config; default: the config without its overrides, or without "
        "overrides the paper's defaults",
    )
    options = parse(parser, words)
    cfg = read_config(options.config, options.overrides)
    match options.action:
        case "show":
            print(json.dumps(dataclasses.asdict(cfg), indent=1))
        case "explain":
            print(explain(cfg))
        case _:
            against = options.against or (options.overrides and options.config)
            other = read_config(against) if against else Config().resolved()
            print("\n".join(differences(other, cfg).values()) or "no field differs")
