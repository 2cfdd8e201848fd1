"""Finds near-duplicates: photographs that differ by encoding, size, brightness or a slight crop.

Candidates are pairs whose difference hashes (64 bits: is a cell of 8 x 9 brighter than its left
neighbour?) differ in at most 3 bits. The hash alone would join most drawings and digits on plain
grounds, so a pair's thumbnails must correlate too. An index of four bands of 16 bits finds the
candidates: of 3 differing bits at least one band has none.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data_pipelines.core.errors import name_some

MAX_DISTANCE = 3  # differing bits of two hashes
MIN_CORRELATION = 0.98  # of two thumbnails
THUMBNAIL_PX = 16
_BAND_BITS = 64 // (MAX_DISTANCE + 1)
_CHUNK = 2**14  # candidates that are compared at once
_MAX_EDGES = 2**21  # more are replaced by one for each photograph

Edges = tuple[Int64[np.ndarray, " _"], Int64[np.ndarray, " _"]]


class Sketch(NamedTuple):
    """Holds what is compared of a photograph: its difference hash and a grey thumbnail."""

    hash: np.uint64
    thumbnail: UInt8[np.ndarray, "16 16"]


class Member(NamedTuple):
    """Names an image of a group; `position` is that in its split.

    `label` holds the ids of its classes, None without a label; bit k of `unknown` says that it is
    not known whether the image is of class k.
    """

    split: str
    name: str
    label: tuple[int, ...] | None
    position: int = 0
    unknown: int = 0


def sketch(image: UInt8[np.ndarray, "h w 3"]) -> Sketch:
    """Computes a photograph's sketch from averages over the areas of its cells."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    cells = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA)
    bits = np.packbits(cells[:, 1:] > cells[:, :-1])
    side = (THUMBNAIL_PX, THUMBNAIL_PX)
    return Sketch(bits.view(np.uint64)[0], cv2.resize(grey, side, interpolation=cv2.INTER_AREA))


def find_groups(sketches: Sequence[Sketch]) -> list[list[int]]:
    """Groups the positions of near-duplicates, also those that others connect; in their order."""
    if len(sketches) < 2:
        return []
    rows = np.stack([np.frombuffer(each.hash.tobytes() + each.thumbnail.tobytes(), np.uint8)
                     for each in sketches])  # fmt: skip
    # equal rows are joined here: they would be a quadratic number of pairs
    _, firsts, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    hashes = rows[firsts, :8].copy().view(np.uint64)[:, 0]
    groups = _connect(hashes, rows[firsts, 8:])[inverse.ravel()]
    order = np.argsort(groups, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    return sorted(part.tolist() for part in parts if len(part) > 1)


def _connect(
    hashes: UInt64[np.ndarray, " n"], thumbnails: UInt8[np.ndarray, "n cells"]
) -> Int64[np.ndarray, " n"]:
    """Returns the number of each row's connected group."""
    groups = np.arange(len(hashes))
    kept: list[Edges] = []
    for left, right in _candidates(hashes):
        near = _are_similar(thumbnails[left], thumbnails[right])
        kept.append((left[near], right[near]))
        if sum(len(each) for each, _ in kept) > _MAX_EDGES:
            groups = _components(groups, kept)
            kept = []
    return _components(groups, kept)


def _components(groups: Int64[np.ndarray, " n"], edges: Sequence[Edges]) -> np.ndarray:
    """Joins groups by edges between rows; a group's rows stay joined."""
    count = len(groups)
    left = np.concatenate([np.arange(count), *(each for each, _ in edges)])
    right = np.concatenate([count + groups, *(each for _, each in edges)])
    graph = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(2 * count, 2 * count))
    return connected_components(graph, directed=False)[1][:count].astype(np.int64)


def _candidates(hashes: UInt64[np.ndarray, " n"]) -> Iterator[Edges]:
    """Yields the pairs of rows whose hashes differ in few bits; a pair may come again."""
    for band in range(0, 64, _BAND_BITS):
        keys = (hashes >> np.uint64(band)) & np.uint64(2**_BAND_BITS - 1)
        order = np.argsort(keys, kind="stable")
        keys, sorted_hashes = keys[order], hashes[order]
        first = np.arange(len(keys))
        for step in itertools.count(1):  # each row with the one `step` rows on, in runs of one key
            first = first[first + step < len(keys)]
            first = first[keys[first] == keys[first + step]]
            if not len(first):
                break
            bits = np.bitwise_count(sorted_hashes[first] ^ sorted_hashes[first + step])
            near = first[bits <= MAX_DISTANCE]
            for part in np.split(near, range(_CHUNK, len(near), _CHUNK)):
                yield order[part], order[part + step]


def _are_similar(
    left: UInt8[np.ndarray, "pairs cells"], right: UInt8[np.ndarray, "pairs cells"]
) -> Bool[np.ndarray, " pairs"]:
    """Tells which pairs of thumbnails correlate; a plain one only with its equal."""
    one, other = (each - each.mean(1, keepdims=True) for each in map(np.float32, (left, right)))
    scale = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    correlates = (scale > 0) & ((one * other).sum(1) >= MIN_CORRELATION * scale)
    return correlates | (left == right).all(1)


def list_conflicts(groups: Sequence[Sequence[Member]]) -> dict[str, list[str]]:
    """Names a pair of each group that lies in two splits, and of each that has two labels."""
    found: dict[str, list[str]] = {
        "groups of near-duplicates in two splits": [],
        "groups of near-duplicates with different labels": [],
    }
    across_splits, across_labels = found.values()
    for group in groups:
        for pair, lines in (
            (_find_other_split(group), across_splits),
            (_find_disagreement(group), across_labels),
        ):
            if pair:
                lines.append(" and ".join(f"{each.split} {each.name!r}" for each in pair))
    return found


def _find_other_split(members: Sequence[Member]) -> tuple[Member, Member] | None:
    """Returns the first member and the first of another split, or None."""
    for other in members[1:]:
        if other.split != members[0].split:
            return members[0], other
    return None


def _find_disagreement(members: Sequence[Member]) -> tuple[Member, Member] | None:
    """Returns a member of some class and one that is known not to be of it, or None."""
    labelled = [(at, each) for at, each in enumerate(members) if each.label is not None]
    first_of: dict[int, tuple[int, Member]] = {}  # by class
    for at, each in labelled:
        for k in each.label or ():
            first_of.setdefault(k, (at, each))
    for k, (at, each) in first_of.items():
        for other_at, other in labelled:
            if k not in (other.label or ()) and not other.unknown >> k & 1:
                return (each, other) if at < other_at else (other, each)
    return None


def describe_groups(groups: Sequence[Sequence[Member]]) -> Iterator[str]:
    """Yields lines for a summary: how many near-duplicates there are, and their conflicts."""
    if groups:
        count = sum(map(len, groups))
        yield f"near-duplicates: {count:,} images in {len(groups):,} groups"
    for text, named in list_conflicts(groups).items():
        if named:
            yield f"{text} ({len(named):,}): {name_some(named, separator='; ')}"


def is_conflict(group: Sequence[Member]) -> bool:
    """Tells whether a group lies in two splits or has two labels."""
    return any(list_conflicts([group]).values())
