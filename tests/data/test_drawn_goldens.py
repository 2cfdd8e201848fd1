"""The drawn data sets stay as they were drawn: every figure in docs/ was measured on them.

`python -m tests.data.test_drawn_goldens` writes the golden anew; such a change belongs under
"Numbers changed" in CHANGELOG.md.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines.datasets import crowd, objects, people
from data_pipelines.datasets.drawn.scene import Scene

GOLDEN = Path(__file__).parents[1] / "goldens" / "drawn.json"
CELLS = 4  # of an image's rows and columns, each with its mean colour
SCENES = {"people easy": 8, "people default": 16, "people hard": 8, "objects": 12, "crowd": 8}


def draw(name: str) -> Iterator[Scene]:
    data_set, _, difficulty = name.partition(" ")
    for index in range(SCENES[name]):
        if data_set == "people":
            yield people.draw_scene(0, "train", index, difficulty)
        elif data_set == "crowd":
            yield crowd.draw_scene(0, "train", index)
        else:
            yield objects.draw_scene(0, "train", index)


def describe(scene: Scene) -> dict[str, Any]:
    """Colours by cell, pixels of each owner, joints and visible shares, rounded."""
    rows = np.array_split(scene.image.astype(float), CELLS)
    colours = [cell.mean((0, 1)) for row in rows for cell in np.array_split(row, CELLS, axis=1)]
    owners, pixels = np.unique(scene.owner, return_counts=True)
    return {
        "shape": scene.image.shape,
        "colours": np.round(colours, 2).tolist(),
        "owners": owners.tolist(),
        "pixels": pixels.tolist(),
        "joints": [np.round(each.joints, 3).tolist() for each in scene.people],
        "visible": [each.visible.tolist() for each in scene.people],
        "heights": [round(each.height_px, 3) for each in scene.people],
        "items": [[each.kind, round(float(each.visible_share), 4)] for each in scene.items],
    }


def flatten(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list | tuple):
        return [value]
    return [leaf for each in value for leaf in flatten(each)]


@pytest.mark.parametrize("name", SCENES)
def test_scenes_are_drawn_as_before(name: str) -> None:
    """To 0.02 pixels and grey levels of a cell: another OpenCV may round a few pixels otherwise."""
    golden = json.loads(GOLDEN.read_text("utf-8"))[name]
    for scene, expected in zip(draw(name), golden, strict=True):
        found, due = flatten(describe(scene)), flatten(expected)
        assert [type(each) for each in found] == [type(each) for each in due]
        assert [each for each in found if not isinstance(each, float)] == [
            each for each in due if not isinstance(each, float)
        ]
        numbers = [[each for each in one if isinstance(each, float)] for one in (found, due)]
        np.testing.assert_allclose(*numbers, rtol=0, atol=0.02)


if __name__ == "__main__":
    found = {name: [describe(scene) for scene in draw(name)] for name in SCENES}
    GOLDEN.write_text(json.dumps(found, separators=(",", ":")) + "\n", "utf-8")
