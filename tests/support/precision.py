"""Average precision counted exactly, one threshold after the other."""

from fractions import Fraction

import numpy as np

Curve = list[tuple[Fraction, Fraction]]


def literal_curve(scores: np.ndarray, labels: np.ndarray) -> Curve:
    """Counts recall and precision at each distinct score of the images with a label of 0 or 1."""
    kept = [(s, y) for s, y in zip(scores.tolist(), labels.tolist(), strict=True) if y in (0, 1)]
    total = sum(y for _, y in kept)
    curve = []
    for threshold in sorted({s for s, _ in kept}, reverse=True):
        retrieved = [y for s, y in kept if s >= threshold]
        if total:
            curve.append(
                (Fraction(sum(retrieved), total), Fraction(sum(retrieved), len(retrieved)))
            )
    return curve


def literal_envelope(curve: Curve) -> Fraction:
    area, before = Fraction(0), Fraction(0)
    for recall, _ in curve:
        area += (recall - before) * max(p for r, p in curve if r >= recall)
        before = recall
    return area


def literal_eleven_points(curve: Curve) -> Fraction:
    tenths = [Fraction(i, 10) for i in range(11)]
    return sum((max(p for r, p in curve if r >= t) for t in tenths), Fraction(0)) / 11


def literal_voc2007(curve: Curve) -> float:
    """Compares recall with floating-point tenths, as VOC 2007's and HICO's code does."""
    points = [(float(recall), float(precision)) for recall, precision in curve]
    return sum(max([p for r, p in points if r >= i * 0.1], default=0.0) / 11 for i in range(11))
