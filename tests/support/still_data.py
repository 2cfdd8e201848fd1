"""Writes tiny originals of HICO, Stanford40 and Pascal VOC's actions in their published forms."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import scipy.io

from tests.support.mat_fixtures import EMPTY, cell_array, struct_array
from tests.support.tiny_data import write_photo

PAIRS = (("board", "airplane"), ("no_interaction", "airplane"), ("ride", "horse"),
         ("feed", "horse"), ("no_interaction", "horse"), ("no_interaction", "zebra"))  # fmt: skip
ACTIONS = ("applauding", "fixing_a_car", "writing_on_a_book")
VOC_ACTIONS = ("jumping", "phoning", "reading", "walking")


def hico_names(split: str, count: int) -> list[str]:
    return [f"HICO_{split}2015_{index + 1:08}.jpg" for index in range(count)]


def draw_hico_labels(seed: int, count: int) -> np.ndarray:
    """Draws labels of each image for one or two objects; those of the others are NaN."""
    rng = np.random.default_rng(seed)
    nouns = np.array([noun for _, noun in PAIRS])
    labels = np.full((len(PAIRS), count), np.nan)
    for column in range(count):
        for noun in rng.choice(np.unique(nouns), rng.integers(1, 3), replace=False):
            rows = np.flatnonzero(nouns == noun)
            labels[rows, column] = rng.choice((1.0, -1.0, 0.0), len(rows), p=(0.5, 0.3, 0.2))
        if not (np.abs(labels[:, column]) == 1).any():
            labels[0, column] = 1
    return labels


def write_hico(
    folder: Path, train: np.ndarray, test: np.ndarray, *, images: bool = True
) -> Mapping[str, Path]:
    """Writes anno.mat as MATLAB does (doubles, compressed) and the images."""
    actions = [
        {
            "nname": noun, "vname": verb, "vname_ing": f"{verb}ing", "syn": f"{verb}, do",
            "def": "does it", "synset": struct_array([{"id": np.uint8(1)}]), "add_def": EMPTY,
        }
        for verb, noun in PAIRS
    ]  # fmt: skip
    variables = {"list_action": struct_array(actions).T}
    for code, (split, labels) in enumerate((("train", train), ("test", test))):
        names = hico_names(split, labels.shape[1])
        variables |= {f"list_{split}": cell_array(names).T, f"anno_{split}": labels}
        for index, name in enumerate(names if images else ()):
            write_photo(folder / "images" / f"{split}2015" / name, 100 * code + index)
    folder.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(folder / "anno.mat", variables, do_compression=True)
    return {"--anno": folder / "anno.mat", "--images": folder / "images"}


def box_xml(objects: Sequence[tuple[Sequence[int], str]]) -> str:
    """Makes an annotation: of each object the box (xmin, ymin, xmax, ymax) and what follows it."""
    texts = []
    for box, rest in objects:
        sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        corners = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
        texts.append(f"<object><name>person</name><bndbox>{corners}</bndbox>{rest}</object>\n")
    return f"<annotation>\n<size><width>60</width></size>\n{''.join(texts)}</annotation>\n"


def write_stanford40(folder: Path, listed: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """Writes the images (name, action) of each split."""
    lists, boxes = folder / "ImageSplits", folder / "XMLAnnotations"
    for place in (lists, boxes):
        place.mkdir(parents=True, exist_ok=True)
    (lists / "actions.txt").write_text("action_name\tnumber_of_train_test_images\n")
    for code, (split, images) in enumerate(listed.items()):
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name, _ in images))
        for action in ACTIONS:
            names = [f"{name}\n" for name, done in images if done == action]
            (lists / f"{action}_{split}.txt").write_text("".join(names))
        for index, (name, action) in enumerate(images):
            write_photo(folder / "JPEGImages" / name, 200 + 100 * code + index)
            text = box_xml([((11, 5, 40, 44), f"<action>{action}</action>")])
            (boxes / f"{Path(name).stem}.xml").write_text(text)


def write_voc(folder: Path, people: Mapping[str, Mapping[tuple[str, int], Sequence[int]]]) -> None:
    """Writes the labels (1, -1 or 0 for each action) of people (image, number) in each split."""
    lists, boxes = folder / "ImageSets" / "Action", folder / "Annotations"
    for place in (lists, boxes):
        place.mkdir(parents=True, exist_ok=True)
    for split, labels in people.items():
        for index, action in enumerate(VOC_ACTIONS):
            rows = [f"{name} {n:2} {row[index]:2}\n" for (name, n), row in labels.items()]
            (lists / f"{action}_{split}.txt").write_text("".join(rows))
        images = sorted({name for name, _ in labels})
        for name in images:
            write_photo(folder / "JPEGImages" / f"{name}.jpg", 300 + sum(map(ord, name)))
            objects = [
                ((1, 1, 30, 44), ""),
                ((31, 1, 60, 44), "<actions><jumping>1</jumping></actions>"),
            ]
            (boxes / f"{name}.xml").write_text(box_xml(objects))
