"""What a campaign has found so far, kept so that a stopped one goes on with the next case."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines import files
from gap_jax.runtime.environment import find_revision
from tests.support.tiny_training import ROOT

NAME = "verdicts.jsonl"


def identify(**options: Any) -> dict[str, Any]:
    """What tells a campaign from others: its options, and the code it is about."""
    revision = (find_revision(ROOT) or "").removesuffix("-dirty")
    return {**json.loads(json.dumps(options)), "revision": revision}


def read_rows(out: Path, head: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those of an earlier start of the same campaign, which `head` tells from others."""
    place = out / NAME
    if not place.exists():
        return []
    found, *rows = map(json.loads, place.read_text("utf-8").splitlines())
    if found != head:
        raise SystemExit(f"{place} is of another campaign, {found}; choose another --out")
    return rows


def keep_rows(out: Path, head: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes all of them, so that no line is ever torn."""
    files.write_atomically(out / NAME, "".join(json.dumps(row) + "\n" for row in (head, *rows)))
