"""Runs `gap_jax train` for `python -m gap_jax.main`."""

import sys

from gap_jax.cli import run_process

if __name__ == "__main__":
    sys.exit(run_process("train"))
