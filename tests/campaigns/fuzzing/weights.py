"""Mutated and hostile files of weights.

Weights whose format has checksums must be refused or give the arrays that were written.
"""

import functools
import gzip
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import safetensors.numpy

from gap_jax.weights.formats import Arrays
from gap_jax.weights.formats.read import open_arrays
from tests.campaigns.fuzzing.case import Case, Make, Rng, choose
from tests.campaigns.fuzzing.changes import BYTES
from tests.campaigns.fuzzing.hostile import BOMB_BYTES, MANY, SPECIAL
from tests.campaigns.fuzzing.shards import is_equal
from tests.support import foreign_files as foreign


def draw() -> Arrays:
    rng = np.random.default_rng(0)
    return {
        "conv.weight": rng.normal(size=(3, 3, 4, 8)).astype(np.float32),
        "fc.bias": rng.normal(size=16).astype(np.float32),
    }


def write_hdf5(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[f"{name}/{name}/kernel:0"] = values


def write_numpy(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.save(file, np.array({"a": dict(arrays)}, object), allow_pickle=True)


WEIGHTS: dict[str, tuple[Callable[[Path, Arrays], Any], bool]] = {  # whether it has checksums
    "torch zip": (lambda path, arrays: path.write_bytes(foreign.torch_zip(arrays)), True),
    "torch before 1.6": (
        lambda path, arrays: path.write_bytes(foreign.torch_legacy(arrays)),
        False,
    ),
    "safetensors": (lambda path, arrays: path.write_bytes(safetensors.numpy.save(arrays)), False),
    "TensorFlow bundle": (foreign.bundle, True),
    "TensorFlow file": (lambda path, arrays: path.write_bytes(foreign.single(arrays)), True),
    "Keras HDF5": (write_hdf5, False),
    "numpy dictionary": (write_numpy, False),
}


def make_weights(kind: str, rng: Rng, folder: Path) -> Case:
    """Mutates a file of weights, or puts a special file in its place."""
    write, has_checksums = WEIGHTS[kind]
    path = folder / "w"
    write(path, draw())
    originals = open_arrays(path).arrays
    target = choose(rng, sorted(folder.iterdir()))
    if rng.random() < 0.2:
        name = choose(rng, [*SPECIAL])
        target.unlink()
        SPECIAL[name](target)
    else:
        name = choose(rng, [*BYTES])
        target.write_bytes(BYTES[name](target.read_bytes(), rng))

    def find_damage(arrays: Arrays) -> str:
        is_same = not has_checksums or is_equal(arrays, originals)
        return "" if is_same else "other arrays than were written"

    return Case(name, lambda: open_arrays(path).arrays, find_damage)


def make_bomb(rng: Rng, folder: Path) -> Case:
    """Makes a small file of weights that states or unpacks to huge ones."""
    zeros = {"0": np.zeros(2 ** int(rng.integers(20, 27)), np.float32)}
    stored = foreign.mapping(a=foreign.tensor("0", zeros["0"]))
    size = int(rng.integers(2**20, 2**62))
    bombs: dict[str, Callable[[], bytes]] = {
        "compressed zeros": lambda: foreign.zipped(stored, zeros, method=zipfile.ZIP_DEFLATED),
        "stated header": lambda: size.to_bytes(8, "little") + b"{" + bytes(99),
        "stated memo": lambda: foreign.zipped(foreign.pickled(b"Nr\xff\xff\xff\x7f"), {}),
        "nested pairs": lambda: foreign.zipped(
            foreign.pickled(b"}(K\x01" + b"2\x86" * 60 + b"K\x02u"), {}
        ),
        "nested brackets": lambda: foreign.pickled(b"(" * 10**6 + b"t" * 10**6),
        "growing names": lambda: foreign.tabled({b"a" * n: b"" for n in range(1, MANY)}),
        "nested header": lambda: (2 * 10**6).to_bytes(8, "little") + b'{"a":' * 400_000,
        "gzip": lambda: gzip.compress(bytes(BOMB_BYTES), 1),
    }
    name = choose(rng, [*bombs])
    path = folder / "w.index"
    path.write_bytes(bombs[name]())
    return Case(name, lambda: open_arrays(path), lambda _: "it is accepted")


KINDS: dict[str, Make] = {
    **{f"weights, {kind}": functools.partial(make_weights, kind) for kind in WEIGHTS},
    "weights, bomb": make_bomb,
}
