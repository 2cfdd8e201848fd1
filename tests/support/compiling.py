"""How tests, and the runs that they start, compile: a test compiles more than it computes."""

import os
from importlib import metadata
from pathlib import Path

# later versions end the process at a flag that they do not know
IS_KNOWN = metadata.version("jaxlib").startswith("0.10.")
FUSION_FLAG = ["xla_cpu_use_fusion_emitters"] if IS_KNOWN else []
FAST_COMPILING = " ".join(
    ["--xla_backend_optimization_level=0", *(f"--{name}=false" for name in FUSION_FLAG)]
)


def keep_compiled(folder: Path | str) -> None:
    """Lets processes that start from now on share compiled programs, in the first folder named."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
