"""`python -m gap_jax` is the console script `gap_jax`."""

import sys

from gap_jax.cli import main

sys.exit(main())
