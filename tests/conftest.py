"""Every test runs with parsed flags and eight fake devices; modules that state shapes check them.

On the CPU XLA generates code without optimisation: a test compiles more than it computes. Compiled
programs are shared by all processes of this call of pytest. No operation gets its lines of Python,
and what was imported is kept out of garbage collection.

With JAX_PLATFORMS=cuda those marked `gpu` run, and only they.
"""

import fcntl
import gc
import os
import signal
import tempfile
from collections.abc import Generator
from pathlib import Path

from tests.support.compiling import FAST_COMPILING, keep_compiled

os.environ["JAX_PLATFORMS"] = os.environ.get("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
if os.environ["JAX_PLATFORMS"] == "cpu":
    os.environ["XLA_FLAGS"] += f" {FAST_COMPILING} --xla_cpu_parallel_codegen_split_count=1"
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
if "PYTEST_XDIST_WORKER" not in os.environ:
    COMPILED = tempfile.TemporaryDirectory(prefix="gap_jax-tests-")
    keep_compiled(COMPILED.name)

from jaxtyping import install_import_hook

ROOT = Path(__file__).parents[1]
CHECKED = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in ("data_pipelines", "gap_jax")
    for path in (ROOT / package).rglob("*.py")
    if path.stem != "__init__"
    and path.parent.name != "drawn"  # would draw ten times slower
    and "jaxtyping" in path.read_text("utf-8")
]
install_import_hook(CHECKED, "beartype.beartype")

import pytest
from absl import flags

flags.FLAGS.mark_as_parsed()  # grain's workers read flags
for number in (signal.SIGTERM, signal.SIGHUP):  # ignored where pytest runs in the background
    signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


ON_CPU = os.environ["JAX_PLATFORMS"] == "cpu"
NEEDS_GPU = pytest.mark.skip(reason="needs a GPU: JAX_PLATFORMS=cuda pytest -m gpu")
NEEDS_CPU = pytest.mark.skip(reason="needs the CPU and its eight fake devices")


@pytest.hookimpl(wrapper=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> Generator[None, int, int]:
    """One worker more than xdist counts for the whole suite, as tests of processes wait."""
    return (yield) + (not config.option.markexpr)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips aloud what the platform cannot show; a long file that came last would run alone."""
    items.sort(key=lambda item: item.get_closest_marker("processes") is None)
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


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny people in `data` and an unbroken run on them, made once for all of pytest's workers."""
    from tests.support.tiny_data import prepare_tiny_people
    from tests.support.tiny_training import train

    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "tiny_runs"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "data").exists():
            prepare_tiny_people(folder / "data")
            assert train(folder / "data", folder / "unbroken", forked=True).code == 0
    return folder
