"""Describes answers as rows of a JSON file, a CSV file and the terminal."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

import gap_jax
from data_pipelines.core import files
from gap_jax.prediction.answer import Answer
from gap_jax.prediction.sources import Refused
from gap_jax.saved.model import Opened

FORMAT_VERSION = 1
TOP_FIELDS = ("class", "probability", "logit")
SIDES = ("left_px", "top_px", "right_px", "bottom_px")


@dataclasses.dataclass(frozen=True)
class Row:
    """The answer for one image: `top` holds (class, probability, logit), highest first.

    A row with an `error` has no classes; `overlay` is the name of the picture of its maps. A row
    about a person has their number in the image and their `box` in pixels.
    """

    name: str
    width_px: int | None = None
    height_px: int | None = None
    top: tuple[tuple[str, float, float], ...] = ()
    overlay: str | None = None
    error: str | None = None
    person: int | None = None
    box: tuple[float, ...] | None = None

    @property
    def shown_name(self) -> str:
        """The image's name, with the number of the person."""
        return self.name if self.person is None else f"{self.name} person {self.person}"

    def __str__(self) -> str:
        """Returns the classes with their probabilities, or the error."""
        if self.error:
            return f"error: {self.error}"
        return "  ".join(f"{name} {100 * probability:.1f} %" for name, probability, _ in self.top)


def describe(answer: Answer | Refused, count: int) -> Row:
    """Describes an answer by its `count` highest classes."""
    if isinstance(answer, Refused):
        return Row(answer.name, error=answer.error, person=answer.person)
    placement, probabilities = answer.placement, answer.probabilities
    size = Row(answer.name, placement.width, placement.height, person=answer.person, box=answer.box)
    if not np.isfinite(answer.logits).all():
        return dataclasses.replace(size, error="the model's scores are not finite")
    top = tuple(
        (answer.classes[k], float(probabilities[k]), float(answer.logits[k]))
        for k in answer.rank()[:count]
    )
    return dataclasses.replace(size, top=top)


def to_json(rows: Sequence[Row], opened: Opened) -> str:
    """Formats the rows and their model; docs/photos.md documents the fields."""
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "gap_jax": gap_jax.__version__,
        "model": {
            "source": str(opened.source),
            "run": opened.origin.run,
            "step": opened.origin.step,
            "weights": opened.origin.weights,
            "data": opened.cfg.data.name,
            "fingerprint": opened.origin.fingerprint,
        },
        "probabilities": "sigmoid" if opened.origin.label_kind == "multi" else "softmax",
        "classes": opened.classes,
        "images": [
            dataclasses.asdict(row)
            | {"top": [dict(zip(TOP_FIELDS, each, strict=True)) for each in row.top]}
            for row in rows
        ],
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def to_csv(rows: Sequence[Row], count: int) -> bytes:
    """Formats a line for each row with its `count` highest classes."""
    ranks, has_people = range(1, count + 1), any(row.person is not None for row in rows)
    header = ["name", *["person", *SIDES] * has_people, "width_px", "height_px", "error"]
    header += [column for rank in ranks for column in (f"class_{rank}", f"probability_{rank}")]
    lines = []
    for row in rows:
        of_person = [row.person or "", *(row.box or [""] * 4)] if has_people else []
        cells = [row.name, *of_person, row.width_px or "", row.height_px or "", row.error or ""]
        cells += [cell for name, probability, _ in row.top for cell in (name, probability)]
        lines.append(cells + [""] * (len(header) - len(cells)))
    return files.csv_table(header, lines)
