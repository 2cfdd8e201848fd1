"""The faults of a run: how each is drawn from a seed, and how it is caused."""

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gap_jax.runtime import checkpoint_folders
from gap_jax.runtime.run_folder import RunFolder
from tests.support.tiny_training import End, Proof, begin, finish, interrupt, prove

# The fault points of a run, and how often an undisturbed one passes them.
PASSES = {
    "checkpoint.begin": 4,
    "checkpoint.before_commit": 4,
    "checkpoint.after_commit": 4,
    "checkpoint.prune": 1,
    "files.before_rename": 12,
    "loader.decode": 100,
    "restore.before": 1,
}
DAMAGES = ("flipped bit", "truncation", "deletion")
MOST_STARTS = 4


class Interruption(NamedTuple):
    """What ends a start early: a fault point, or a signal.

    The signal comes `delay_s` after the first reported step, or after the beginning.
    """

    code: int
    faults: str = ""
    number: signal.Signals | None = None
    delay_s: float = 0.0
    from_beginning: bool = False


class Case(NamedTuple):
    """One run: an interruption of each of its first starts, then maybe damage to a checkpoint."""

    name: str
    kind: str
    interruptions: tuple[Interruption, ...]
    damage: str = ""
    seed: int = 0


Drawn = tuple[str, tuple[Interruption, ...], str]


class Verdict(NamedTuple):
    """The result of a case.

    `hit` says whether an interruption came before the end of the run, `divergence` in what the run
    differs from an unbroken one or from a promise, `silent` whether damage was not reported.
    """

    name: str
    kind: str
    hit: bool
    divergence: str
    silent: bool
    codes: tuple[int, ...]
    seconds: float


class Site(NamedTuple):
    """The folders of all cases; `unbroken` is the result of a run without a fault."""

    data: Path
    runs: Path
    unbroken: Proof


