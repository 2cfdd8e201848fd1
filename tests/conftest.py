"""Every test runs with shape-checked arrays, parsed flags and eight fake devices.

On the CPU XLA generates code without optimisation: a test compiles more than it computes. No
operation gets its lines of Python, and what was imported is kept out of garbage collection.

With JAX_PLATFORMS=cuda those marked `gpu` run, and only they.
"""

import gc
import os
import signal
from pathlib import Path

os.environ["JAX_PLATFORMS"] = os.environ.get("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
if os.environ["JAX_PLATFORMS"] == "cpu":
    os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"

from jaxtyping import install_import_hook

install_import_hook(("data_pipelines", "gap_jax"), "beartype.beartype")

import pytest
from absl import flags

flags.FLAGS.mark_as_parsed()  # grain's workers read flags
for number in (signal.SIGTERM, signal.SIGHUP):  # ignored where pytest runs in the background
    signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


ON_CPU = os.environ["JAX_PLATFORMS"] == "cpu"
NEEDS_GPU = pytest.mark.skip(reason="needs a GPU: JAX_PLATFORMS=cuda pytest -m gpu")
NEEDS_CPU = pytest.mark.skip(reason="needs the CPU and its eight fake devices")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips aloud what the platform cannot show."""
    for item in items:
        if (item.get_closest_marker("gpu") is not None) == ON_CPU:
            item.add_marker(NEEDS_GPU if ON_CPU else NEEDS_CPU)


def pytest_collection_finish() -> None:
    """Lets the garbage collector look at what tests make, and at nothing older."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The folder of real MPII lists and tables, where the machine has one."""
    folder = os.environ.get("GAP_JAX_REFERENCE_DATA")
    if not folder:
        pytest.skip("GAP_JAX_REFERENCE_DATA names no folder of real MPII lists")
    return Path(folder)
