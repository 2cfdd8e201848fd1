"""`gap_jax train --config=FILE[:parts]`: trains, or evaluates, in one of several processes."""

import contextlib
import json
import os
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from absl import app, flags, logging

from data_pipelines import manifest, records
from data_pipelines.config import DATASETS, OWN_PHOTOS, VIDEOS, DataConfig
from data_pipelines.core.errors import ConfigError, DataError
from gap_jax import process
from gap_jax.config import Config
from gap_jax.flags import explain, find_spec, parse, resolve
from gap_jax.runtime.processes.group import ALONE, Processes
from gap_jax.runtime.processes.rendezvous import Rendezvous, find_rendezvous
from gap_jax.variants import KINDS, PARTS

USAGE = """python -m gap_jax.main --config=FILE[:part,part...] [--workdir=DIR]
                       [--mode=train|evaluate] [--config.group.field=value ...]

  --config   a file in configs/; parts, in any order: a method (mean attention attention_pose gap
             gap_pose max second_order compact_bilinear pose_parts), a data set (mpii people
             objects hico stanford40 voc_action hmdb51 folder csv), a scale (full demo), a recipe
             (ours; reference: what AP's released code does); of hico: a method, a recipe; of
             photos: a method, and frozen or full (train the backbone too); of hmdb51: a method,
             and split1, split2 or split3
  --workdir  folder of the run, runs/ and the config's name by default, or an address in a bucket,
             gs://BUCKET/RUN; the same command there goes on where an earlier one stopped
  --mode     train (default); evaluate: score the best checkpoint of the run in --workdir
  --coordinator=HOST:PORT --processes=N --process=I
             one of N processes that train together, each on its host, with the same command; under
             SLURM's srun, Open MPI and on GKE's TPUs they find each other, and --processes=auto
             lets JAX ask the machine (Cloud TPU pods); see launch/

Fields, with the paper's defaults:
"""

PREPARE = {
    "mpii": "gap_jax data prepare mpii --annotations mpii_human_pose_v1_u12_1.mat --images images "
    "--splits lists",
    "people": "gap_jax data prepare people",
    "objects": "gap_jax data prepare objects",
    "crowd": "gap_jax data prepare crowd",
    "hico": "gap_jax data prepare hico --anno anno.mat --images images",
    "stanford40": "gap_jax data prepare stanford40 --root Stanford40",
    "voc_action": "gap_jax data prepare voc_action --root VOCdevkit/VOC2012",
    "folder": "gap_jax data prepare folder --root PHOTOS",
    "hmdb51": "gap_jax data prepare hmdb51 --splits testTrainMulti_7030_splits --videos VIDEOS "
    "--split 1",
    "csv": "gap_jax data prepare csv --csv LABELS.csv --root PHOTOS",
}
DEMO = "configs/gap_pose.py:demo"
PROCESS_FLAGS = {
    "coordinator": "HOST:PORT of the first of several processes",
    "processes": "number of processes that train together, or auto",
    "process": "index of this process",
}
MODES = ("train", "evaluate")
FLAGS = {
    "workdir": "folder of the run, or an address in a bucket",
    "mode": "train, or score the best checkpoint of the run in --workdir",
    **PROCESS_FLAGS,
}


def run(words: Sequence[str]) -> int:
    """Runs `gap_jax train` with its arguments."""
    if any(word in ("--help", "-h", "-help", "--helpfull", "--helpshort") for word in words):
        print(USAGE + explain(Config()))
        return 0
    argv = ["gap_jax.main", *words]
    own = flags.FlagValues()
    for name, text in FLAGS.items():
        if name != "mode":
            flags.DEFINE_string(name, "", text, flag_values=own)
    flags.DEFINE_enum("mode", MODES[0], list(MODES), FLAGS["mode"], flag_values=own)
    start = partial(_start, own, spec=find_spec(argv)[1])
    app.run(start, argv=argv, flags_parser=partial(parse, own=own))
    raise AssertionError("absl's app.run ends in SystemExit")


