"""Attentional pooling and generalized attentional pooling in JAX; importing it costs nothing."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gap_jax.models.pooling import AttentionalPooling

__version__ = "0.1.0"
__all__ = ["AttentionalPooling", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "AttentionalPooling":
        from gap_jax.models.pooling import AttentionalPooling

        return AttentionalPooling
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
