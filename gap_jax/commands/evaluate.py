"""`gap_jax evaluate RUN`: scores a trained model on a split of its data."""

import argparse
import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax

from data_pipelines import manifest as data_manifest
from data_pipelines.config import CROPS
from data_pipelines.core import files
from data_pipelines.core.errors import CannotWrite, ConfigError, DataError
from gap_jax.commands.arguments import Parser, checkpoint, parse, path_ending
from gap_jax.evaluation import evaluate, submission
from gap_jax.flags import read_config
from gap_jax.learning.setup import check_clips
from gap_jax.learning.sharding import evaluation_mesh, replicated
from gap_jax.learning.steps import jit_eval_step
from gap_jax.runtime.bucket.workdir import open_for_reading
from gap_jax.runtime.processes.group import ALONE, Processes
from gap_jax.runtime.run_folder import RunFolder
from gap_jax.saved.model import Opened, open_model, open_weights

DESCRIPTION = """Scores every image of a split, without the limit eval.max_examples, with averaged
parameters if the run keeps an average. The last line printed is one JSON object. The scores and a
table of the classes are written to --out, for a run to RUN/eval if that can be written. With
--submission only that file is written, and the split needs no labels."""


def run(
    words: Sequence[str], processes: Processes = ALONE, examine: Callable[[Path], object] = bool
) -> None:
    """Runs `gap_jax evaluate` in each of several processes; `examine` may refuse the folder."""
    parser = Parser(prog="gap_jax evaluate", description=DESCRIPTION, takes_config=True)
    parser.add_argument(
        "model", metavar="RUN",
        help="a run or an exported model, by its folder or its address in a bucket, or a file of "
        "weights",
    )  # fmt: skip
    parser.add_argument(
        "--config", metavar="FILE[:parts]",
        help="the config of a file of weights, such as a converted release; fields can be "
        "overridden with --config.group.field=value",
    )  # fmt: skip
    parser.add_argument("--split", help="split to score; default: the run's data.eval_split")
    parser.add_argument(
        "--checkpoint", type=checkpoint, default="best", metavar="best|latest|STEP",
        help="which step of the run; best (default) has the highest mAP, then accuracy",
    )  # fmt: skip
    parser.add_argument(
        "--crops", choices=tuple(CROPS),
        help="crops whose scores are averaged; default: the run's data.eval_crops",
    )  # fmt: skip
    parser.add_argument(
        "--flip", action=argparse.BooleanOptionalAction, default=None,
        help="average over mirrored crops too; default: the run's data.eval_flip",
    )  # fmt: skip
    parser.add_argument(
        "--data", type=Path, metavar="DIR",
        help="prepared data: where the run's own lie now, or others with the same class names",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="DIR",
        help="new folder for the scores and the table; default: of a run, one under RUN/eval",
    )  # fmt: skip
    parser.add_argument(
        "--submission", type=path_ending(".mat"), metavar="FILE.mat",
        help="new file for the probabilities of every image, as MPII's organisers take them",
    )  # fmt: skip
    options = parse(parser, words)
    if options.submission and options.out:
        raise ConfigError("--out has no effect with --submission; remove one of them")
    with open_for_reading(options.model, processes) as workdir:
        options.model = workdir.folder
        examine(workdir.folder)
        _evaluate(options, processes, workdir.display)


def _evaluate(
    options: argparse.Namespace, processes: Processes, display: Callable[[str], str]
) -> None:
    opened = _open(options)
    origin = opened.origin
    split = options.split or opened.cfg.data.eval_split
    trained_on = opened.cfg.data
    opened = _choose_views(opened, options)
    protocol = evaluate.Protocol.of(opened.cfg)
    place, data = _open_data(opened, options.data)
    if options.submission:
        _submit(options.submission, opened, split, place, data, processes, display)
        return
    is_other = data.fingerprint != origin.fingerprint
    default = None
    if options.config is None and not opened.is_exported:
        default = RunFolder(opened.source).scores(split, origin.step)
        if opened.cfg.data != trained_on:
            default = default.with_name(f"{default.name}-{protocol.views}")
        if is_other:
            default = default.with_name(f"{default.name}-{data.fingerprint}")
    folder = options.out or default
    with ExitStack() as held:
        option = "--out" if options.out is not None else ""
        is_kept = processes.broadcast(
            "out", lambda: folder is not None and _lock(folder, held, display, option=option)
        )
        scores, summary = _summarise(opened, split, place, data, processes)
        if not processes.is_first:
            return
        skipped = data_manifest.describe_skipped(
            opened.classes, evaluate.count_positives(scores), split
        )
        print(
            f"{display(str(opened.source))}: step {origin.step:,}, {origin.weights} weights, "
            f"{summary['examples']:,} {'' if protocol.counts_unlabelled else 'labelled '}images of "
            f"{split}{f' of {place} ({data.fingerprint})' if is_other else ''}"
            f"{skipped and f'; {skipped}'}"
        )
        try:
            if is_kept and folder is not None:
                evaluate.store(folder, scores, summary, opened.classes, protocol)
                print(f"scores, metrics and classes are in {display(str(folder))}")
        finally:  # even if the disk is full
            print(json.dumps(summary, allow_nan=False))


