"""Scores every stored example once; writes and reads scores, from which metrics are computed."""

import functools
import json
import math
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Bool, Float32, Int8, Int32, Int64

from data_pipelines import loader
from data_pipelines.config import VIDEOS
from data_pipelines.core import files
from data_pipelines.core.errors import DataError
from data_pipelines.example import PADDING_ID, UNLABELLED, HostBatch
from data_pipelines.feature_maps import FeatureMaps
from data_pipelines.manifest import Manifest
from gap_jax.config import Config, Ranking, Rule, Unknown
from gap_jax.evaluation import metrics
from gap_jax.learning.sharding import globalise
from gap_jax.learning.state import Variables
from gap_jax.learning.steps import EvalStep

FORMAT_VERSION = 1
SCORES_FILE, METRICS_FILE, CLASSES_FILE = "scores.npz", "metrics.json", "per_class.csv"


class Scores(NamedTuple):
    """One row for each stored example in the order of the records; `ids` are their positions.

    A row of weight 0 has no label: no metric counts it, and its single label is -1.
    """

    ids: Int64[np.ndarray, " n"]
    logits: Float32[np.ndarray, "n k"]
    labels: Int32[np.ndarray, " n"] | Int8[np.ndarray, "n k"]
    weights: Float32[np.ndarray, " n"]

    @property
    def is_labelled(self) -> Bool[np.ndarray, " n"]:
        """Returns whether each row has a label."""
        return self.weights > 0


class Protocol(NamedTuple):
    """The rule of average precision, the ranking scores, and whether unlabelled images count.

    `views` names the crops and frames behind the scores and changes no metric. `unknown` says which
    unknown labels are negatives, where images have several.
    """

    rule: Rule = "envelope"
    ranking: Ranking = "softmax"
    counts_unlabelled: bool = False
    views: str = "center"
    unknown: Unknown = "ignored"

    @classmethod
    def of(cls, cfg: Config) -> "Protocol":
        """Reads the protocol from a config."""
        frames = cfg.data.eval_frames if cfg.model.frames == 1 else cfg.model.frames
        return cls(
            cfg.eval.average_precision,
            cfg.eval.ranking,
            cfg.train.unlabelled == "reference",
            "+".join(
                [
                    cfg.data.eval_crops,
                    *["flip"] * cfg.data.eval_flip,
                    *[f"{frames}frames"] * (cfg.data.name in VIDEOS),
                ]
            ),
            cfg.eval.unknown,
        )

    def rank(self, scores: Scores) -> tuple[metrics.Scores, metrics.Labels]:
        """Returns the ranking scores and the labels of the counted rows."""
        counted = scores.is_labelled | self.counts_unlabelled
        labels = metrics.resolve_unknown(scores.labels[counted], self.unknown)
        return metrics.ranking_scores(scores.logits[counted], labels, self.ranking), labels


PAPER = Protocol()


def score_split(
    cfg: Config,
    data: Manifest,
    eval_step: EvalStep,
    variables: Variables,
    mesh: Mesh,
    *,
    process: tuple[int, int] = (0, 1),
    max_examples: int = 0,
    is_stopping: Callable[[], bool] = lambda: False,
    after_batch: Callable[[], None] = lambda: None,
    maps: FeatureMaps | None = None,
) -> Scores | None:
    """Scores the evaluated images once, or `max_examples` spread evenly over them; see `score`."""
    clip = cfg.model.frames
    with loader.evaluation_batches(
        cfg.data,
        data,
        batch_size=cfg.eval.batch_size,
        max_examples=max_examples,
        process=process,
        maps=maps,
        clip=clip,
        with_people=cfg.reads_boxes,
    ) as batches:
        return score(
            eval_step, variables, batches, mesh, is_stopping, after_batch,
            rows=loader.count_frames(cfg.data, data, clip),
        )  # fmt: skip


def score(
    eval_step: EvalStep,
    variables: Variables,
    batches: Iterable[HostBatch],
    mesh: Mesh,
    is_stopping: Callable[[], bool] = lambda: False,
    after_batch: Callable[[], None] = lambda: None,
    *,
    rows: int = 1,
) -> Scores | None:
    """Scores every example in the batches; returns None if `is_stopping` before the last one.

    An example of several `rows`, the frames of a video, has the mean of their logits.
    `batches` are this process's part of `evaluation_batches`; every process gets all the scores.
    The device computes one batch while the host reads the previous one.
    """
    read: list[Scores] = []
    unread: tuple[HostBatch, jax.Array] | None = None
    for batch in batches:
        if is_stopping():
            return None
        logits = eval_step(variables, globalise([batch], mesh))
        if unread:
            read.append(_read_rows(*unread))
        unread = batch, logits
        after_batch()
    if unread is None:
        raise DataError("the split has no image to evaluate; choose another split")
    read.append(_read_rows(*unread))
    scores = Scores(*(np.concatenate(fields) for fields in zip(*read, strict=True)))
    order = np.argsort(scores.ids, kind="stable")
    return average_rows(Scores(*(field[order] for field in scores)), rows)


