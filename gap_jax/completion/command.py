"""`gap_jax completion SHELL`: prints the script that completes the commands in a shell."""

from collections.abc import Sequence

from gap_jax.commands.arguments import Parser, parse
from gap_jax.completion.scripts import write_script

SHELLS = {
    "bash": "~/.local/share/bash-completion/completions/gap_jax",
    "zsh": "a folder of $fpath, as _gap_jax",
    "fish": "~/.config/fish/completions/gap_jax.fish",
}
DESCRIPTION = """Prints a script that completes commands, options, configs with their parts, fields
and paths. Write it to a file where the shell looks for it, and again after an update of gap_jax:
bash and fish find it in the folders below at their next start, zsh after compinit. The script
starts no Python."""


def run(words: Sequence[str]) -> None:
    """Runs `gap_jax completion` with its arguments."""
    places = "; ".join(f"{shell}: {place}" for shell, place in SHELLS.items())
    parser = Parser(prog="gap_jax completion", description=DESCRIPTION, epilog=places)
    parser.add_argument("shell", choices=tuple(SHELLS), help="the shell")
    options = parse(parser, words)
    print(write_script(options.shell))
