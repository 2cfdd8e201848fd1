"""Compares every setting's default, bounds and choices with a golden file.

`python -m tests.commands.test_settings` writes the file; list changes for users in CHANGELOG.md.
"""

import json
import math
from pathlib import Path
from typing import Any

from data_pipelines.core.settings import list_choices
from gap_jax.config import Config, fields

GOLDEN = Path(__file__).parents[1] / "goldens" / "settings.json"


def describe_settings() -> dict[str, dict[str, Any]]:
    """Describes the accepted values of the config, without infinite bounds."""
    found = {}
    for name, field, default in fields(Config()):
        rules = {key: field.metadata[key] for key in ("low", "high", "above")}
        rules["choices"] = list_choices(field)
        kept = {key: rule for key, rule in rules.items() if rule not in (math.inf, -math.inf, ())}
        found[name] = json.loads(json.dumps({"default": default, **kept}))
    return found


def test_settings_equal_the_golden_file() -> None:
    assert describe_settings() == json.loads(GOLDEN.read_text("utf-8"))


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(describe_settings(), indent=1) + "\n", "utf-8")
