"""Draws what the page lays over a photograph: a map of a class, or the joints."""

from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.example import JOINTS
from data_pipelines.pictures.drawing import Picture, draw_skeletons, fit
from data_pipelines.transforms import View
from gap_jax.models.cells import Axis
from gap_jax.prediction.answer import Answer
from gap_jax.prediction.attention import Map
from gap_jax.prediction.colours import find_scale, paint
from gap_jax.prediction.overlay import spread
from gap_jax.prediction.photograph import Line

LARGEST_SIDE_PX = 1280  # of a photograph and its layers on the page
MAPS = {"combined": "combined", "bottom-up": "bottom_up", "top-down": "top_down"}
KINDS = (*MAPS, "joints")
ROWS, COLUMNS = ("upper", "middle", "lower"), ("left", "centre", "right")
NOBODY = np.zeros((0, len(JOINTS), 3))

Layer = UInt8[np.ndarray, "y x c"]  # RGBA, or RGB where it covers the photograph


def shrink(photo: Picture, people: Float[np.ndarray, "p j 3"] = NOBODY) -> View:
    """Shrinks a photograph with its joints to the size of the page."""
    view = View(photo, people, 0.0)
    return fit(view, LARGEST_SIDE_PX) if max(photo.shape[:2]) > LARGEST_SIDE_PX else view


def find_missing(answer: Answer) -> dict[str, str]:
    """Returns the reason for each kind of layer that the model does not have."""
    missing = {}
    if np.ptp(answer.maps().bottom_up) == 0:
        missing["bottom-up"] = (
            "This model looks at every place alike: its bottom-up map is constant."
        )
    if answer.joints is None:
        missing["joints"] = "This model was trained without joints and finds none."
    return missing


def has_margins(answer: Answer) -> bool:
    """Whether the network sees less than the photograph."""
    cells, few_px = answer.maps().combined, 64
    return not spread(cells, answer.grid, answer.placement, few_px, few_px).seen.all()


def describe_layers(answer: Answer, name: str) -> dict[str, Any]:
    """Returns for each kind the value of the colour scale's 1, and the content in words."""
    found: dict[str, Any] = {}
    for kind in MAPS:
        cells = _select(answer, name, kind)
        found[kind] = {"one": f"{find_scale(cells):.3g}", "text": _locate_peak(answer, cells)}
    if answer.joints is not None:
        count = int((answer.joints[:, 2] > 0).sum())
        found["joints"] = {"one": None, "text": f"{count} of {len(JOINTS)} joints found"}
    return found


def draw_layer(answer: Answer, name: str, kind: str) -> Layer:
    """Draws a map in colours, transparent where the network saw nothing; or the joints."""
    if kind == "joints":
        joints = answer.joints
        view = shrink(answer.image, NOBODY if joints is None else joints[None])
        return draw_skeletons(view.image, view.keypoints)
    cells = _select(answer, name, kind)
    size = _page_size(answer.placement.height, answer.placement.width)
    values, seen = spread(cells / find_scale(cells), answer.grid, answer.placement, *size)
    return np.dstack([paint(values), np.where(seen, 255, 0).astype(np.uint8)])


def _select(answer: Answer, name: str, kind: str) -> Map:
    return getattr(answer.maps(name), MAPS[kind])


def _page_size(height: int, width: int) -> tuple[int, int]:
    scale = min(1.0, LARGEST_SIDE_PX / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _locate_peak(answer: Answer, cells: Map) -> str:
    """Says in words in which ninth of the photograph a map is highest."""
    row, column = np.unravel_index(cells.argmax(), cells.shape)
    placed, grid = answer.placement, answer.grid
    down = _third(int(row), grid.rows, placed.rows, placed.height)
    across = _third(int(column), grid.columns, placed.columns, placed.width)
    place = "middle" if (down, across) == (1, 1) else f"{ROWS[down]} {COLUMNS[across]}"
    return f"highest in the {place}"


def _third(cell: int, axis: Axis, line: Line, pixels: int) -> int:
    place = line.to_photograph(np.array([axis.first + cell * axis.stride]))
    return int(np.clip(3 * (place[0] + 0.5) / pixels, 0, 2))
