"""Mutated annotations, lists and manifests, read by the command that a user would run.

What is accepted must pass `data check`. Beyond that a record whose own line in a list is unchanged
must keep its split and class, and a compressed .mat file must have the checksums of zlib.
"""

import functools
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines import check, manifest, records
from data_pipelines.core.errors import DataError
from data_pipelines.datasets.joints import COCO
from data_pipelines.example import JOINTS
from data_pipelines.joints.openpose import KEYPOINTS
from gap_jax.commands import data as data_command
from tests.campaigns.fuzzing.case import Case, Make, Mutate, Rng, choose, copy_original, write_once
from tests.campaigns.fuzzing.changes import MAT, TEXT
from tests.campaigns.fuzzing.shards import write_images
from tests.support.mat_fixtures import Image, point, rect, write_mat
from tests.support.still_data import (
    ACTIONS,
    draw_hico_labels,
    write_hico,
    write_stanford40,
    write_voc,
)
from tests.support.tiny_data import quiet, write_photo
from tests.support.tiny_videos import write_frames, write_lists

MAT_HEADER_BYTES, MAT_COMPRESSED = 128, 15
MPII = ("mpii", "--annotations", "{}/anno.mat", "--images", "{}/images", "--splits", "{}/lists")
HICO = ("hico", "--anno", "{}/anno.mat", "--images", "{}/images", "--joints", "{}/joints.json")
HMDB51 = ("hmdb51", "--splits", "{}/lists", "--split", "1", "--frames", "{}/frames",
          "--frames-per-video", "2", "--joints", "{}/joints")  # fmt: skip
STANFORD40 = ("stanford40", "--root", "{}", "--crop-people")
VOC = ("voc_action", "--root", "{}")
CSV = ("csv", "--csv", "{}/list.csv", "--root", "{}")
FOLDER = ("folder", "--root", "{}/photos", "--joints", "{}/joints.json")
CHECK = ()  # of a prepared data set


def write_mpii(folder: Path) -> None:
    """Writes six images of two actions, with people."""
    names = [f"01560{index}864.jpg" for index in range(6)]
    people = [rect([point(9, 30.5, 4, is_visible="1"), point(3, 20, 30, is_visible=1)]), rect(None)]
    images = [
        Image(name, people, ("curling", "bowling, ten pin")[index % 2], np.uint16(index % 2 + 1))
        for index, name in enumerate(names)
    ]
    write_mat(folder / "anno.mat", images)
    (folder / "lists").mkdir()
    for split, listed in (("train", names[:4]), ("val", names[4:])):
        stems = [name.removesuffix(".jpg") for name in listed]
        (folder / "lists" / f"images_mpii_{split}.txt").write_text("\n".join(stems) + "\n")
    for index, name in enumerate(names):
        write_photo(folder / "images" / name, index)


def write_mpii_uncompressed(folder: Path) -> None:
    write_mpii(folder)
    (folder / "anno.mat").unlink()
    people = [rect([point(9, 30.5, 4, is_visible="1"), point(3, 20, 30)])]
    images = [Image(f"01560{index}864.jpg", people) for index in range(6)]
    write_mat(folder / "anno.mat", images, as_cells=True, compress=False)


def write_hico_data(folder: Path) -> None:
    write_hico(folder, draw_hico_labels(0, 4), draw_hico_labels(1, 2))
    names = sorted(path.name for path in (folder / "images").glob("*/*.jpg"))
    (folder / "joints.json").write_text(coco_joints(names, COCO))


def coco_joints(names: Sequence[str], keypoints: Sequence[str]) -> str:
    """Writes a person for each image in COCO's form."""
    numbers = [number for index in range(len(keypoints)) for number in (index, index + 5, 2)]
    images = [
        {"id": index, "file_name": name, "width": 60, "height": 44}
        for index, name in enumerate(names)
    ]
    people = [
        {"id": index, "image_id": index, "category_id": 1, "keypoints": numbers}
        for index in range(len(names))
    ]
    category = {"id": 1, "name": "person", "keypoints": [*keypoints]}
    content = {"categories": [category], "images": images, "annotations": people}
    return json.dumps(content, indent=1)


def write_stanford40_data(folder: Path) -> None:
    listed = {
        split: [(f"{name}_{split}.jpg", ACTIONS[i % 3]) for i, name in enumerate("abcd")]
        for split in ("train", "test")
    }
    write_stanford40(folder, listed)


def write_voc_data(folder: Path) -> None:
    people = {
        "train": {("2010_1", 1): (1, -1, 0, -1), ("2010_1", 2): (-1, 1, 1, -1)},
        "val": {("2011_2", 2): (-1, -1, -1, 1)},
    }
    write_voc(folder, people)


def write_hmdb51(folder: Path) -> None:
    write_lists(folder / "lists")
    write_frames(folder / "frames")
    for video in (folder / "frames").glob("*/*"):
        for path in sorted(video.glob("image_*"))[4:]:
            path.unlink()
        place = folder / "joints" / video.relative_to(folder / "frames")
        place.mkdir(parents=True)
        body = {"joints": [float(number % 40 + 1) for number in range(3 * KEYPOINTS)]}
        for number in range(1, 5):
            (place / f"image_{number:05}.json").write_text(json.dumps({"bodies": [body, body]}))


