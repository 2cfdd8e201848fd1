"""The options of a campaign; its results, so that a stopped one continues with the next case."""

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from data_pipelines.core import files
from gap_jax.runtime.environment import find_revision
from tests.support.tiny_training import ROOT

NAME = "verdicts.jsonl"
PAGE = ROOT / "docs" / "reliability.md"

Case = TypeVar("Case", bound=Any)
Verdict = TypeVar("Verdict", bound=Any)


def make_parser(program: str, description: str | None) -> argparse.ArgumentParser:
    """Makes a parser with the options that the campaigns of random faults share."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    parser.add_argument("--seed", type=int, default=0, help="of the random faults")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and verdicts")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the table goes")
    return parser


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


def judge(
    out: Path,
    head: Mapping[str, Any],
    cases: Iterable[Case],
    kind: type[Verdict],
    judge_case: Callable[[Case], Verdict],
    at_once: int = 1,
) -> list[Verdict]:
    """Judges the cases whose names have no verdict of `kind` yet; saves and prints each verdict."""
    rows = [
        {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
        for row in read_rows(out, head)
    ]
    verdicts = [kind(**row) for row in rows]
    known = {each.name for each in verdicts}
    left = [case for case in cases if case.name not in known]
    with ThreadPoolExecutor(at_once) as pool:
        for verdict in (pool.map if at_once > 1 else map)(judge_case, left):
            verdicts.append(verdict)
            keep_rows(out, head, [each._asdict() for each in verdicts])
            print(json.dumps(verdict._asdict()), flush=True)
    return verdicts
