"""Kills and damages small runs, fills their disk, and compares their end with an unbroken run.

    python -m tests.campaigns.faults --kills 28 --seed 0 --out DIR       make faults

Every case trains by the real command, in processes of its own, until it is done. The verdicts are
kept in DIR/verdicts.jsonl: a campaign that is stopped continues with the next case. At its end it
writes its table into docs/reliability.md, and the exit code is 1 if any case diverged.
"""

import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines import manifest
from data_pipelines.core import files
from data_pipelines.core.errors import CheckpointError
from gap_jax.flags import read_config
from gap_jax.learning.setup import assemble
from gap_jax.runtime import run_folder
from gap_jax.runtime.checkpoint import Checkpoints
from gap_jax.runtime.digests import describe, name_leaves
from gap_jax.runtime.run_folder import RunFolder
from tests.campaigns.cases import (
    DAMAGES,
    Site,
    Verdict,
    damage_file,
    draw_cases,
    list_files,
    run_case,
)
from tests.campaigns.kept import identify, judge, make_parser
from tests.campaigns.table import write_table
from tests.support.compiling import keep_compiled
from tests.support.tiny_data import prepare_tiny_people
from tests.support.tiny_training import SPEC, STEPS, Proof, overrides, prove, train

PROGRAM = "tests.campaigns.faults"
LOADS = 20  # damages of a saved step that are tried in place, for each killed run


class Unbroken(NamedTuple):
    """The run that all others are compared with, and its seconds without compilation."""

    proof: Proof
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the campaign, or the rest of it."""
    parser = make_parser(PROGRAM, __doc__)
    parser.add_argument("--kills", type=int, default=28, help="runs that are killed")
    asked = parser.parse_args(arguments)
    out = asked.out.absolute()
    keep_compiled(out / "compiled")
    head = identify(kills=asked.kills, seed=asked.seed)
    unbroken = train_unbroken(out)
    site = Site(out / "data", out / "runs", unbroken.proof)
    cases = draw_cases(asked.kills, asked.seed, unbroken.seconds)
    verdicts = judge(out, head, cases, Verdict, lambda case: run_case(case, site))
    in_place = list(damage_in_place(out, asked.kills * LOADS, asked.seed))
    command = f"python -m {PROGRAM} --kills {asked.kills} --seed {asked.seed} --out DIR"
    write_table(asked.page, [*verdicts, *in_place], command)
    failed = [each for each in (*verdicts, *in_place) if each.divergence or each.silent]
    for each in failed:
        print(f"{each.name}: {each.kind}: {each.divergence or 'silent'}", file=sys.stderr)
    return 1 if failed else 0


def train_unbroken(out: Path) -> Unbroken:
    """Trains twice, the second time with cached programs, which must not change a bit."""
    path = out / "unbroken.json"
    if not path.exists():
        for name in ("data", "compiled", "unbroken", "again"):
            shutil.rmtree(out / name, ignore_errors=True)
        prepare_tiny_people(out / "data")
        for name in ("unbroken", "again"):
            start = time.monotonic()
            end = train(out / "data", out / name)
            seconds = time.monotonic() - start
            if end.code:
                raise SystemExit(f"the unbroken run ended with {end.code}: {end.complained}")
        proof = prove(out / "unbroken")
        if differences := proof.differences(prove(out / "again")):
            raise SystemExit(f"two unbroken runs differ in {differences}")
        files.write_atomically(path, json.dumps({"proof": proof._asdict(), "seconds": seconds}))
    held = json.loads(path.read_text("utf-8"))
    proof = {**held["proof"], "step_log": tuple(held["proof"]["step_log"])}
    return Unbroken(Proof(**proof), held["seconds"])


def damage_in_place(out: Path, count: int, seed: int) -> Iterator[Verdict]:
    """Damages one file after the other of the unbroken run's last step; each load must fail.

    A load that equals the saved state is allowed: a flipped bit may turn 1e-05 into 1E-05.
    """
    cfg = read_config(SPEC, overrides(out / "data"))
    target = assemble(cfg, manifest.load(out / "data")).target
    run = RunFolder(out / "unbroken")
    folder, run_id = Path(run.checkpoints), run_folder.load_record(run)["run_id"]
    found, rng = list_files(folder / str(STEPS)), np.random.default_rng(seed)
    with Checkpoints(folder, warn=print, run_id=run_id) as checkpoints:
        good = checkpoints.load(STEPS, target)
        for index in range(count):
            path, damage = found[index % len(found)], DAMAGES[rng.choice(3, p=(0.8, 0.1, 0.1))]
            content = path.read_bytes()
            damage_file(path, damage, rng)
            try:
                loaded = checkpoints.load(STEPS, target)
                same = describe(name_leaves(loaded.state)) == describe(name_leaves(good.state))
                silent = not same or loaded.metadata != good.metadata
            except CheckpointError:
                silent = False
            path.write_bytes(content)
            kind = f"{damage} in any file, loaded"
            yield Verdict(f"load {index}", kind, True, "", silent, (), 0.0)


if __name__ == "__main__":
    sys.exit(main())
