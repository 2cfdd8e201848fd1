"""Kills and damages small runs, fills their disk, and compares them with an undisturbed run.

    python -m tests.campaigns.faults --kills 28 --seed 0 --out DIR       make faults

Every case trains with the real command in new processes until it is complete. The verdicts are
stored in DIR/verdicts.jsonl, so that a stopped campaign resumes with the next case. The table is
written to docs/reliability.md; the exit code is 1 if any case diverged.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines import files, manifest
from gap_jax.errors import CheckpointError
from gap_jax.flags import read_config
from gap_jax.learning.setup import assemble
from gap_jax.runtime import rundir
from gap_jax.runtime.checkpoint import Checkpoints
from gap_jax.runtime.digests import describe, name_leaves
from gap_jax.runtime.places import RunDir
from tests.campaigns.cases import (
    DAMAGES,
    Site,
    Verdict,
    damage_file,
    draw_cases,
    list_files,
    run_case,
)
from tests.campaigns.kept import identify, keep_rows, read_rows
from tests.campaigns.table import write_table
from tests.support.tiny_data import prepare_tiny_people
from tests.support.tiny_training import ROOT, SPEC, STEPS, Proof, overrides, prove, train

PROGRAM = "tests.campaigns.faults"
PAGE = ROOT / "docs" / "reliability.md"
LOADS = 20  # of a damaged checkpoint, for each killed run


class Unbroken(NamedTuple):
    """The undisturbed run, and its seconds with a warm compilation cache."""

    proof: Proof
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the cases of the campaign that are left."""
    parser = argparse.ArgumentParser(prog=f"python -m {PROGRAM}", description=__doc__)
    parser.add_argument("--kills", type=int, default=28, help="runs that are killed")
    parser.add_argument("--seed", type=int, default=0, help="seed of the cases")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and verdicts")
    parser.add_argument("--page", type=Path, default=PAGE, help="page with the table")
    options = parser.parse_args(arguments)
    out = options.out.absolute()
    head = identify(kills=options.kills, seed=options.seed)
    verdicts = [Verdict(**row) for row in read_rows(out, head)]
    unbroken = train_unbroken(out)
    site = Site(out / "data", out / "cache", out / "runs", unbroken.proof)
    for case in draw_cases(options.kills, options.seed, unbroken.seconds):
        if case.name not in {each.name for each in verdicts}:
            verdicts.append(run_case(case, site))
            keep_rows(out, head, [each._asdict() for each in verdicts])
            print(json.dumps(verdicts[-1]._asdict()), flush=True)
    in_place = list(damage_in_place(out, options.kills * LOADS, options.seed))
    command = f"python -m {PROGRAM} --kills {options.kills} --seed {options.seed} --out DIR"
    write_table(options.page, [*verdicts, *in_place], command)
    failed = [each for each in (*verdicts, *in_place) if each.divergence or each.silent]
    for each in failed:
        print(f"{each.name}: {each.kind}: {each.divergence or 'silent'}", file=sys.stderr)
    return 1 if failed else 0


def train_unbroken(out: Path) -> Unbroken:
    """Trains twice, the second time from the compilation cache, which must not change a bit."""
    place = out / "unbroken.json"
    if not place.exists():
        for name in ("data", "cache", "unbroken", "again"):
            shutil.rmtree(out / name, ignore_errors=True)
        prepare_tiny_people(out / "data")
        for name in ("unbroken", "again"):
            start = time.monotonic()
            end = train(out / "data", out / name, cache=out / "cache")
            seconds = time.monotonic() - start
            if end.code:
                raise SystemExit(f"undisturbed it ended with {end.code}: {end.complained}")
        proof = prove(out / "unbroken")
        if differences := proof.differences(prove(out / "again")):
            raise SystemExit(f"two undisturbed runs differ in {differences}")
        files.write_atomically(place, json.dumps({"proof": proof._asdict(), "seconds": seconds}))
    held = json.loads(place.read_text("utf-8"))
    proof = {**held["proof"], "ledger": tuple(held["proof"]["ledger"])}
    return Unbroken(Proof(**proof), held["seconds"])


def damage_in_place(out: Path, count: int, seed: int) -> Iterator[Verdict]:
    """Damages one file after another of the last checkpoint; none may then load as good.

    Loading the saved values is allowed: a flipped bit may turn 1e-05 into 1E-05.
    """
    cfg = read_config(SPEC, overrides(out / "data"))
    target = assemble(cfg, manifest.load(out / "data")).target
    run = RunDir(out / "unbroken")
    folder, run_id = Path(run.checkpoints), rundir.load_manifest(run)["run_id"]
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
