"""Mutated shards of records, read as training does or by `data check`.

Every record of a mutated shard must be refused by its position and split, or equal the one that was
written. Training reads no digest, so a valid record in another's place is found by `data check`.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_pipelines import check, manifest, records
from data_pipelines.core import files
from data_pipelines.core.errors import DataError
from data_pipelines.example import Entry, RawData, RawSplit
from tests.campaigns.fuzzing.case import Case, Make, Mutate, Rng, choose, copy_original, write_once
from tests.campaigns.fuzzing.changes import BYTES
from tests.support.tiny_data import CLASSES, build, quiet, standing_people, tiny_data
from tests.support.tiny_videos import TAGS, draw_frames, prepare_videos, write_lists

SPLIT, RECORDS = "train", 8
FIRST_BYTES = 64  # of a shard, before its first record


def write_images(folder: Path) -> None:
    build(folder, tiny_data(folder.with_suffix(".raw"), sizes={SPLIT: RECORDS}))


def write_multi(folder: Path) -> None:
    build(folder, tiny_data(folder.with_suffix(".raw"), sizes={SPLIT: RECORDS}, label_kind="multi"))


def write_videos(folder: Path) -> None:
    """Writes frames that share a few images, so that a shard is small."""
    write_lists(folder / "lists")
    for label, videos in TAGS.items():
        for seed, name in enumerate(videos):
            frames = folder / "frames" / label / name.removesuffix(".avi")
            frames.mkdir(parents=True)
            for index, frame in enumerate(draw_frames(seed, 3), 1):
                Image.fromarray(frame).save(frames / f"image_{index:05}.jpg")
    prepare_videos(folder, frames_per_video=3)
    for path in (folder / "out").iterdir():
        path.rename(folder / path.name)


def write_equally_long(folder: Path) -> None:
    """Writes records of noise, which are equally long."""
    raw = folder.with_suffix(".raw")
    raw.mkdir(exist_ok=True)
    entries = []
    for index in range(RECORDS):
        noise = np.random.default_rng(index).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        path = raw / f"{index}.bmp"
        Image.fromarray(noise).save(path)
        entries.append(Entry(path.name, path, index % 3, standing_people(1, 24, 24), index + 1))
    split = RawSplit(RECORDS, RECORDS, RECORDS, entries)
    build(folder, RawData("noise", "single", CLASSES, {SPLIT: split}, [], {}))


def zero_block(data: bytes, rng: Rng) -> bytes:
    """Overwrites up to a disk's sector with zeros, as a hole in a file has them."""
    start = 512 * int(rng.integers(1 + len(data) // 512))
    return data[:start] + bytes(min(512, len(data) - start)) + data[start + 512 :]


def move_bytes(data: bytes, rng: Rng) -> bytes:
    """Moves a part to another place; the size stays."""
    start, to, count = (int(each) for each in rng.integers(1, len(data), 3))
    part = data[start : start + count]
    rest = data[:start] + data[start + count :]
    return rest[:to] + part + rest[to:]


MUTATIONS: dict[str, Mutate] = {**BYTES, "block of zeros": zero_block, "bytes moved": move_bytes}


def mutate(data: bytes, rng: Rng, name: str, *, keeps_size: bool) -> bytes:
    """Mutates one part between the long paddings of zeros, by its length."""
    parts = re.split(rb"(\0{512,})", data)
    sizes = np.array([len(part) * (index % 2 == 0) for index, part in enumerate(parts)])
    at = int(rng.choice(len(parts), p=sizes / sizes.sum()))
    size = len(parts[at])
    changed = MUTATIONS[name](parts[at], rng)
    parts[at] = changed[:size].ljust(size, b"\0") if keeps_size else changed
    return b"".join(parts)


@functools.cache
def read_original(folder: Path) -> list[Any]:
    """Reads the records of an unchanged split, once."""
    source = records.open_split(folder, SPLIT, manifest.load(folder))
    return [source[position] for position in range(len(source))]


def read_all(folder: Path, originals: Sequence[Any]) -> list[int]:
    """Reads each record as training does; returns the positions of those that differ.

    Without any it raises the first refusal, which must name its record.
    """
    source = records.open_split(folder, SPLIT, manifest.load(folder))
    refusals, differing = [], []
    for position, original in enumerate(originals):
        try:
            if not is_equal(source[position], original):
                differing.append(position)
        except DataError as error:
            assert f"record {position} of split {SPLIT!r}" in str(error)
            refusals.append(error)
    if refusals and not differing:
        raise refusals[0]
    return differing


def is_equal(one: Any, other: Any) -> bool:
    """Compares two records or parts of them to the bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_equal(one[key], other[key]) for key in one)
    if isinstance(one, np.ndarray):
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    return type(one) is type(other) and one == other


def find_damage(folder: Path, is_found: bool, differing: Sequence[int]) -> str:
    """Describes records that differ, or a shard that `data check` accepts though `is_found`."""
    if differing:
        return f"records {[*differing]} differ"
    try:
        check.check_shards(folder, manifest.load(folder))
    except DataError:
        return ""
    return "its SHA-256 is not compared" if is_found else ""


def make_case(write: Callable[[Path], None], is_restated: bool, rng: Rng, folder: Path) -> Case:
    """Mutates the shard; if `is_restated` the manifest has its new size and digest."""
    originals = read_original(write_once(folder, write))
    data = copy_original(folder, write)
    path, before = find_shard(data)
    name = choose(rng, [*MUTATIONS])
    after = mutate(before, rng, name, keeps_size=not is_restated)
    path.write_bytes(after)
    if is_restated:
        restate(data)
    return Case(
        name,
        functools.partial(read_all, data, originals),
        functools.partial(find_damage, data, after != before and not is_restated),
    )


def make_exchange(rng: Rng, folder: Path) -> Case:
    """Copies a record over another one that is as long; both keep their own checksums."""
    data = copy_original(folder, write_equally_long)
    path, content = find_shard(data)
    originals = read_original(write_once(folder, write_equally_long))
    first, second = (content.index(each["image"][100:]) for each in originals[:2])
    length = second - first
    to, source = (FIRST_BYTES + length * int(each) for each in rng.permutation(RECORDS)[:2])
    part = content[source : source + length]
    path.write_bytes(content[:to] + part + content[to + length :])

    def read() -> None:
        assert read_all(data, originals) == [(to - FIRST_BYTES) // length]
        check.check(data, html=None, log=quiet)

    return Case("records exchanged", read, lambda _: "data check accepts it")


def find_shard(folder: Path) -> tuple[Path, bytes]:
    """Returns the path and the content of the only shard of the split."""
    (shard,) = manifest.load(folder).splits[SPLIT].shards
    return folder / shard.file, (folder / shard.file).read_bytes()


def restate(folder: Path) -> None:
    """Writes the size and the digest of the split's shard into the manifest."""
    stated = manifest.load(folder)
    split = stated.splits[SPLIT]
    path, content = find_shard(folder)
    shard = dataclasses.replace(split.shards[0], bytes=len(content), sha256=files.sha256(path))
    split = dataclasses.replace(split, shards=(shard,))
    manifest.save(dataclasses.replace(stated, splits={**stated.splits, SPLIT: split}), folder)


KINDS: dict[str, Make] = {
    "shard of images": functools.partial(make_case, write_images, False),
    "shard of images with several labels": functools.partial(make_case, write_multi, False),
    "shard of videos": functools.partial(make_case, write_videos, False),
    "shard that the manifest states": functools.partial(make_case, write_images, True),
    "shard with records exchanged, by `data check`": make_exchange,
}
