"""Attentional pooling and generalized attentional pooling in JAX; importing it costs nothing."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gap_jax.commands.api import evaluate_run, train_config
    from gap_jax.flags import read_config
    from gap_jax.models.pooling import AttentionalPooling, GeneralizedAttentionalPooling
    from gap_jax.models.saliency import FactoredSaliency
    from gap_jax.prediction.predictor import load

__version__ = "0.1.0"
__all__ = [
    "AttentionalPooling",
    "FactoredSaliency",
    "GeneralizedAttentionalPooling",
    "__version__",
    "evaluate_run",
    "load",
    "read_config",
    "train_config",
]
MODULES = {
    "AttentionalPooling": "gap_jax.models.pooling",
    "FactoredSaliency": "gap_jax.models.saliency",
    "GeneralizedAttentionalPooling": "gap_jax.models.pooling",
    "evaluate_run": "gap_jax.commands.api",
    "load": "gap_jax.prediction.predictor",
    "read_config": "gap_jax.flags",
    "train_config": "gap_jax.commands.api",
}


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return getattr(importlib.import_module(MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
