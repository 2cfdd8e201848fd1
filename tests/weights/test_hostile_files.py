"""Small files that declare huge contents, and damaged files."""

import os
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines.core.errors import CheckpointError
from gap_jax.weights.formats.read import open_arrays
from tests.support import foreign_files as foreign

VALUES = {"a": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "b": np.ones(7, np.float32)}


def in_zip(pickle: bytes) -> bytes:
    return foreign.zipped(pickle, {"0": VALUES["a"]})


def strided(shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    """A tensor whose strides repeat the same values."""
    values = np.zeros(2**16, np.float32)
    steps = [stride * values.itemsize for stride in strides]
    view = np.lib.stride_tricks.as_strided(values, shape, steps)
    tensor = foreign.tensor("0", view, length=values.size)
    return foreign.zipped(foreign.mapping(a=tensor), {"0": values})


def nested(levels: int) -> bytes:
    """A dictionary whose key is a nested pair of the same pair."""
    pairs = b"".join(b"2\x86" for _ in range(levels))
    return b"\x80\x02}(K\x01" + pairs + b"K\x02u."


def remembered(levels: int) -> bytes:
    """The same with the memo."""
    pairs = b"".join(b"q\x00h\x00\x86" for _ in range(levels))
    return b"\x80\x02}(K\x01" + pairs + b"K\x02u."


def prefixed(count: int) -> dict[bytes, bytes]:
    """Names that grow by one byte each."""
    return {b"a" * length: b"" for length in range(1, count)}


@pytest.mark.slow
def test_bombs_are_refused_fast_in_little_memory(tmp_path: Path) -> None:
    """Reads all in one process with an address limit of a few GiB; at most 1 GiB is used."""
    zeros = {"0": np.zeros(2**26, np.float32)}
    pickle = foreign.mapping(a=foreign.tensor("0", zeros["0"]))
    bombs = [
        foreign.zipped(pickle, zeros, method=zipfile.ZIP_DEFLATED),
        (2**60).to_bytes(8, "little") + b"{" + bytes(99),
        in_zip(foreign.pickled(b"Nr\xff\xff\xff\x7f")),  # a memo of that many entries
        strided((2**15, 2**15), (1, 1)),
        strided((21000, 21000, 21000), (1, 1, 1)),
        strided((2, 2**15), (1, 1)),
        in_zip(nested(60)),
        in_zip(remembered(60)),
        foreign.tabled(prefixed(3000)),
    ]
    paths = [tmp_path / f"{index}.index" for index in range(len(bombs))]
    for path, content in zip(paths, bombs, strict=True):
        path.write_bytes(content)
    paths.append(tmp_path / "sparse")
    with paths[-1].open("wb") as file:
        file.truncate(50 * 2**30)
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from data_pipelines.core.errors import CheckpointError\n"
        "from gap_jax.weights.formats.read import open_arrays\n"
        "resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30,) * 2)\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        open_arrays(Path(path))\n"
        "    except CheckpointError:\n"
        "        print('refused')\n"
        "held = Path('/proc/self/status')\n"  # getrusage counts what the parent had before
        "lines = held.read_text().splitlines() if held.exists() else ['VmHWM: 0 kB']\n"
        "print(next(line.split()[1] for line in lines if line.startswith('VmHWM')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, paths)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    *refused, peak_kb = done.stdout.split()
    assert refused == ["refused"] * len(paths)
    assert int(peak_kb) < 2**19


@pytest.mark.parametrize("kind", ["zip", "legacy", "single", "bundle", "numpy", "hdf5"])
def test_changed_byte_is_harmless_or_refused(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind)
    target = path if path.exists() else path.with_name(path.name + ".index")
    content, rng = target.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(40 if kind in ("single", "bundle") else 150):  # checksums take time
        changed = bytearray(content)
        for spot in rng.integers(0, min(len(content), 4096), rng.integers(1, 5)):
            changed[spot] = rng.integers(256)
        target.write_bytes(changed)
        try:
            open_arrays(path)
        except CheckpointError:
            refused += 1
    assert refused > 0


def write(folder: Path, kind: str) -> Path:
    """Writes a file of that kind and returns its path, of a bundle its prefix."""
    path = folder / "file"
    match kind:
        case "zip":
            path.write_bytes(foreign.torch_zip(VALUES))
        case "legacy":
            path.write_bytes(foreign.torch_legacy(VALUES))
        case "single":
            path.write_bytes(foreign.single(VALUES))
        case "bundle":
            foreign.bundle(path, VALUES)
        case "numpy":
            with path.open("wb") as file:
                np.save(file, np.array({"a": VALUES}, object), allow_pickle=True)
        case _:
            h5py = pytest.importorskip("h5py")
            with h5py.File(path, "w") as file:
                for name, values in VALUES.items():
                    file[f"{name}/{name}/kernel:0"] = values
    return path


@pytest.mark.slow
def test_large_arrays_are_checked_in_pieces(tmp_path: Path) -> None:
    """Checks of single values took a minute for 40 MB."""
    values = {"flat": np.ones(2**23, np.float32), "thin": np.ones((2**23, 1), np.float32).T}
    start = time.process_time()
    (tmp_path / "w").write_bytes(foreign.torch_zip(values))
    assert open_arrays(tmp_path / "w").arrays["thin"].shape == (1, 2**23)
    assert time.process_time() - start < 5
    for name, values_of_it in values.items():
        values_of_it[..., -1] = np.inf
        (tmp_path / "w").write_bytes(foreign.torch_zip(values))
        with pytest.raises(CheckpointError, match=f"values in {name} that are not finite"):
            open_arrays(tmp_path / "w")
        values_of_it[..., -1] = 1


@pytest.mark.slow
def test_storage_with_many_names_is_refused(tmp_path: Path) -> None:
    values = np.zeros(2**20, np.float32)
    for names, fine in ((8, True), (2**11, False)):
        tensors = {f"a{index}": foreign.tensor("0", values) for index in range(names)}
        (tmp_path / "w").write_bytes(foreign.zipped(foreign.mapping(**tensors), {"0": values}))
        if fine:
            assert len(open_arrays(tmp_path / "w").arrays) == names
        else:
            with pytest.raises(CheckpointError, match="its 2,048 arrays would take 8,192 MiB"):
                open_arrays(tmp_path / "w")


def test_overlapping_zip_entries_are_refused(tmp_path: Path) -> None:
    """The second entry is part of the first; both together are larger than the file."""
    values = np.zeros(2**12, np.float32)
    inner = zipfile.ZipInfo("archive/data/1")
    inner.file_size = inner.compress_size = values.nbytes
    inner.CRC = zlib.crc32(values.tobytes())
    around = np.frombuffer(inner.FileHeader() + values.tobytes(), np.float32)
    pickle = foreign.mapping(a=foreign.tensor("0", around), b=foreign.tensor("1", values))
    with zipfile.ZipFile(tmp_path / "w", "w") as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/data/0", around.tobytes())
        outer = archive.getinfo("archive/data/0")
        inner.header_offset = outer.header_offset + len(outer.FileHeader())
        archive.filelist.append(inner)
    with zipfile.ZipFile(tmp_path / "w") as archive:
        assert archive.testzip() is None
    with pytest.raises(CheckpointError, match="larger than the file"):
        open_arrays(tmp_path / "w")


class Again:
    """An array whose bytes are referenced twice in the pickle."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __reduce__(self) -> tuple[Any, ...]:
        state = (1, (len(self.content) // 4,), np.dtype("f4"), False, self.content)
        return np.zeros(0).__reduce__()[0], (np.ndarray, (0,), b"b"), state


def test_repeated_bytes_in_numpy_pickle_are_refused(tmp_path: Path) -> None:
    content = bytes(2**16)
    for count, fine in ((1, True), (3, False)):
        layer = {f"v{index}": Again(content) for index in range(count)}
        with (tmp_path / "w").open("wb") as file:
            np.save(file, np.array({"a": layer}, object), allow_pickle=True)
        if fine:
            assert open_arrays(tmp_path / "w").arrays["a/v0"].shape == (2**14,)
        else:
            with pytest.raises(CheckpointError, match="its arrays are larger than the file"):
                open_arrays(tmp_path / "w")


def test_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w")
    with pytest.raises(CheckpointError, match="it is no file"):
        open_arrays(tmp_path / "w")


@pytest.mark.parametrize("named", [b"c__builtin__\neval\n", b"K\x01", b")"])
@pytest.mark.parametrize("part", ["type", "key"])
def test_invalid_storage_references_are_refused(tmp_path: Path, part: str, named: bytes) -> None:
    tensor = foreign.tensor("0", VALUES["a"])
    reference = {"type": foreign.named("torch", "FloatStorage"), "key": foreign.text("0")}[part]
    assert tensor.count(reference) == 1
    (tmp_path / "w").write_bytes(in_zip(foreign.mapping(a=tensor.replace(reference, named))))
    with pytest.raises(CheckpointError, match="is not allowed in weights"):
        open_arrays(tmp_path / "w")


def test_encrypted_entry_is_refused(tmp_path: Path) -> None:
    content = bytearray(foreign.torch_zip(VALUES))
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        offset = -1
        while (offset := content.find(mark, offset + 1)) >= 0:
            content[offset + flags] |= 1
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(CheckpointError, match="encrypted"):
        open_arrays(tmp_path / "w")
