"""The mishaps of a run: how each is drawn from a seed, and how it is inflicted."""

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

# The fault points a run passes, and how often one that nobody disturbs does so.
PASSAGES = {
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


class Blow(NamedTuple):
    """What ends a start before its time: a fault point, or a signal after some seconds.

    These are counted from the first step that the start reports, or from its very beginning.
    """

    code: int
    faults: str = ""
    number: signal.Signals | None = None
    delay_s: float = 0.0
    from_beginning: bool = False


class Case(NamedTuple):
    """One run: a blow for each of its first starts, then perhaps damage to what they saved."""

    name: str
    kind: str
    blows: tuple[Blow, ...]
    damage: str = ""
    seed: int = 0


Drawn = tuple[str, tuple[Blow, ...], str]


class Verdict(NamedTuple):
    """What came of a case.

    `hit` says whether a blow fell before the run was over, `divergence` in what the run then
    differs from an unbroken one or from what was promised, `silent` whether damage went unsaid.
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
    """`kills` runs that are killed, half of them at fault points, and a share of other mishaps."""
    rng = np.random.default_rng(seed)
    others = max(1, kills // 10)
    drawn = [
        *_draw_kills_at_points(kills // 2, rng),
        *_draw_kills_at_times(kills - kills // 2, unbroken_s, rng),
    ]
    for number in (signal.SIGTERM, signal.SIGINT):
        blows = [Blow(75, number=number, delay_s=rng.uniform(0, 1)) for _ in range(others)]
        drawn += [(number.name, (blow,), "") for blow in blows]
    for damage in DAMAGES:
        drawn += [(f"{damage} in the newest checkpoint", (_kill_after_save(3),), damage)] * others
    for point, first, last in (("checkpoint.begin", 2, 4), ("files.before_rename", 8, 11)):
        passages = rng.integers(first, last, others, endpoint=True)
        blows = [Blow(73, f"{point}:enospc@{passage}") for passage in passages]
        drawn += [("disk full", (blow,), "") for blow in blows]
    return [Case(f"{index:04}", *each, seed=seed + index) for index, each in enumerate(drawn)]


def _draw_kills_at_points(count: int, rng: np.random.Generator) -> Iterator[Drawn]:
    for index in range(count):
        point = list(PASSAGES)[index % len(PASSAGES)]
        passage = rng.integers(1, PASSAGES[point], endpoint=True)
        blow = Blow(-signal.SIGKILL, f"{point}:kill9@{passage}")
        saved = (_kill_after_save(int(rng.integers(1, 4))),) if point.startswith("restore") else ()
        yield f"kill -9 at {point}", (*saved, blow), ""


def _draw_kills_at_times(
    count: int, unbroken_s: float, rng: np.random.Generator
) -> Iterator[Drawn]:
    """Two of three fall while steps are made, one of three anywhere from the first import on."""
    for index in range(count):
        anywhere = index % 3 == 2
        blow = Blow(
            -signal.SIGKILL,
            number=signal.SIGKILL,
            delay_s=rng.uniform(0, unbroken_s if anywhere else 1.5),
            from_beginning=anywhere,
        )
        yield "kill -9 at a random time", (blow,) * int(rng.integers(1, 3)), ""


def _kill_after_save(save: int) -> Blow:
    return Blow(-signal.SIGKILL, f"checkpoint.after_commit:kill9@{save}")


def suffer(case: Case, site: Site) -> Verdict:
    """Runs the case to the end of its training and compares it with the unbroken run."""
    began = time.monotonic()
    workdir = site.runs / case.name
    shutil.rmtree(workdir, ignore_errors=True)
    ends: list[End] = []
    troubles: list[str] = []
    for blow in case.blows:
        ends.append(_strike(blow, workdir, site))
        troubles += _look_for_trouble(ends[-1], blow, workdir)
    if case.damage:
        _damage_newest(Path(RunFolder(workdir).checkpoints), case)
    while len(ends) - len(case.blows) < MOST_STARTS:
        ends.append(finish(begin(site.data, workdir)))
        if ends[-1].code == 0:
            break
        troubles.append(f"undisturbed it ended with {ends[-1].code}")
    if ends[-1].code == 0:
        troubles.append(site.unbroken.differences(prove(workdir)))
    shutil.rmtree(workdir)
    codes = tuple(end.code for end in ends)
    return Verdict(
        case.name,
        case.kind,
        hit=any(codes[: len(case.blows)]),
        divergence="; ".join(filter(None, troubles)),
        silent=bool(case.damage) and not any("is not usable" in end.said for end in ends),
        codes=codes,
        seconds=round(time.monotonic() - began, 1),
    )


def _strike(blow: Blow, workdir: Path, site: Site) -> End:
    """A start that the blow ends, unless it is over before."""
    process = begin(site.data, workdir, faults=blow.faults)
    if blow.number is None:
        return finish(process)
    if not blow.from_beginning:
        return interrupt(process, blow.number, workdir, delay_s=blow.delay_s)
    time.sleep(blow.delay_s)
    process.send_signal(blow.number)
    return finish(process)


def _look_for_trouble(end: End, blow: Blow, workdir: Path) -> Iterator[str]:
    if end.code not in (blow.code, 0):
        yield f"ended with {end.code} and not with {blow.code}"
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
    harm(found[rng.integers(len(found))], case.damage, rng)


def list_files(folder: Path) -> list[Path]:
    """Every file that holds something."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def harm(path: Path, damage: str, rng: np.random.Generator) -> None:
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
