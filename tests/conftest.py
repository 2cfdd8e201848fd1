"""Every test runs with shape-checked arrays, parsed flags and eight fake devices."""

import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = os.environ.get("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

from jaxtyping import install_import_hook

install_import_hook(("data_pipelines", "gap_jax"), "beartype.beartype")

import pytest
from absl import flags

flags.FLAGS.mark_as_parsed()  # grain's workers read flags


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The folder of real MPII lists and tables, where the machine has one."""
    folder = os.environ.get("GAP_JAX_REFERENCE_DATA")
    if not folder:
        pytest.skip("GAP_JAX_REFERENCE_DATA names no folder of real MPII lists")
    return Path(folder)
