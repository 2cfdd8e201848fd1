"""Near-duplicates are found as by comparing all pairs, and are grouped, named and kept together."""

import itertools

import cv2
import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from data_pipelines.photographs import duplicates
from data_pipelines.photographs.duplicates import (
    MAX_DISTANCE,
    MIN_CORRELATION,
    Member,
    Sketch,
    describe_groups,
    find_groups,
    is_conflict,
    list_conflicts,
    sketch,
)
from data_pipelines.photographs.intake import make_member
from data_pipelines.photographs.split import choose_val


def photo(seed: int, side: int = 96) -> np.ndarray:
    cells = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return cv2.resize(cells, (side, side), interpolation=cv2.INTER_CUBIC)


def encoded_again(image: np.ndarray) -> np.ndarray:
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 50])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))


SAME = {
    "equal": lambda image: image.copy(),
    "encoded again": encoded_again,
    "half as large": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5,
                                              interpolation=cv2.INTER_AREA),
    "cropped by a hundredth": lambda image: image[1:-1, 1:-1],
    "brighter": lambda image: np.clip(image * 0.9 + 20, 0, 255).astype(np.uint8),
}  # fmt: skip
OTHER = {
    "another": lambda image: photo(image.size),
    "mirrored": lambda image: image[:, ::-1].copy(),
    "cropped by a third": lambda image: image[:64, :64].copy(),
}


@pytest.mark.parametrize("change", SAME)
def test_a_copy_is_found(change: str) -> None:
    images = [photo(0), photo(1), np.ascontiguousarray(SAME[change](photo(0)))]
    assert find_groups([sketch(image) for image in images]) == [[0, 2]]


@pytest.mark.parametrize("change", OTHER)
def test_another_photograph_is_not(change: str) -> None:
    assert find_groups([sketch(photo(0)), sketch(OTHER[change](photo(0)))]) == []


def test_plain_images_are_duplicates_only_of_their_equals() -> None:
    plain = [np.full((9, 9, 3), grey, np.uint8) for grey in (0, 70, 255, 70)]
    assert find_groups([sketch(image) for image in plain]) == [[1, 3]]
    assert find_groups([]) == find_groups([sketch(plain[0])]) == []


def near_sketches(count: int, seed: int) -> list[Sketch]:
    """Returns sketches of which many lie at, below and above either bound."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2**63, 6, dtype=np.uint64)
    thumbnails = rng.integers(0, 256, (6, 16, 16), dtype=np.uint8)
    made = []
    for _ in range(count):
        which, flips = rng.integers(6), rng.integers(0, 5)
        value = base[which]
        for bit in rng.choice(64, flips, replace=False):
            value ^= np.uint64(1) << np.uint64(bit)
        noise = rng.normal(0, rng.choice([0, 8, 14, 30]), (16, 16))
        made.append(Sketch(value, np.clip(thumbnails[which] + noise, 0, 255).astype(np.uint8)))
    return made


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_those_of_all_pairs(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sketches = near_sketches(150, seed)
    near = np.zeros((150, 150), bool)
    for i, j in itertools.combinations(range(150), 2):
        one, other = sketches[i], sketches[j]
        bits = int(one.hash ^ other.hash).bit_count()
        cells = np.corrcoef(one.thumbnail.ravel(), other.thumbnail.ravel())[0, 1]
        near[i, j] = bits <= MAX_DISTANCE and cells >= MIN_CORRELATION
    number = connected_components(near, directed=False)[1]
    expected = sorted(
        np.flatnonzero(number == each).tolist()
        for each in set(number.tolist())
        if (number == each).sum() > 1
    )
    assert find_groups(sketches) == expected
    assert len(expected) > 3 and max(map(len, expected)) > 5
    monkeypatch.setattr(duplicates, "_MAX_EDGES", 5)
    monkeypatch.setattr(duplicates, "_CHUNK", 7)
    assert find_groups(sketches) == expected


def test_many_equal_images_cost_little() -> None:
    assert find_groups([sketch(photo(0))] * 20_000) == [list(range(20_000))]


def test_conflicts_are_named() -> None:
    groups = [
        [Member("train", "a", (0,)), Member("train", "b", (0,)), Member("val", "c", (0,))],
        [Member("train", "d", (0,)), Member("train", "e", (1,))],
        [Member("train", "f", (0,)), Member("test", "g", None)],
        [Member("val", "h", (2,)), Member("val", "i", (2,))],
    ]
    assert list(describe_groups(groups)) == [
        "near-duplicates: 9 images in 4 groups",
        "groups of near-duplicates in two splits (2): "
        "train 'a' and val 'c'; train 'f' and test 'g'",
        "groups of near-duplicates with different labels (1): train 'd' and train 'e'",
    ]
    assert [is_conflict(group) for group in groups] == [True, True, True, False]
    assert list(describe_groups([])) == []


@pytest.mark.parametrize(
    ("labels", "pair"),
    [
        ([(1, 0, -1), (1, -2, 1)], None),
        ([(1, 0, -1), (1, -2, 0)], None),
        ([(1, 0, -3), (0, -1, 1), (1, 0, 1)], "train '0' and train '1'"),
        ([(0, -2, -2), (-2, 1, 0), (-1, 0, -1)], "train '1' and train '2'"),
        ([(-1, -1, -2), (0, 0, 0), (-1, -2, 1)], "train '1' and train '2'"),
        ([(-1, -2, -3), (0, 1, 1)], None),
        ([3, 3, -1], None),
        ([-1, 2, 3], "train '1' and train '2'"),
    ],
)
def test_only_known_labels_disagree(labels: list[int | tuple[int, ...]], pair: str | None) -> None:
    stored = [np.array(each, np.int8) if isinstance(each, tuple) else each for each in labels]
    group = [make_member("train", str(index), each) for index, each in enumerate(stored)]
    (_, lines) = list_conflicts([group]).values()
    assert lines == [pair] * (pair is not None)


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_each_class_gets_its_share(fraction: float, seed: int) -> None:
    sizes = (1, 2, 3, 10, 57)
    labels = [(each,) for each, size in enumerate(sizes) for _ in range(size)]
    in_val = choose_val(labels, [], fraction, seed)
    found = [sum(in_val[i] for i, (each,) in enumerate(labels) if each == k) for k in range(5)]
    assert found == [min(size - 1, max(1, round(fraction * size))) for size in sizes]
    np.testing.assert_array_equal(in_val, choose_val(labels, [], fraction, seed))
    assert not np.array_equal(in_val, choose_val(labels, [], fraction, seed + 1))


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_whole_and_no_class_exceeds_its_share(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = [tuple(np.flatnonzero(rng.random(6) < 0.3).tolist()) for _ in range(300)]
    order = rng.permutation(300)[:120].tolist()
    groups = [order[at : at + int(rng.integers(2, 6))] for at in range(0, 120, 5)]
    in_val = choose_val(labels, groups, 0.2, seed)
    for group in groups:
        assert len(set(in_val[group].tolist())) == 1
    for each in range(6):
        held = [each in label for label in labels]
        share = in_val[held].mean()
        assert 0.15 < share <= 0.2 + 1 / sum(held)


def test_an_image_without_class_stays_in_training_and_a_large_group_too() -> None:
    labels = [(0,)] * 10 + [(1,)] * 10 + [()] * 5
    in_val = choose_val(labels, [list(range(10))], 0.2, 0)
    assert not in_val[:10].any() and in_val[10:20].sum() == 2 and not in_val[20:].any()
