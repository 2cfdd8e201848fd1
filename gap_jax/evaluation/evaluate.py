"""Every stored example scored exactly once; the scores, kept so that metrics can be recomputed."""

import functools
import json
import math
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Bool, Float32, Int8, Int32, Int64

from data_pipelines import files, loader
from data_pipelines.example import PADDING_ID, UNLABELLED, HostBatch
from data_pipelines.manifest import Manifest
from gap_jax.config import Config
from gap_jax.errors import DataError
from gap_jax.evaluation import metrics
from gap_jax.learning.sharding import globalise
from gap_jax.learning.state import Variables
from gap_jax.learning.steps import EvalStep

FORMAT_VERSION = 1
SCORES, METRICS, PER_CLASS = "scores.npz", "metrics.json", "per_class.csv"


class Scores(NamedTuple):
    """One row for each stored example, in the order of the records, which `ids` name.

    A row of weight 0 has no label: it is scored and counts in no metric. Its single label is -1.
    """

    ids: Int64[np.ndarray, " n"]
    logits: Float32[np.ndarray, "n k"]
    labels: Int32[np.ndarray, " n"] | Int8[np.ndarray, "n k"]
    weights: Float32[np.ndarray, " n"]

    @property
    def is_labelled(self) -> Bool[np.ndarray, " n"]:
        """Which rows count."""
        return self.weights > 0


class Protocol(NamedTuple):
    """What counts: the rule of average precision, what ranks, and images without a label, or not.

    `views` only names what the scores were made of.
    """

    rule: metrics.Rule = "envelope"
    ranking: metrics.Ranking = "softmax"
    counts_unlabelled: bool = False
    views: str = "center"

    @classmethod
    def of(cls, cfg: Config) -> "Protocol":
        """What a run's config says of its evaluations."""
        return cls(
            cast(metrics.Rule, cfg.eval.average_precision),
            cast(metrics.Ranking, cfg.eval.ranking),
            cfg.train.unlabelled == "reference",
            cfg.data.eval_crops + ("+flip" if cfg.data.eval_flip else ""),
        )

    def rank(self, scores: Scores) -> tuple[metrics.Scores, metrics.Labels]:
        """What the rows that count score, and their labels."""
        counted = scores.is_labelled | self.counts_unlabelled
        labels = scores.labels[counted]
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
) -> Scores | None:
    """Scores `data.eval_split` once, or `max_examples` spread evenly over it; see `score`."""

    def follow(batches: Iterable[HostBatch]) -> Iterator[HostBatch]:
        for batch in batches:
            yield batch
            after_batch()

    with loader.evaluation_batches(
        cfg.data, data, batch_size=cfg.eval.batch_size, max_examples=max_examples, process=process
    ) as batches:
        return score(eval_step, variables, follow(batches), mesh, is_stopping)


def score(
    eval_step: EvalStep,
    variables: Variables,
    batches: Iterable[HostBatch],
    mesh: Mesh,
    is_stopping: Callable[[], bool],
) -> Scores | None:
    """The scores of every example in the batches, or None when told to stop before the end.

    `batches` are this process's share, as `evaluation_batches` makes them; every process gets all
    the scores. One batch is computed while the one before it is read.
    """
    parts: list[Scores] = []
    unread: tuple[HostBatch, jax.Array] | None = None
    for batch in batches:
        if is_stopping():
            return None
        logits = eval_step(variables, globalise([batch], mesh))
        if unread:
            parts.append(_read_rows(*unread))
        unread = batch, logits
    if unread is None:
        raise DataError("there is no image to evaluate; choose another split")
    parts.append(_read_rows(*unread))
    scores = Scores(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))
    order = np.argsort(scores.ids)
    if (np.diff(scores.ids[order]) == 0).any():
        raise RuntimeError("the loader gave an example twice")
    return Scores(*(field[order] for field in scores))


