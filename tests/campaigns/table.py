"""The table of the fault campaign, between the two marks of its page."""

import datetime
import platform
import re
from collections.abc import Sequence
from pathlib import Path

from data_pipelines import files
from gap_jax.runtime.environment import describe_environment
from tests.campaigns.cases import Verdict

BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
VERSIONS = ("jax", "orbax-checkpoint", "grain")


def write_table(page: Path, verdicts: Sequence[Verdict], command: str) -> None:
    """Replaces what stands between the marks."""
    text = page.read_text("utf-8")
    if not re.search(f"{BEGIN}.*{END}", text, re.DOTALL):
        raise SystemExit(f"{page} has no marks {BEGIN} and {END} for the table")
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    files.write_atomically(page, f"{head}{BEGIN}\n{render(verdicts, command)}\n{END}{tail}")


def render(verdicts: Sequence[Verdict], command: str) -> str:
    """A row for each kind of mishap, and what was run where."""
    kinds = list(dict.fromkeys(each.kind for each in verdicts))
    rows = [(kind, [each for each in verdicts if each.kind == kind]) for kind in kinds]
    return "\n".join(
        [
            describe(verdicts, command),
            "",
            "| mishap | cases | fell in time | divergences | silent |",
            "|---|---|---|---|---|",
            *(f"| {kind} | {_count(found)} |" for kind, found in rows),
            f"| all | {_count(verdicts)} |",
        ]
    )


def describe(verdicts: Sequence[Verdict], command: str) -> str:
    """One sentence on date, command, code and versions."""
    facts = describe_environment()
    versions = [f"{name} {facts['packages'][name]}" for name in VERSIONS]
    minutes = sum(each.seconds for each in verdicts) / 60
    code = f"gap_jax {facts['gap_jax']} ({facts['revision'] or 'no revision'})"
    return (
        f"`{command}`, {datetime.date.today().isoformat()}, {minutes:.0f} minutes: {code}, "
        f"Python {facts['python']}, {', '.join(versions)}, {platform.system()} on "
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
