"""Draws many scenes without shape checks, which make drawing ten times slower."""

from collections.abc import Iterable

import jaxtyping

from data_pipelines.datasets import people
from data_pipelines.datasets.drawn.scene import Scene


def draw_pictures(
    seed: int, split: str, numbers: Iterable[int], difficulty: str = "default"
) -> list[Scene]:
    """Draws the scenes of the given numbers."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        return [people.draw_scene(seed, split, number, difficulty) for number in numbers]
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
