"""TensorFlow's bundles with wrong tables, data files or variables."""

import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from data_pipelines.core.errors import CheckpointError
from gap_jax.weights.formats import tensorflow_file
from gap_jax.weights.formats.read import open_arrays
from tests.support import foreign_files as foreign


def test_overlapping_blocks_are_refused(tmp_path: Path) -> None:
    """Writes a table that lists one block many times."""
    table = foreign.sealed(foreign.block({b"a": foreign.field(9, bytes(2**16))}))
    handle = foreign.varint(0) + foreign.varint(len(table) - 5)
    index = foreign.sealed(foreign.block({b"%03d" % n: handle for n in range(200)}))
    footer = handle + foreign.varint(len(table)) + foreign.varint(len(index) - 5)
    (tmp_path / "w.data-00000-of-00001").write_bytes(b"w")
    (tmp_path / "w.index").write_bytes(
        table + index + footer.ljust(40, b"\0") + foreign.TABLE_MAGIC
    )
    with pytest.raises(CheckpointError, match="its blocks are larger than the file"):
        open_arrays(tmp_path / "w")


def test_long_integer_variables_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number takes one byte in the file and eight in memory."""
    monkeypatch.setattr(tensorflow_file, "LARGEST_INTEGERS_BYTES", 99)
    (tmp_path / "w").write_bytes(foreign.single({"steps": np.arange(99)}))
    np.testing.assert_array_equal(open_arrays(tmp_path / "w").arrays["steps"], np.arange(99))
    (tmp_path / "w").write_bytes(foreign.single({"steps": np.arange(100)}))
    with pytest.raises(CheckpointError, match="steps has 100 bytes of whole numbers"):
        open_arrays(tmp_path / "w")


def entry(**fields: int) -> bytes:
    """A bundle's entry with one float."""
    numbers = {"size": 4, "crc": foreign.mask(google_crc32c.value(bytes(4))), **fields}
    shape = foreign.field(2, foreign.field(1, 1)) * numbers.get("axes", 1)
    return b"".join(
        [
            foreign.field(1, 1), foreign.field(2, shape), foreign.field(5, numbers["size"]),
            foreign.varint(6 << 3 | 5), struct.pack("<I", numbers["crc"]),
        ]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("entries", "data", "message"),
    [
        ({b"a": entry()}, 4, ""),
        ({b"": foreign.field(1, 2), b"a": entry()}, 4, ""),  # the second file is empty
        ({b"": foreign.field(1, 1001)}, 4, "it is spread over 1001 files"),
        ({b"": foreign.field(1, 3), b"a": entry()}, 4, "w.data-00000-of-00003 is missing"),
        ({b"a": entry(), b"b": entry()}, 4, "its variables are larger than its data files"),
        ({b"a": entry(axes=9)}, 4, "a variable of 9 axes"),
        ({b"a": entry()}, 5 * 2**30, "its data files have 5,120 MiB"),
        ({b"a": entry()}, -1, "w.data-00000-of-00001 is missing or no file"),
    ],
)
def test_bundle_limits(
    tmp_path: Path, entries: dict[bytes, bytes], data: int, message: str
) -> None:
    """`data` is the size of the first file; -1: it is a pipe."""
    count = 2 if b"" in entries else 1
    for number in range(count):
        path = tmp_path / f"w.data-{number:05d}-of-{count:05d}"
        if data < 0:
            os.mkfifo(path)
            continue
        with path.open("wb") as file:
            file.truncate(0 if number else data)
    (tmp_path / "w.index").write_bytes(foreign.tabled(entries))
    if message:
        with pytest.raises(CheckpointError, match=message):
            open_arrays(tmp_path / "w")
    else:
        assert open_arrays(tmp_path / "w").arrays.keys() == {"a"}


def test_table_without_entries_is_refused(tmp_path: Path) -> None:
    index = foreign.sealed(foreign.block({}))
    handle = foreign.varint(0) + foreign.varint(len(index) - 5)
    (tmp_path / "w.index").write_bytes(index + (handle * 2).ljust(40, b"\0") + foreign.TABLE_MAGIC)
    with pytest.raises(CheckpointError, match=r"w\.data-00000-of-00001 is missing or no file"):
        open_arrays(tmp_path / "w.index")


@pytest.mark.slow
def test_many_small_variables_are_read_fast(tmp_path: Path) -> None:
    """The vectorised checksum took hundredths of a second for each."""
    foreign.bundle(tmp_path / "w", {f"{n:04d}": np.ones(1, np.float32) for n in range(3000)})
    start = time.process_time()
    assert len(open_arrays(tmp_path / "w").arrays) == 3000
    assert time.process_time() - start < 5


def test_entry_that_leaves_its_block_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its value would extend into the restart offsets after the entries."""
    write_block = foreign.block

    def lengthen(entries: Mapping[bytes, bytes]) -> bytes:
        shared, unshared, length, *rest = write_block(entries)
        return bytes([shared, unshared, length + 2 * (b"a" in entries), *rest])

    monkeypatch.setattr(foreign, "block", lengthen)
    (tmp_path / "w.index").write_bytes(foreign.tabled({b"a": entry()}))
    (tmp_path / "w.data-00000-of-00001").write_bytes(bytes(4))
    with pytest.raises(CheckpointError, match="an entry ends after its block"):
        open_arrays(tmp_path / "w")
