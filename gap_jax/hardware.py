"""Tells layers and steps which processor runs them, and chooses options by it."""

from typing import Any

import jax
import numpy as np

ONE_RUN_OPTIONS = {"xla_backend_optimization_level": 0}  # compiles in half the time, runs slower
AVX512 = ("X86_V4", "AVX512_SKX")  # numpy's newer and older name


def is_cpu() -> bool:
    return jax.default_backend() == "cpu"


def has_avx512() -> bool:
    """Whether numpy finds AVX-512 on this CPU."""
    config: Any = np.show_config(mode="dicts")
    extensions = config["SIMD Extensions"]
    names = {*extensions.get("baseline", ()), *extensions.get("found", ())}
    return not names.isdisjoint(AVX512)


def list_eval_options() -> dict[str, str]:
    """Lists the options with which an evaluation step is compiled.

    On CPU XLA uses YNNPACK for products, which makes a training step a fifth faster. It makes the
    evaluation step a tenth faster with AVX2, but a tenth slower with AVX-512, where it is off.
    """
    return {"xla_cpu_experimental_ynn_fusion_type": ""} if is_cpu() and has_avx512() else {}