def summarise(
    scores: Scores, protocol: Protocol = PAPER, *, resamples: int = 1000
) -> dict[str, Any]:
    """The numbers of an evaluation by a protocol, which they name, as JSON can hold them.

    `classes` without a positive are in no mean, and `skipped_classes` counts them; `ci95` is the
    95 % interval of mAP over test sets of this size (docs/method.md); accuracies are None where
    labels are several, and `top5` where there are not more than five classes.
    """
    ranked, labels = protocol.rank(scores)
    precision = metrics.mean_average_precision(ranked, labels, protocol.rule)
    if not precision.counted:
        raise DataError(
            f"none of the {len(labels):,} labelled images is of any class; evaluate a split that "
            "has positives"
        )
    interval = metrics.bootstrap_interval(
        functools.partial(metrics.resampled_map, rule=protocol.rule),
        ranked,
        labels,
        resamples=resamples,
    )
    is_single, classes = labels.ndim == 1, ranked.shape[1]
    return {
        "mAP": precision.mean,
        "accuracy": metrics.accuracy(ranked, labels) if is_single else None,
        "top5": metrics.accuracy(ranked, labels, 5) if is_single and classes > 5 else None,
        "classes": classes,
        "skipped_classes": precision.skipped,
        "examples": len(labels),
        "unlabelled": int((~scores.is_labelled).sum()),
        "ci95": None if math.isnan(interval.low) else [interval.low, interval.high],
        "rule": protocol.rule,
        "ranking": protocol.ranking,
        "views": protocol.views,
    }


def count_positives(scores: Scores) -> list[int]:
    """The labelled images of each class."""
    labels = scores.labels[scores.is_labelled]
    return metrics.positives_of(labels, scores.logits.shape[1]).sum(0).tolist()


def store(
    folder: Path,
    scores: Scores,
    summary: dict[str, Any],
    class_names: Sequence[str],
    protocol: Protocol = PAPER,
) -> None:
    """Writes scores.npz, metrics.json and per_class.csv; all are there, or what was before."""
    table = _write_table(scores, class_names, protocol)
    text = json.dumps({"format_version": FORMAT_VERSION, **summary}, indent=1, allow_nan=False)
    with files.fresh_folder(folder) as partial:
        np.savez(partial / SCORES, format_version=np.int64(FORMAT_VERSION), **scores._asdict())
        (partial / METRICS).write_text(text + "\n", "utf-8")
        (partial / PER_CLASS).write_bytes(table)


def load_scores(folder: Path) -> Scores:
    """The scores that `store` wrote."""
    path = folder / SCORES
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            version = held["format_version"].item()
            scores = Scores(*(held[name] for name in Scores._fields))
    except FileNotFoundError as error:
        raise DataError(f"no scores in {folder}: it holds no {SCORES}") from error
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} is not whole ({type(error).__name__}: {error}); evaluate again"
        ) from error
    if version != FORMAT_VERSION or not _is_consistent(scores):
        raise DataError(f"{path} does not hold scores of format {FORMAT_VERSION}; evaluate again")
    return scores


def _read_rows(batch: HostBatch, logits: jax.Array) -> Scores:
    """The rows of a batch that are no padding, from all processes in their order."""
    ids, labels, weights = multihost_utils.process_allgather(
        (batch.id, batch.label, batch.weight), tiled=True
    )
    if labels.ndim == 1:
        labels = np.where(weights > 0, labels, np.int32(UNLABELLED))
    stored = ids != PADDING_ID
    return Scores(
        ids[stored].astype(np.int64), np.asarray(logits)[stored], labels[stored], weights[stored]
    )


def _write_table(scores: Scores, class_names: Sequence[str], protocol: Protocol) -> bytes:
    """A line for each class; empty where a class without positives has no number."""
    rows = metrics.class_table(*protocol.rank(scores), class_names, protocol.rule)
    return files.csv_table(
        metrics.ClassRow._fields,
        (["" if cell != cell else cell for cell in row] for row in rows),
    )


def _is_consistent(scores: Scores) -> bool:
    n, k = scores.logits.shape if scores.logits.ndim == 2 else (-1, -1)
    forms = [(field.dtype, field.shape) for field in scores]
    return any(
        forms == [(np.int64, (n,)), (np.float32, (n, k)), label, (np.float32, (n,))]
        for label in ((np.int32, (n,)), (np.int8, (n, k)))
    )
