"""Writes predictions in the form that MPII's organisers score: a MATLAB file.

`sample_ids` (n, 1) are the rows of the images in `RELEASE.annolist`, counted from 1; `class_ids` is
a cell (1, k) of activity names, and `scores` (n, k) are probabilities in that order.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from data_pipelines import records
from data_pipelines.core import files
from data_pipelines.core.errors import DataError
from data_pipelines.core.mat_file import format_mat
from data_pipelines.manifest import Manifest
from gap_jax.evaluation import metrics

ANNOTATED_DATA = ("mpii", "people")  # data sets whose records name rows of MPII's annotations


def read_sample_ids(directory: Path, split: str, data: Manifest) -> Int64[np.ndarray, " n"]:
    """Reads the row of each stored image in MPII's annotations; refuses other data sets."""
    if data.name not in ANNOTATED_DATA:
        raise DataError(
            f"{directory} holds data set {data.name}, and MPII's organisers take predictions for "
            f"{' or '.join(ANNOTATED_DATA)}; omit --submission, or name such data with --data DIR"
        )
    source = records.open_split(directory, split, data)
    rows = (source[position]["source_index"] for position in range(len(source)))
    return np.fromiter(rows, np.int64, len(source))


def write(
    path: Path,
    sample_ids: Int64[np.ndarray, " n"],
    class_names: Sequence[str],
    logits: Float[np.ndarray, "n k"],
) -> None:
    """Writes the probabilities of every image; refuses logits that are not finite."""
    metrics.check_finite(logits)
    class_ids = np.empty((1, len(class_names)), object)
    class_ids[0] = class_names
    variables = {
        "sample_ids": sample_ids[:, None].astype(np.float64),  # MATLAB's usual type
        "class_ids": class_ids,
        "scores": metrics.softmax(logits),
    }
    files.write_atomically(path, format_mat(variables, "predictions of gap_jax"))
