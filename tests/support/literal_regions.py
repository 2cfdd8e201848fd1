"""RoI pooling and the scores of regions in float64, one bin and one person at a time."""

import math
from collections.abc import Mapping

import numpy as np

from gap_jax.models.cells import Axis, Grid

Values = Mapping[str, np.ndarray]


def round_away(value: float) -> int:
    """C's round."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def bin_edges(low: float, high: float, axis: Axis, side: int) -> list[range]:
    """Caffe's cells of each bin along an axis, inside the map."""
    first, last = round_away(low / axis.stride), round_away((high - 1) / axis.stride)
    length = max(last - first + 1, 1)
    edges = []
    for number in range(side):
        start = math.floor(number * length / side) + first
        end = -((-(number + 1) * length) // side) + first
        edges.append(range(min(max(start, 0), axis.cells), min(max(end, 0), axis.cells)))
    return edges


def literal_max(
    x: np.ndarray, box: np.ndarray, grid: Grid, side: int, gradient: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """RoI max pooling of one box of one map (h, w, c), and its gradient for the map."""
    left, top, right, bottom = map(float, box)
    rows = bin_edges(top, bottom, grid.rows, side)
    columns = bin_edges(left, right, grid.columns, side)
    pooled, spread = np.zeros((side, side, x.shape[2])), np.zeros(x.shape)
    for p, q, c in np.ndindex(pooled.shape):
        best = None
        for i in rows[p]:
            for j in columns[q]:
                if best is None or x[i, j, c] > x[best][c]:
                    best = i, j
        if best is not None:
            pooled[p, q, c] = x[best][c]
            spread[(*best, c)] += gradient[p, q, c]
    return pooled, spread


def literal_align(
    x: np.ndarray, box: np.ndarray, grid: Grid, side: int, gradient: np.ndarray, samples: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """RoIAlign of one box of one map, sample by sample, and its gradient for the map."""
    left, top, right, bottom = map(float, box)
    pooled, spread = np.zeros((side, side, x.shape[2])), np.zeros(x.shape)
    for p, q in np.ndindex(side, side):
        for a, b in np.ndindex(samples, samples):
            y = top + (bottom - top) * (p + (a + 0.5) / samples) / side
            z = left + (right - left) * (q + (b + 0.5) / samples) / side
            corners = [
                neighbours(pixel - 0.5, axis) for pixel, axis in ((y, grid.rows), (z, grid.columns))
            ]
            for i, of_row in corners[0]:
                for j, of_column in corners[1]:
                    weight = of_row * of_column / samples**2
                    pooled[p, q] += weight * x[i, j]
                    spread[i, j] += weight * gradient[p, q]
    return pooled, spread


def neighbours(index: float, axis: Axis) -> list[tuple[int, float]]:
    """The two cells around the pixel of an index, and their weights."""
    place = min(max((index - axis.first) / axis.stride, 0.0), axis.cells - 1.0)
    low = min(int(place), axis.cells - 1)
    return [(low, 1 - (place - low)), (min(low + 1, axis.cells - 1), place - low)]


def literal_phi(v: Values, x: np.ndarray, box: np.ndarray, grid: Grid, side: int) -> np.ndarray:
    """The features of a region from the map of one image."""
    reduced = np.maximum(x @ v["reduce/kernel"][0, 0] + v["reduce/bias"], 0)
    empty = np.zeros((side, side, reduced.shape[2]))
    values = literal_max(reduced, box, grid, side, empty)[0].reshape(-1)
    for number in (0, 1):
        kernel, bias = v[f"hidden/{number}/kernel"], v[f"hidden/{number}/bias"]
        values = np.maximum(values @ kernel + bias, 0)
    return values


def literal_person(
    v: Values, x: np.ndarray, box: np.ndarray, regions: np.ndarray, grid: Grid, side: int
) -> tuple[np.ndarray, list[int]]:
    """R*CNN's scores of one person and the winning region of each class, -1 without a region."""
    phi = literal_phi(v, x, box, grid, side)
    scores = phi @ v["primary/kernel"] + v["primary/bias"]
    winners = [-1] * len(scores)
    for k in range(len(scores)):
        best = None
        for number, region in enumerate(regions):
            if not (region[2] > region[0] and region[3] > region[1]):
                continue
            term = literal_phi(v, x, region, grid, side) @ v["secondary/kernel"][:, k]
            term += v["secondary/bias"][k]
            if best is None or term > best:
                best, winners[k] = term, number
        scores[k] += best or 0.0
    return scores, winners
