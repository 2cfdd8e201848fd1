"""Executes every block of README.md and docs/ by its mark (see tests/support/doc_blocks.py).

    python -m tests.campaigns.docs [PAGE ...]                    make docs-test: all pages
    python -m tests.campaigns.docs --installed DIR [PAGE ...]    make wheel-test: README

The blocks of a page run in order in a new copy of the checkout, with data/ and runs/ inside it;
with --installed they run in an empty folder with the environment DIR, in which the package is
installed. One line is printed for each block; the exit code is 1 if a block failed. Commands in
ELSEWHERE are not run but listed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipelines.config import DATASETS
from tests.support.doc_blocks import (
    PAGES,
    ROOT,
    Block,
    agrees,
    objection,
    read_blocks,
    read_commands,
    read_exchanges,
    shrink,
    split_words,
)

LONGEST_S = 3600
SHOWN_LINES = 40
NOT_COPIED = (
    ".git", ".venv*", "data", "runs", "build", "dist", "*.egg-info", "__pycache__", ".*_cache",
    ".hypothesis",
)  # fmt: skip
ENVIRONMENT = ("bin", "lib", "lib64", "pyvenv.cfg")
STAMPS = ("run-time", "dev")  # files that mark an environment as complete for make

# Commands that are not run: their beginning, and the reason.
ELSEWHERE = {
    "git clone": "the copy of the checkout replaces the clone",
    "cd gap_jax": "the blocks run in the checkout already",
    "pip install": "the environment is left as it is",
    "uv pip": "the environment is left as it is",
    "sbatch": "there is no cluster here",
}
MADE_HERE = ("demo", "help")  # other targets are separate checks, or run this one


class Stage(NamedTuple):
    """The folder and the Python environment in which the blocks of a page run."""

    folder: Path
    environment: Path
    is_checkout: bool

    @property
    def python(self) -> str:
        """Returns the environment's interpreter."""
        return str(self.environment / "bin" / "python")

    def variables(self) -> Mapping[str, str]:
        """Returns variables that put the environment's commands and the copy's packages first."""
        path = os.pathsep.join([str(self.environment / "bin"), os.environ["PATH"]])
        variables = {**os.environ, "PATH": path}
        return {**variables, "PYTHONPATH": str(self.folder)} if self.is_checkout else variables


class Verdict(NamedTuple):
    """The result of a block; `problem` is empty on success."""

    problem: str
    notes: tuple[str, ...] = ()


def main(words: Sequence[str]) -> int:
    """Checks the given pages, or all pages."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.docs")
    parser.add_argument("pages", nargs="*", type=Path, metavar="PAGE")
    parser.add_argument("--installed", type=Path, metavar="DIR")
    options = parser.parse_args(words)
    failed = 0
    for page in [each.absolute() for each in options.pages] or PAGES:
        with tempfile.TemporaryDirectory(prefix="docs-") as scratch:
            if options.installed:
                stage = Stage(Path(scratch), options.installed.absolute(), is_checkout=False)
            else:
                stage = Stage(Path(scratch) / "gap_jax", Path(sys.prefix), is_checkout=True)
                copy_checkout(stage.folder)
            failed += sum(bool(verdict.problem) for verdict in check_page(page, stage))
    print(f"{failed} blocks failed" if failed else "every block succeeded")
    return min(failed, 1)


def copy_checkout(folder: Path) -> None:
    """Copies the checkout without data and runs, with this environment as its .venv."""
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*NOT_COPIED))
    environment = folder / ".venv"
    environment.mkdir()
    for name in ENVIRONMENT:
        (environment / name).symlink_to(Path(sys.prefix) / name)
    for name in STAMPS:
        (environment / name).touch()


def check_page(page: Path, stage: Stage) -> Iterator[Verdict]:
    """Executes the blocks of a page in order, and prints a line for each."""
    for block in read_blocks(page):
        if not block.is_executable:
            continue
        start = time.monotonic()
        verdict = _execute(block, stage)
        state = "FAILED" if verdict.problem else "ok"
        taken = time.monotonic() - start
        label = f"{block.place:<28} {block.language:<8} {block.mark or 'unmarked':<11}"
        print(f"{label} {state:<7} {taken:8.1f} s", flush=True)
        for line in (*verdict.notes, *verdict.problem.splitlines()):
            print(f"    {line}", flush=True)
        yield verdict


def _execute(block: Block, stage: Stage) -> Verdict:
    wrong = objection(block)
    if wrong:
        return Verdict(wrong)
    try:
        match block.language, block.mark:
            case "python", _:
                return _succeeds([stage.python, "-c", block.text], stage)
            case "console", _:
                return _prints_the_same(block, stage)
            case _, "needs-data":
                return _misses_data(block, stage)
            case _, mark:
                return _run_commands(block, stage, is_shrunk=mark == "shrink")
    except (ValueError, subprocess.TimeoutExpired) as error:
        return Verdict(str(error))


def _run_commands(block: Block, stage: Stage, *, is_shrunk: bool) -> Verdict:
    script, notes = [], []
    for command in read_commands(block):
        target = re.match(r"make (?!-)(?P<name>[\w-]+)", command)
        reason = next((why for start, why in ELSEWHERE.items() if start in command), None)
        if target and not stage.is_checkout:
            notes.append(f"not run: {command} (it needs the checkout)")
        elif target and target["name"] not in MADE_HERE:
            notes.append(f"not run: {command} (a check of its own; its target exists)")
            script.append(f"make --dry-run {target['name']} >/dev/null")
        elif reason:
            notes.append(f"not run: {command} ({reason})")
        else:
            script.append(shrink(command) if is_shrunk else command)
    verdict = _succeeds(["bash", "-euo", "pipefail", "-c", "\n".join(script)], stage)
    return verdict._replace(notes=tuple(notes))


def _succeeds(words: Sequence[str], stage: Stage) -> Verdict:
    done = _run(words, stage)
    if done.returncode == 0:
        return Verdict("")
    return Verdict(f"exit code {done.returncode}\n{_tail(done.stdout)}")


def _prints_the_same(block: Block, stage: Stage) -> Verdict:
    for command, expected in read_exchanges(block):
        printed = _run(["bash", "-c", command], stage).stdout
        if not agrees(printed, expected):
            return Verdict(f"$ {command}\nprints\n{_tail(printed)}\nand not\n{expected}")
    return Verdict("")


def _misses_data(block: Block, stage: Stage) -> Verdict:
    """Checks that each command is refused because a named file does not exist."""
    for command in read_commands(block):
        done = _run(["bash", "-c", command], stage)
        last = done.stdout.strip().rpartition("\n")[2]
        named = [each for each in _absent_files(command, stage.folder) if each in last]
        if done.returncode not in (65, 66) or not named:
            return Verdict(
                f"{command}\nends in {done.returncode} and not in 65 or 66 with the name of a "
                f"missing file\n{_tail(done.stdout)}"
            )
    return Verdict("")


def _absent_files(command: str, folder: Path) -> list[str]:
    """Lists files that a command may lack: arguments that look like files, and a config's data."""
    words = {part for word in split_words(command) for part in word.split("=", 1)}
    named = {word for word in words if "/" in word or "." in word}
    return [
        each
        for each in (*named, *(f"data/{name}" for name in DATASETS))
        if not each.startswith("-") and not (folder / each).exists()
    ]


def _run(words: Sequence[str], stage: Stage) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        cwd=stage.folder,
        env=stage.variables(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )


def _tail(output: str) -> str:
    return "\n".join(output.splitlines()[-SHOWN_LINES:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