def _start(own: flags.FlagValues, argv: Sequence[str], *, spec: str) -> int:
    del argv  # parse has refused unknown arguments
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # TFDS and JAX log each step of their start
    cfg = resolve(own["config"].value)
    workdir = own["workdir"].value or name_workdir(spec)
    if "://" in workdir:
        _check_address(workdir)
    given = {name: str(own[name].value) for name in PROCESS_FLAGS}
    rendezvous = find_rendezvous(**given, environment=os.environ)
    evaluates = own["mode"].value == "evaluate"
    if rendezvous is None and not evaluates:
        limit_s = float(cfg.runtime.start_within_s)
        process.limit_start(limit_s, lambda: ALONE.last_heartbeat is not None)
    with _join(rendezvous, cfg, saves=not evaluates) as processes:
        check_data(cfg.data, spec)
        if evaluates:
            _evaluate(cfg, workdir, processes)
            return 0
        from gap_jax.train import train  # imports jax; errors above need not wait for it

        summary = train(cfg, workdir, processes)
    if processes.is_first:
        print(json.dumps(summary, allow_nan=False))
    return 0


def _join(
    rendezvous: Rendezvous | None, cfg: Config, *, saves: bool
) -> contextlib.AbstractContextManager[Processes]:
    if rendezvous is None:
        return contextlib.nullcontext(ALONE)
    from gap_jax.runtime.processes.initialise import initialised

    return initialised(rendezvous, cfg.runtime, saves=saves)


def _evaluate(cfg: Config, workdir: str, processes: Processes) -> None:
    from gap_jax.commands import evaluate
    from gap_jax.learning.length import resolve_length
    from gap_jax.runtime import run_folder
    from gap_jax.runtime.processes import agreement

    known = manifest.load(cfg.data.directory)
    cfg = resolve_length(cfg, known)
    agreement.check_same_settings(processes, cfg, known, workdir)
    words = [workdir, "--split", cfg.data.eval_split, "--data", str(cfg.data.directory)]
    # refuses the run of another config
    evaluate.run(words, processes, lambda folder: run_folder.examine(folder, cfg, known))


def name_workdir(spec: str) -> str:
    """Returns a run's default folder, such as runs/gap_pose-attention-demo."""
    file, _, parts = spec.partition(":")
    return str(Path("runs") / "-".join([Path(file).stem, *filter(None, parts.split(","))]))


def _check_address(workdir: str) -> None:
    """Refuses an address before JAX is imported and the processes connect."""
    from gap_jax.runtime.bucket.store import LOCAL, Store

    if workdir.partition("://")[0] not in (*LOCAL, "gs", "s3"):
        raise ConfigError(f"{workdir} cannot hold checkpoints; use gs://BUCKET/RUN or a path")
    Store(workdir)


def check_data(data: DataConfig, spec: str) -> None:
    """Refuses a run whose records are absent, damaged or of another data set."""
    folder = data.directory
    if not manifest.is_prepared(folder):
        hint = f"{PREPARE[data.name]} --out {shlex.quote(str(folder))}"
        if data.name == "mpii":
            people = f"{PREPARE['people']} --out data/people"
            hint += f"; without MPII, try the drawn people: {people} and --config={DEMO}"
        raise DataError(f"no prepared data in {folder} (data.root): run {hint}")
    found = manifest.load(folder)
    if found.name != data.name and not {found.name, data.name} <= set(OWN_PHOTOS):
        raise ConfigError(
            f"data.name={data.name} and {folder} holds {found.name}; "
            f"{_advise_data(found.name, data.name, spec)}set data.root to a folder of {data.name}"
        )
    for split in (data.train_split, data.eval_split):
        records.open_split(folder, split, found)


def _advise_data(name: str, wanted: str, spec: str) -> str:
    """Proposes a config with the data set `name` instead of `wanted`, if there is one."""
    if name not in DATASETS:
        return ""
    file, _, parts = spec.partition(":")
    if name in VIDEOS:
        return f"use --config={name}, or "
    kept = [part for part in parts.split(",") if part and part not in DATASETS]
    better = f"{file}:{','.join([name, *kept])}"
    if wanted in (*OWN_PHOTOS, *VIDEOS) or "data" not in PARTS.get(Path(file).stem, KINDS):
        better = f"gap_pose:{name}"
    if name in OWN_PHOTOS:
        better = "photos"
    return f"use --config={better}, set data.name={name}, or "
