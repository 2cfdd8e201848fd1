"""Every setting's default, bounds and choices, as they were agreed on.

`python -m tests.commands.test_settings` writes them anew; CHANGELOG.md names what users notice.
"""

import json
import math
from pathlib import Path
from typing import Any

from gap_jax.config import Config, fields

GOLDEN = Path(__file__).parents[1] / "goldens" / "settings.json"


def describe_settings() -> dict[str, dict[str, Any]]:
    """What the config accepts, without the bounds that bound nothing."""
    found = {}
    for name, field, default in fields(Config()):
        rules = {key: field.metadata[key] for key in ("low", "high", "above", "choices")}
        kept = {key: rule for key, rule in rules.items() if rule not in (math.inf, -math.inf, ())}
        found[name] = json.loads(json.dumps({"default": default, **kept}))
    return found


def test_settings_are_the_agreed_ones() -> None:
    assert describe_settings() == json.loads(GOLDEN.read_text("utf-8"))


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(describe_settings(), indent=1) + "\n", "utf-8")
