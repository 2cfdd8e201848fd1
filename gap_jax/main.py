"""`python -m gap_jax.main` is `gap_jax train`."""

import sys

from gap_jax.cli import run_process

if __name__ == "__main__":
    sys.exit(run_process("train"))
