"""Runs the console script for `python -m gap_jax`."""

import sys

from gap_jax.cli import main

sys.exit(main())
