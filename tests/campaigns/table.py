"""Writes the table of a campaign between the two marks of its page."""

import datetime
import platform
import re
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.core import files
from gap_jax.runtime.environment import describe_environment
from tests.campaigns.cases import Verdict

VERSIONS = ("jax", "orbax-checkpoint", "grain")


def write_table(page: Path, verdicts: Sequence[Verdict], command: str) -> None:
    """Replaces the table of the fault campaign."""
    replace_marked(page, "faults", render(verdicts, command))


def replace_marked(page: Path, mark: str, content: str) -> None:
    """Replaces the text between <!-- mark: begin --> and <!-- mark: end -->."""
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    text = page.read_text("utf-8")
    if not re.search(f"{begin}.*{end}", text, re.DOTALL):
        raise SystemExit(f"{page} has no marks {begin} and {end} for the table")
    head, _, rest = text.partition(begin)
    tail = rest.partition(end)[2]
    files.write_atomically(page, f"{head}{begin}\n{content}\n{end}{tail}")


def render(verdicts: Sequence[Verdict], command: str) -> str:
    """Renders a row for each kind of fault, with the command and versions."""
    kinds = list(dict.fromkeys(each.kind for each in verdicts))
    rows = [(kind, [each for each in verdicts if each.kind == kind]) for kind in kinds]
    return "\n".join(
        [
            describe(command, sum(each.seconds for each in verdicts)),
            "",
            "| fault | cases | before the end | divergences | silent |",
            "|---|---|---|---|---|",
            *(f"| {kind} | {_count(found)} |" for kind, found in rows),
            f"| all | {_count(verdicts)} |",
        ]
    )


def describe(command: str, seconds: float) -> str:
    """Describes the command, date, code and versions in one sentence."""
    environment = describe_environment()
    versions = [f"{name} {environment['packages'][name]}" for name in VERSIONS]
    minutes = seconds / 60
    code = f"gap_jax {environment['gap_jax']} ({environment['revision'] or 'no revision'})"
    return (
        f"`{command}`, {datetime.date.today().isoformat()}, {minutes:.0f} minutes: {code}, "
        f"Python {environment['python']}, {', '.join(versions)}, {platform.system()} on "
        f"{platform.machine()}."
    )


def _count(verdicts: Sequence[Verdict]) -> str:
    numbers = (
        len(verdicts),
        sum(each.hit for each in verdicts),
        sum(bool(each.divergence) for each in verdicts),
        sum(each.silent for each in verdicts),
    )
    return " | ".join(f"{number:,}" for number in numbers)
