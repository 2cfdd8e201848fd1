"""Saves the results of a campaign, so that a stopped one continues with the next case."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.core import files
from gap_jax.runtime.environment import find_revision
from tests.support.tiny_training import ROOT

NAME = "verdicts.jsonl"


def identify(**options: Any) -> dict[str, Any]:
    """Returns the options of a campaign and the revision of the code."""
    revision = (find_revision(ROOT) or "").removesuffix("-dirty")
    return {**json.loads(json.dumps(options)), "revision": revision}


def read_rows(out: Path, head: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Reads the rows of an earlier start of the campaign that `head` identifies."""
    path = out / NAME
    if not path.exists():
        return []
    found, *rows = map(json.loads, path.read_text("utf-8").splitlines())
    if found != head:
        raise SystemExit(f"{path} is of another campaign, {found}; choose another --out")
    return rows


def keep_rows(out: Path, head: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes all rows anew, so that no line is ever torn."""
    files.write_atomically(out / NAME, "".join(json.dumps(row) + "\n" for row in (head, *rows)))