def write_photos(folder: Path) -> None:
    """Writes photographs of two classes, a list of them and their joints."""
    names = [f"{label}/{label}_{index}.jpg" for label in ("ant", "bee") for index in range(4)]
    for index, name in enumerate(names):
        write_photo(folder / "photos" / name, index)
    splits = ("train", "train", "val", "test")
    lines = [f"photos/{name},{name[:3]},{splits[i % 4]}\n" for i, name in enumerate(names)]
    (folder / "list.csv").write_text("path,label,split\n" + "".join(lines))
    (folder / "joints.json").write_text(coco_joints(names, JOINTS))


class Kind(NamedTuple):
    """A kind of file: the writer of its data set, its pattern and how the command reads it.

    `has_lines` says that a line of the file decides about one record.
    """

    write: Callable[[Path], None]
    pattern: str
    words: Sequence[str]
    mutations: Mapping[str, Mutate]
    has_lines: bool = False


FILES = {
    "MPII .mat": Kind(write_mpii, "anno.mat", MPII, MAT),
    "MPII .mat, uncompressed": Kind(write_mpii_uncompressed, "anno.mat", MPII, MAT),
    "MPII split list": Kind(write_mpii, "lists/*.txt", MPII, TEXT, True),
    "HICO .mat": Kind(write_hico_data, "anno.mat", HICO, MAT),
    "COCO joints JSON, 17": Kind(write_hico_data, "joints.json", HICO, TEXT),
    "COCO joints JSON, our 16": Kind(write_photos, "joints.json", FOLDER, TEXT),
    "OpenPose joints JSON": Kind(write_hmdb51, "joints/*/*/*.json", HMDB51, TEXT),
    "HMDB51 split list": Kind(write_hmdb51, "lists/*.txt", HMDB51, TEXT, True),
    "Stanford40 list": Kind(write_stanford40_data, "ImageSplits/*_t*.txt", STANFORD40, TEXT, True),
    "Stanford40 XML": Kind(write_stanford40_data, "XMLAnnotations/*.xml", STANFORD40, TEXT),
    "VOC action list": Kind(write_voc_data, "ImageSets/Action/*.txt", VOC, TEXT),
    "VOC action XML": Kind(write_voc_data, "Annotations/*.xml", VOC, TEXT),
    "CSV list": Kind(write_photos, "list.csv", CSV, TEXT, True),
    "data manifest JSON": Kind(write_images, "manifest.json", CHECK, TEXT),
    "metadata JSON of records": Kind(write_images, "records/*.json", CHECK, TEXT),
}


def run(words: Sequence[str], folder: Path) -> Path:
    """Runs `gap_jax data`; returns the prepared folder."""
    if not words:
        data_command.run(["check", str(folder), "--html", str(folder / "sheet.html")])
        return folder
    out = folder.with_suffix(".out")
    filled = [word.format(folder) for word in words]
    data_command.run(["prepare", *filled, "--out", str(out), "--max-rejects", "99", "--overwrite"])
    return out


def make_case(kind: str, rng: Rng, folder: Path) -> Case:
    """Mutates a file of the kind."""
    write, pattern, words, mutations, has_lines = FILES[kind]
    data = copy_original(folder, write)
    path = choose(rng, sorted(data.glob(pattern)))
    name = choose(rng, [*mutations])
    before = path.read_bytes()
    after = mutations[name](before, rng)
    path.write_bytes(after)
    originals = describe_original(write_once(folder, write), tuple(words)) if has_lines else {}

    def find_damage(out: Path) -> str:
        return (
            find_refusal(out)
            or (find_zlib_damage(after) if path.suffix == ".mat" else "")
            or find_other_record(out, originals, before, after)
        )

    return Case(name, functools.partial(run, words, data), find_damage)


def find_refusal(out: Path) -> str:
    """Returns the line by which `data check` refuses what was accepted."""
    try:
        check.check(out, html=None, log=quiet)
    except DataError as error:
        return f"data check: {error}"
    return ""


def find_zlib_damage(content: bytes) -> str:
    """Describes the first compressed variable of a MATLAB file whose checksum is wrong."""
    at = MAT_HEADER_BYTES
    while at + 8 <= len(content):
        kind, size = np.frombuffer(content, "<u4", 2, at).tolist()
        if kind == MAT_COMPRESSED:
            try:
                zlib.decompress(content[at + 8 : at + 8 + size])
            except zlib.error as error:
                return f"zlib: {error}"
        at += 8 + size
    return ""


def describe_records(out: Path) -> dict[str, tuple[str, str]]:
    """Returns the split and the class of each record by its name."""
    stated = manifest.load(out)
    found = {}
    for split, each in stated.splits.items():
        source = records.open_split(out, split, stated) if each.examples else []
        for position in range(len(source)):
            record = source[position]
            found[record["id"]] = split, stated.classes[record["label"]]
    return found


@functools.cache
def describe_original(folder: Path, words: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Prepares the unchanged data set, once."""
    return describe_records(run(words, folder))


def find_other_record(
    out: Path, originals: Mapping[str, tuple[str, str]], before: bytes, after: bytes
) -> str:
    """Names a record whose own line is unchanged but whose split or class differs."""
    if not originals:
        return ""
    old, new = ([*map(bytes.strip, content.splitlines())] for content in (before, after))
    kept = b"\n".join(set(old) & set(new)).decode()
    changed = b"\n".join(line for line in new if line not in old).decode("utf-8", "replace")
    for name, described in describe_records(out).items():
        stem = Path(name).stem
        is_unchanged = stem in kept and stem not in changed
        if is_unchanged and originals.get(name) != described:
            return f"{name} is {described} and was {originals.get(name)}"
    return ""


KINDS: dict[str, Make] = {kind: functools.partial(make_case, kind) for kind in FILES}