def average_rows(scores: Scores, rows: int) -> Scores:
    """Averages the logits of the `rows` of each example, which lie one after the other."""
    first = Scores(*(field[::rows] for field in scores))
    if not np.array_equal(scores.ids, first.ids.repeat(rows)) or (np.diff(first.ids) == 0).any():
        raise RuntimeError(f"the loader gave an example twice, or not in {rows} rows")
    if rows == 1:
        return scores
    logits = scores.logits.reshape(-1, rows, scores.logits.shape[1])
    return first._replace(logits=logits.mean(1, dtype=np.float64).astype(np.float32))


def reorder_labels(scores: Scores, order: Sequence[int]) -> Scores:
    """Renames the class of each label: class k of the data is class order[k] of the logits."""
    labels, places = scores.labels, np.asarray(order)
    if labels.ndim == 2:
        return scores._replace(labels=labels[:, np.argsort(places)])
    renamed = np.where(labels == UNLABELLED, labels, places[labels]).astype(labels.dtype)
    return scores._replace(labels=renamed)


def summarise(
    scores: Scores, protocol: Protocol = PAPER, *, resamples: int = 1000
) -> dict[str, Any]:
    """Computes the metrics of an evaluation as a JSON object, with the protocol.

    `skipped_classes` counts classes without a positive, which no mean includes. `ci95` is the 95 %
    interval of mAP over test sets of this size (docs/method.md). Accuracies are None if images have
    several labels, and `top5` with five classes or fewer.
    """
    ranked, labels = protocol.rank(scores)
    precision = metrics.mean_average_precision(ranked, labels, protocol.rule)
    if not precision.counted:
        raise DataError(
            f"none of the {len(labels):,} labelled images is of any class; evaluate a split that "
            "has positives"
        )
    mean_ap = functools.partial(metrics.resampled_map, ranked, labels, rule=protocol.rule)
    interval = metrics.resample(mean_ap, len(labels), resamples=resamples).interval()
    is_single, classes = labels.ndim == 1, ranked.shape[1]
    return {
        "mAP": precision.mean,
        "accuracy": metrics.accuracy(ranked, labels) if is_single else None,
        "top5": metrics.accuracy(ranked, labels, 5) if is_single and classes > 5 else None,
        "classes": classes,
        "skipped_classes": classes - precision.counted,
        "examples": len(labels),
        "unlabelled": int((~scores.is_labelled).sum()),
        "ci95": None if math.isnan(interval.low) else [interval.low, interval.high],
        "rule": protocol.rule,
        "ranking": protocol.ranking,
        "views": protocol.views,
        **({} if is_single else {"unknown": protocol.unknown}),
    }


def count_positives(scores: Scores) -> list[int]:
    """Counts the labelled images of each class."""
    labels = scores.labels[scores.is_labelled]
    return metrics.positives_of(labels, scores.logits.shape[1]).sum(0).tolist()


def store(
    folder: Path,
    scores: Scores,
    summary: dict[str, Any],
    class_names: Sequence[str],
    protocol: Protocol = PAPER,
) -> None:
    """Writes scores.npz, metrics.json and per_class.csv, replacing the folder atomically."""
    rows = metrics.class_table(*protocol.rank(scores), class_names, protocol.rule)
    cells = (["" if cell != cell else cell for cell in row] for row in rows)  # empty for nan
    table = files.csv_table(metrics.ClassRow._fields, cells)
    text = json.dumps({"format_version": FORMAT_VERSION, **summary}, indent=1, allow_nan=False)
    with files.fresh_folder(folder) as partial:
        np.savez(partial / SCORES_FILE, format_version=np.int64(FORMAT_VERSION), **scores._asdict())
        (partial / METRICS_FILE).write_text(text + "\n", "utf-8")
        (partial / CLASSES_FILE).write_bytes(table)


def load_scores(folder: Path) -> Scores:
    """Reads scores that `store` wrote."""
    path = folder / SCORES_FILE
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            version = held["format_version"].item()
            scores = Scores(*(held[name] for name in Scores._fields))
    except FileNotFoundError as error:
        raise DataError(f"no scores in {folder}: it holds no {SCORES_FILE}") from error
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} is damaged ({type(error).__name__}: {error}); evaluate again"
        ) from error
    if version != FORMAT_VERSION or not _is_consistent(scores):
        raise DataError(f"{path} does not hold scores of format {FORMAT_VERSION}; evaluate again")
    return scores


def _read_rows(batch: HostBatch, logits: jax.Array) -> Scores:
    """Gathers the rows of a batch from all processes, without padding."""
    ids, labels, weights = multihost_utils.process_allgather(
        (batch.id, batch.label, batch.weight), tiled=True
    )
    if labels.ndim == 1:
        labels = np.where(weights > 0, labels, np.int32(UNLABELLED))
    stored = ids != PADDING_ID
    return Scores(
        ids[stored].astype(np.int64), np.asarray(logits)[stored], labels[stored], weights[stored]
    )


def _is_consistent(scores: Scores) -> bool:
    n, k = scores.logits.shape if scores.logits.ndim == 2 else (-1, -1)
    forms = [(field.dtype, field.shape) for field in scores]
    return any(
        forms == [(np.int64, (n,)), (np.float32, (n, k)), label, (np.float32, (n,))]
        for label in ((np.int32, (n,)), (np.int8, (n, k)))
    )
