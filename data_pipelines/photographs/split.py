"""Derives a validation split that has its share of each class and breaks no group."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from data_pipelines.core.errors import DataError
from data_pipelines.example import RawData, RawSplit
from data_pipelines.photographs.intake import Accepted, classes_of

_NO_CLASS = -1  # a label of several classes that has none of them: a stratum of its own


def derive_val(
    raw: RawData, accepted: Sequence[Accepted], groups: Sequence[Sequence[int]]
) -> tuple[RawData, list[Accepted]]:
    """Moves images from `train` to `val` if the data ask for it; groups stay whole."""
    if raw.derived_val is None:
        return raw, list(accepted)
    train = [index for index, each in enumerate(accepted) if each.split == "train"]
    position = {index: at for at, index in enumerate(train)}
    labels = [classes_of(accepted[index].entry.label) for index in train]
    strata = [() if label is None else label or (_NO_CLASS,) for label in labels]
    inside = [[position[index] for index in group if index in position] for group in groups]
    in_val = choose_val(strata, [each for each in inside if each], *raw.derived_val)
    moved = {train[at] for at in np.flatnonzero(in_val)}
    if train and not moved:
        raise DataError(
            f"no image of data set {raw.name} is left for split 'val', as each class has one image "
            "or only near-duplicates; add photographs, or divide them into splits yourself"
        )
    split = raw.splits["train"]
    count = len(moved)
    rest = RawSplit(split.listed - count, split.annotated - count, split.on_disk - count, [])
    others = {name: each for name, each in raw.splits.items() if name != "train"}
    splits = {"train": rest, "val": RawSplit(count, count, count, []), **others}
    return dataclasses.replace(raw, splits=splits), [
        each._replace(split="val") if index in moved else each
        for index, each in enumerate(accepted)
    ]


def choose_val(
    classes: Sequence[Sequence[int]], groups: Sequence[Sequence[int]], fraction: float, seed: int
) -> Bool[np.ndarray, " n"]:
    """Tells which images go to validation; `classes` are each image's, `groups` are positions.

    A class gets `fraction` of its images, rounded, at least one and never all; fewer where only
    whole groups are left that would exceed it. Rare classes are filled first. An image without a
    class stays in training, except with its group.
    """
    rng = np.random.default_rng(seed)
    single = set(range(len(classes))).difference(*groups)
    units = [*groups, *([position] for position in sorted(single))]
    contents = [Counter(each for position in unit for each in classes[position]) for unit in units]
    counts = Counter(each for present in classes for each in present)
    target = {each: _share(count, fraction) for each, count in counts.items()}
    chosen: Counter[int] = Counter()
    units_of: dict[int, list[int]] = {each: [] for each in counts}
    for unit in rng.permutation(len(units)).tolist():
        for each in contents[unit]:
            units_of[each].append(unit)
    in_val = np.zeros(len(classes), bool)
    for name in sorted(counts, key=lambda each: (counts[each], each)):
        for unit in units_of[name]:
            if chosen[name] == target[name]:
                break
            content = contents[unit]
            fits = all(chosen[each] + count <= target[each] for each, count in content.items())
            if fits and not in_val[units[unit][0]]:
                in_val[units[unit]] = True
                chosen.update(content)
    return in_val


def _share(count: int, fraction: float) -> int:
    return min(count - 1, max(1, round(fraction * count)))