def _choose_views(opened: Opened, options: argparse.Namespace) -> Opened:
    """Applies --crops and --flip; refuses several views for a model that reads boxes of one."""
    given = {"eval_crops": options.crops, "eval_flip": options.flip}
    changed = {name: value for name, value in given.items() if value is not None}
    views = dataclasses.replace(opened.cfg.data, **changed)
    if opened.cfg.reads_boxes and views.eval_views > 1:
        fix = [f"--crops {views.eval_crops}"] * (views.eval_crops != "center")
        fix += ["--flip"] * views.eval_flip
        raise ConfigError(
            f"{opened.source} reads boxes of one view of a picture; leave out {' and '.join(fix)}"
        )
    return dataclasses.replace(opened, cfg=dataclasses.replace(opened.cfg, data=views))


def _submit(
    path: Path,
    opened: Opened,
    split: str,
    place: Path,
    data: data_manifest.Manifest,
    processes: Processes,
    display: Callable[[str], str],
) -> None:
    """Writes the predictions of every image of a split, labelled or not, for MPII's organisers."""
    with ExitStack() as held:
        processes.broadcast("submission", lambda: _lock(path, held, display, option="--submission"))
        sample_ids = submission.read_sample_ids(place, split, data)
        scores = _score(opened, split, place, data, processes)
        if not processes.is_first:
            return
        submission.write(path, sample_ids[scores.ids], opened.classes, scores.logits)
    examples, classes = scores.logits.shape
    print(
        f"{display(str(opened.source))}: step {opened.origin.step:,}, {opened.origin.weights} "
        f"weights; predictions for {examples:,} images of {split} of {place} are in {path}"
    )
    views = evaluate.Protocol.of(opened.cfg).views
    summary = {"submission": str(path), "examples": examples, "classes": classes, "views": views}
    print(json.dumps(summary))


def _lock(folder: Path, held: ExitStack, display: Callable[[str], str], *, option: str) -> bool:
    """Locks the output before scoring; without an `option` returns False if it cannot be kept."""
    try:
        held.enter_context(files.locked(folder))
    except CannotWrite as refusal:
        if option:
            raise
        print(f"warning: the scores will not be kept ({display(str(refusal))}), or set --out DIR")
        return False
    if option and os.path.lexists(folder):
        raise CannotWrite(f"{folder} exists already and stays untouched; choose another {option}")
    return True


def _open(options: argparse.Namespace) -> Opened:
    if options.config is None:
        if options.overrides:
            raise ConfigError(
                f"{options.overrides[0]} belongs to a file of weights with --config=FILE; "
                "a run keeps its own config"
            )
        return open_model(options.model, checkpoint=options.checkpoint)
    cfg = read_config(options.config, options.overrides)
    data = _load_manifest(options.data or cfg.data.directory, options.config)
    return open_weights(options.model, cfg, data)


def _load_manifest(directory: Path, whose: object) -> data_manifest.Manifest:
    if not data_manifest.is_prepared(directory):
        raise DataError(
            f"no prepared data in {directory}, where {whose} found its own; "
            "name their place with --data DIR"
        )
    return data_manifest.load(directory)


def score_model(
    opened: Opened, split: str, directory: Path | None = None
) -> tuple[evaluate.Scores, dict[str, Any]]:
    """Returns the scores of a split and their summary; by default of the model's own data."""
    return _summarise(opened, split, *_open_data(opened, directory))


def _open_data(opened: Opened, directory: Path | None) -> tuple[Path, data_manifest.Manifest]:
    """Opens the named data, which may be others than the model's own if their classes agree."""
    place = directory or opened.cfg.data.directory
    data = _load_manifest(place, opened.source)
    opened.check_data(data, is_named=directory is not None)
    check_clips(opened.cfg, data)
    return place, data


def _summarise(
    opened: Opened,
    split: str,
    place: Path,
    data: data_manifest.Manifest,
    processes: Processes = ALONE,
) -> tuple[evaluate.Scores, dict[str, Any]]:
    """Scores a split; of data other than the model's own the summary has the fingerprint."""
    scores = _score(opened, split, place, data, processes)
    summary = evaluate.summarise(scores, evaluate.Protocol.of(opened.cfg))
    if data.fingerprint != opened.origin.fingerprint:
        summary["fingerprint"] = data.fingerprint
    return scores, summary


def _score(
    opened: Opened, split: str, place: Path, data: data_manifest.Manifest, processes: Processes
) -> evaluate.Scores:
    """Scores every image of a split; labels are named by the classes of the model."""
    own = opened.cfg.data
    settings = dataclasses.replace(own, eval_split=split, held_out=0.0, root=str(place)).resolved()
    mesh = evaluation_mesh(opened.cfg, processes.count)
    folded = opened.fold()
    scores = evaluate.score_split(
        dataclasses.replace(opened.cfg, data=settings),
        data,
        jit_eval_step(folded.model, mesh, settings.eval_views),
        jax.device_put(jax.device_get(folded.variables), replicated(mesh)),
        mesh,
        process=processes.index_and_count,
        after_batch=processes.heartbeat,  # compiling the first may take longer
    )
    if scores is None:
        raise AssertionError("without is_stopping nothing ends an evaluation early")
    return evaluate.reorder_labels(scores, [opened.classes.index(name) for name in data.classes])
