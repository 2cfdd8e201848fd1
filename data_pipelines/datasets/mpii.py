"""Reads MPII's annotations, images and split lists into entries."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data_pipelines import example
from data_pipelines.core.boxes import around_joints, join
from data_pipelines.core.errors import DataError
from data_pipelines.core.files import sha256
from data_pipelines.datasets import mpii_mat, mpii_splits
from data_pipelines.datasets.child import parse_in_child
from data_pipelines.datasets.image_files import find_images
from data_pipelines.datasets.mpii_mat import Annotation, Person, Place
from data_pipelines.datasets.mpii_splits import strip_suffix
from data_pipelines.example import Entry, RawData, RawSplit, Reject

DOWNLOAD = "https://datasets.d2.mpi-inf.mpg.de/andriluka14cvpr"
GET_ANNOTATIONS = (
    f"download {DOWNLOAD}/mpii_human_pose_v1_u12_2.zip (MPII, non-commercial research only), "
    "unpack it and pass mpii_human_pose_v1_u12_1.mat"
)
GET_IMAGES = (
    f"download {DOWNLOAD}/mpii_human_pose_v1.tar.gz (12.9 GB, non-commercial research only) and "
    "pass the archive or its unpacked folder images/"
)


def read(
    annotations: Path,
    images: Path,
    splits: Path | None,
    *,
    name: str = "mpii",
    split_seed: int = 0,
    spool: Path | None = None,
) -> RawData:
    """Reads the whole data set; without `splits`, derives them.

    `images` is a folder, or an archive whose listed images are unpacked into `spool`.
    """
    if not annotations.is_file():
        raise DataError(f"no annotation file {annotations}; {GET_ANNOTATIONS}")
    if not images.exists():
        raise DataError(f"no images at {images}; {GET_IMAGES}")
    published = splits and mpii_splits.read_lists(splits)
    rows = [Annotation(*row) for row in parse_in_child(mpii_mat.__name__, annotations)]
    lists = published or mpii_splits.derive_lists(rows, split_seed)
    split_kind = "derived, not comparable with published numbers"
    if published:
        split_kind = "official lists" if mpii_splits.is_official(lists) else "own lists"
    by_stem = _index_by_stem(rows, lists)
    classes: dict[str, set[int]] = {}  # their act_ids; a class id is the order of appearance
    for row in by_stem.values():
        if row.act_name:
            classes.setdefault(row.act_name, set()).add(row.act_id)
    if not classes:
        listed = sum(map(len, lists.values()))
        raise DataError(
            f"none of the {listed} listed images has an action in {annotations}; {GET_ANNOTATIONS}"
        )
    paths = find_images(images, [row.name for row in by_stem.values()], spool)
    if not paths:
        raise DataError(f"none of the {len(by_stem)} listed images is in {images}; {GET_IMAGES}")
    labels = {action: label for label, action in enumerate(classes)}
    rejects: list[Reject] = []
    raw_splits = {}
    for split, stems in lists.items():
        raw_splits[split], refused = _read_split(split, stems, by_stem, paths, labels)
        rejects += refused
    provenance = {
        "annotations": annotations.name,
        "annotations_sha256": sha256(annotations),
        "images": images.name,
        "split_kind": split_kind,
        "list_sha256": [
            f"{split} {mpii_splits.digest_list(stems)}" for split, stems in lists.items()
        ],
        **({} if published else {"split_seed": split_seed}),
        "videos_in_train_and_val": _count_shared_videos(lists, by_stem),
        "act_ids": [",".join(map(str, sorted(ids))) for ids in classes.values()],
    }
    return RawData(name, "single", tuple(classes), raw_splits, rejects, provenance)


def _index_by_stem(
    rows: Sequence[Annotation], lists: Mapping[str, Sequence[str]]
) -> dict[str, Annotation]:
    """Finds the annotation of each listed image, in the order of the annotation file."""
    wanted = set(itertools.chain.from_iterable(lists.values()))
    found: dict[str, Annotation] = {}
    for row in rows:
        stem = strip_suffix(row.name)
        if stem not in wanted:
            continue
        if stem in found:
            raise DataError(
                f"annolist({found[stem].source_index}) and annolist({row.source_index}) both "
                f"annotate the listed image {row.name!r}; {GET_ANNOTATIONS}"
            )
        found[stem] = row
    return found


def _read_split(
    split: str,
    stems: Sequence[str],
    by_stem: Mapping[str, Annotation],
    paths: Mapping[str, Path],
    labels: Mapping[str, int],
) -> tuple[RawSplit, list[Reject]]:
    entries, rejects = [], []
    for stem in stems:
        row = by_stem.get(stem)
        if row is None:
            rejects.append(Reject(split, stem, "is not in the annotation file"))
        elif row.name not in paths:
            rejects.append(Reject(split, stem, f"has no file {row.name!r} among the images"))
        else:
            label = labels.get(row.act_name, example.UNLABELLED)
            keypoints = stack_people(row.people)
            boxes = join(around_joints(keypoints, margin=0.0), place_boxes(row.places))
            entries.append(
                Entry(
                    stem, paths[row.name], label, keypoints, row.source_index,
                    boxes=np.clip(boxes, -example.MAX_POSITION_PX, example.MAX_POSITION_PX),
                )
            )  # fmt: skip
    annotated = sum(stem in by_stem for stem in stems)
    return RawSplit(len(stems), annotated, len(entries), entries), rejects


def stack_people(people: Sequence[Person]) -> example.Keypoints:
    """Stacks the joints of an image's people; a missing joint is (0, 0, NOT_ANNOTATED)."""
    keypoints = np.full(
        (len(people), len(example.JOINTS), 3), (0, 0, example.NOT_ANNOTATED), np.float32
    )
    for stacked, person in zip(keypoints, people, strict=True):
        for index, joint in enumerate(person):
            if joint is not None:
                x, y, is_visible = joint
                stacked[index] = x, y, example.VISIBLE if is_visible else example.HIDDEN
    return keypoints


def place_boxes(places: Sequence[Place | None]) -> example.Boxes:
    """Returns squares as high as each person, around the middle; absent without a place."""
    boxes = np.zeros((len(places), 4), np.float32)
    for box, place in zip(boxes, places, strict=True):
        if place is not None:
            x, y, height_px = place
            box[:2] = x + 0.5 - height_px / 2, y + 0.5 - height_px / 2
            box[2:] = box[:2] + height_px
    return boxes


def _count_shared_videos(
    lists: Mapping[str, Sequence[str]], by_stem: Mapping[str, Annotation]
) -> int:
    """Counts the videos with frames in both train and val; a valid split has none."""
    train, val = (
        {by_stem[stem].vididx for stem in lists[split] if stem in by_stem} - {0}
        for split in ("train", "val")
    )
    return len(train & val)
