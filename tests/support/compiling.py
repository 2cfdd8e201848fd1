"""How tests, and the runs that they start, compile: a test compiles more than it computes."""

import os
from pathlib import Path

FAST_COMPILING = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"


def keep_compiled(folder: Path | str) -> None:
    """Lets processes that start from now on share compiled programs, in the first folder named."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
