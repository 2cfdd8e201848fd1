"""tmp"""

from gap_jax.commands.arguments import Parser, parse


def run(words):
    parse(Parser(prog="gap_jax doctor", description="x"), words)