def draw_cases(kills: int, seed: int, unbroken_s: float) -> list[Case]:
    """Draws `kills` runs that are killed, half of them at fault points, and fewer other faults."""
    rng = np.random.default_rng(seed)
    others = max(1, kills // 10)
    drawn = [
        *_draw_kills_at_points(kills // 2, rng),
        *_draw_kills_at_times(kills - kills // 2, unbroken_s, rng),
    ]
    for number in (signal.SIGTERM, signal.SIGINT):
        interruptions = [
            Interruption(75, number=number, delay_s=rng.uniform(0, 1)) for _ in range(others)
        ]
        drawn += [(number.name, (interruption,), "") for interruption in interruptions]
    for damage in DAMAGES:
        drawn += [(f"{damage} in the newest checkpoint", (_kill_after_save(3),), damage)] * others
    for point, first, last in (("checkpoint.begin", 2, 4), ("files.before_rename", 8, 11)):
        passes = rng.integers(first, last, others, endpoint=True)
        interruptions = [Interruption(73, f"{point}:enospc@{nth}") for nth in passes]
        drawn += [("disk full", (interruption,), "") for interruption in interruptions]
    return [Case(f"{index:04}", *each, seed=seed + index) for index, each in enumerate(drawn)]


def _draw_kills_at_points(count: int, rng: np.random.Generator) -> Iterator[Drawn]:
    for index in range(count):
        point = list(PASSES)[index % len(PASSES)]
        nth = rng.integers(1, PASSES[point], endpoint=True)
        interruption = Interruption(-signal.SIGKILL, f"{point}:kill9@{nth}")
        saved = (_kill_after_save(int(rng.integers(1, 4))),) if point.startswith("restore") else ()
        yield f"kill -9 at {point}", (*saved, interruption), ""


def _draw_kills_at_times(
    count: int, unbroken_s: float, rng: np.random.Generator
) -> Iterator[Drawn]:
    """Two of three come while steps are made, one of three at any time from the first import on."""
    for index in range(count):
        anywhere = index % 3 == 2
        interruption = Interruption(
            -signal.SIGKILL,
            number=signal.SIGKILL,
            delay_s=rng.uniform(0, unbroken_s if anywhere else 1.5),
            from_beginning=anywhere,
        )
        yield "kill -9 at a random time", (interruption,) * int(rng.integers(1, 3)), ""


def _kill_after_save(save: int) -> Interruption:
    return Interruption(-signal.SIGKILL, f"checkpoint.after_commit:kill9@{save}")


def run_case(case: Case, site: Site) -> Verdict:
    """Runs the case to the end of its training and compares it with the unbroken run."""
    start = time.monotonic()
    workdir = site.runs / case.name
    shutil.rmtree(workdir, ignore_errors=True)
    ends: list[End] = []
    broken: list[str] = []
    for interruption in case.interruptions:
        ends.append(_start_and_interrupt(interruption, workdir, site))
        broken += _find_broken_promises(ends[-1], interruption, workdir)
    if case.damage:
        _damage_newest(Path(RunFolder(workdir).checkpoints), case)
    while len(ends) - len(case.interruptions) < MOST_STARTS:
        ends.append(finish(begin(site.data, workdir)))
        if ends[-1].code == 0:
            break
        broken.append(f"undisturbed it ended with {ends[-1].code}")
    if ends[-1].code == 0:
        broken.append(site.unbroken.differences(prove(workdir)))
    shutil.rmtree(workdir)
    codes = tuple(end.code for end in ends)
    return Verdict(
        case.name,
        case.kind,
        hit=any(codes[: len(case.interruptions)]),
        divergence="; ".join(filter(None, broken)),
        silent=bool(case.damage) and not any("is not usable" in end.said for end in ends),
        codes=codes,
        seconds=round(time.monotonic() - start, 1),
    )


def _start_and_interrupt(interruption: Interruption, workdir: Path, site: Site) -> End:
    """Starts the run, which the interruption ends unless the run ends first."""
    process = begin(site.data, workdir, faults=interruption.faults)
    if interruption.number is None:
        return finish(process)
    if not interruption.from_beginning:
        return interrupt(process, interruption.number, workdir, delay_s=interruption.delay_s)
    time.sleep(interruption.delay_s)
    process.send_signal(interruption.number)
    return finish(process)


def _find_broken_promises(end: End, interruption: Interruption, workdir: Path) -> Iterator[str]:
    if end.code not in (interruption.code, 0):
        yield f"ended with {end.code} and not with {interruption.code}"
    if end.code > 0 and end.complained.count("\n") != 1:
        yield f"complained in {end.complained.count(chr(10))} lines"
    if end.code == 73:
        good = checkpoint_folders.survey(RunFolder(workdir).checkpoints).good
        for step, metadata in good.items():
            checkpoint_folders.verify_files(RunFolder(workdir).checkpoints / str(step), metadata)
        if not good:
            yield "lost its checkpoints"


def _damage_newest(checkpoints: Path, case: Case) -> None:
    newest = max(int(path.name) for path in checkpoints.iterdir() if path.name.isdecimal())
    rng = np.random.default_rng(case.seed)
    found = [
        path
        for item in (checkpoint_folders.STATE, checkpoint_folders.METADATA)
        for path in list_files(checkpoints / str(newest) / item)
        if item == checkpoint_folders.STATE or path.name == item  # Orbax's notes hold no state
    ]
    damage_file(found[rng.integers(len(found))], case.damage, rng)


def list_files(folder: Path) -> list[Path]:
    """Lists the files that are not empty."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def damage_file(path: Path, damage: str, rng: np.random.Generator) -> None:
    """Does one of DAMAGES to a file."""
    content = bytearray(path.read_bytes())
    match damage:
        case "flipped bit":
            content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
            path.write_bytes(content)
        case "truncation":
            path.write_bytes(content[: rng.integers(len(content))])
        case _:
            path.unlink()
