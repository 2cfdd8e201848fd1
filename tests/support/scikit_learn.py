"""scikit-learn's metrics, imported only by tests that compare: every worker collects all files."""

import importlib
from typing import Any


def load_metrics() -> Any:
    """Imports sklearn.metrics, which takes two seconds the first time."""
    return importlib.import_module("sklearn.metrics")
