"""Trains two layers on tiny people by the real command, in processes that may be killed."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gap_jax.runtime import checkpoint_folders
from gap_jax.runtime.run_folder import RunFolder
from tests.support.compiling import FAST_COMPILING
from tests.support.forking import Forked

ROOT = Path(__file__).parents[2]
SPEC = "configs/gap_pose.py:demo"
STEPS, SAVED_EVERY, EVALUATED_EVERY = 12, 3, 6
FIELDS = (
    "data.image_size_px=32", "data.short_side_px=36", "data.workers=0", "model.stage=2",
    "model.widths=(8,4)", "model.dropout=0.5", "pose.hidden=(6,)", "init.weights=",
    "init.allow_random=true", "optim.warmup_steps=2", "train.batch_size=8", "train.ema_decay=0.9",
    f"train.steps={STEPS}", f"eval.every_steps={EVALUATED_EVERY}", "eval.batch_size=8",
    f"checkpoint.every_steps={SAVED_EVERY}",
)  # fmt: skip
LONGEST_S = 300

Program = subprocess.Popen[str] | Forked


class End(NamedTuple):
    """The end of a process: exit code, stdout and stderr; killed by signal n its code is -n."""

    code: int
    said: str
    complained: str


class Proof(NamedTuple):
    """The content of a run that must be equal to the bit in an equal run."""

    leaves: Mapping[str, str]
    step_log: tuple[str, ...]
    evaluations: Mapping[str, str]

    def differences(self, other: "Proof") -> str:
        """Names the first few differences; empty if there are none."""
        names: list[str] = []
        for mine, theirs in ((self.leaves, other.leaves), (self.evaluations, other.evaluations)):
            names += [key for key in sorted({*mine, *theirs}) if mine.get(key) != theirs.get(key)]
        if self.step_log != other.step_log:
            names.append(f"step_log ({len(self.step_log)} and {len(other.step_log)} rows)")
        return ", ".join(names[:5])


def overrides(data: Path, *fields: str) -> list[str]:
    """Returns arguments for the config's fields; of a field the last value counts."""
    values = dict(each.split("=", 1) for each in (*FIELDS, f"data.root={data}", *fields))
    return [f"--config.{name}={value}" for name, value in values.items()]


def begin(
    data: Path,
    workdir: Path | str,
    *fields: str,
    faults: str = "",
    words: Sequence[str] = (),
    devices: int = 1,
    program: Sequence[str] = ("-m", "gap_jax.main"),
    forked: bool = False,
) -> Program:
    """Starts the command, which generates code without optimisation, as compiling takes longest."""
    environment = {
        **os.environ,
        "GAP_JAX_FAULTS": faults,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{FAST_COMPILING} --xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, *program, f"--config={SPEC}", f"--workdir={workdir}"]
    command += [*words, *overrides(data, *fields)]
    if forked:
        return Forked(command, environment)
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process: Program) -> End:
    """Waits for the process."""
    said, complained = process.communicate(timeout=LONGEST_S)
    assert process.returncode is not None
    return End(process.returncode, said, complained)


def train(data: Path, workdir: Path, *fields: str, **options: Any) -> End:
    """Runs the command to its end."""
    return finish(begin(data, workdir, *fields, **options))


def interrupt(
    process: Program,
    number: signal.Signals,
    workdir: Path,
    *,
    delay_s: float,
) -> End:
    """Sends a signal `delay_s` after the run reports a step; it may have ended before."""
    step_log = RunFolder(workdir).step_log
    before = _look_at(step_log)
    while process.poll() is None:
        time.sleep(0.01)
        now = _look_at(step_log)
        if now[0] == before[0] and now[1] > before[1]:
            break
        before = now
    time.sleep(delay_s)
    process.send_signal(number)
    return finish(process)


def _look_at(file: Path) -> tuple[int, int]:
    """Returns the file's inode, which changes when a start cuts it, and its size."""
    if not file.exists():
        return 0, 0
    status = file.stat()
    return status.st_ino, status.st_size


def prove(workdir: Path, step: int = STEPS) -> Proof:
    """Reads the digests of every leaf after `step` updates, the step log and all evaluations."""
    run = RunFolder(workdir)
    folder = run.checkpoints / str(step)
    metadata = checkpoint_folders.read_metadata(folder)
    checkpoint_folders.verify_files(folder, metadata)
    evaluations = {
        str(path.relative_to(run.evaluation)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.evaluation.rglob("*"))
        if path.is_file()
    }
    step_log = tuple(run.step_log.read_text("utf-8").splitlines())
    leaves = {name: leaf.sha256 for name, leaf in metadata.leaves.items()}
    return Proof(leaves, step_log, evaluations)
