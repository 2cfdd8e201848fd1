"""Foreign files are read exactly; files that are damaged or hold code are refused."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors.numpy

from data_pipelines.core.errors import CheckpointError
from gap_jax.weights.formats.read import open_arrays
from tests.support import foreign_files as foreign

Write = Callable[[Path], Path]


def draw() -> dict[str, np.ndarray]:
    """Draws arrays of different types, one of them with unusual strides."""
    rng = np.random.default_rng(0)
    return {
        "conv.weight": rng.normal(size=(4, 3, 2, 2)).astype(np.float32),
        "conv.weight_long": rng.normal(size=7),
        "steps": np.array([3, -5], np.int64),
        "turned": rng.normal(size=(3, 5)).astype(np.float32).T,
    }


def write(name: str, content: bytes) -> Write:
    def into(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return into


def write_hdf5(folder: Path) -> Path:
    """Writes like keras-applications: a layer's group holds a group of the same name."""
    with h5py.File(folder / "w.weights", "w") as file:
        for name, values in draw().items():
            layer = name.partition(".")[0]
            file[f"{layer}/{layer}/{name}:0"] = values
    return folder / "w.weights"


def write_numpy(folder: Path) -> Path:
    layers = {name.partition(".")[0]: {} for name in draw()}
    for name, values in draw().items():
        layers[name.partition(".")[0]][name] = values
    np.save(folder / "w.npy", np.array(layers, object), allow_pickle=True)
    return folder / "w.npy"


def write_single(folder: Path) -> Path:
    arrays = {name: np.ascontiguousarray(values) for name, values in draw().items()}
    (folder / "old.ckpt").write_bytes(foreign.single(arrays))
    return folder / "old.ckpt"


def write_bundle(folder: Path) -> Path:
    arrays = {name: np.ascontiguousarray(values) for name, values in draw().items()}
    foreign.bundle(folder / "model.ckpt-7", arrays)
    return folder / "model.ckpt-7"


WRITERS: dict[str, Write] = {
    "torch": write("w.bin", foreign.torch_zip(draw())),
    "torch before 1.6": write("w.tar", foreign.torch_legacy(draw())),
    "safetensors": write("w", safetensors.numpy.save(
        {name: np.ascontiguousarray(values) for name, values in draw().items()})),
    "tensorflow bundle": write_bundle,
    "tensorflow file": write_single,
    "keras HDF5": write_hdf5,
    "numpy dictionary": write_numpy,
}  # fmt: skip


@pytest.mark.parametrize("kind", WRITERS)
def test_arrays_roundtrip_exactly(tmp_path: Path, kind: str) -> None:
    file = open_arrays(WRITERS[kind](tmp_path))
    assert file.format == kind and len(file.sha256) == 64
    layered = kind in ("keras HDF5", "numpy dictionary")
    names = {name: f"{name.partition('.')[0]}/{name}" if layered else name for name in draw()}
    assert file.arrays.keys() == set(names.values())
    for name, values in draw().items():
        assert file.arrays[names[name]].dtype == values.dtype
        np.testing.assert_array_equal(file.arrays[names[name]], values)


@pytest.mark.parametrize("make", [foreign.torch_zip, foreign.torch_legacy])
def test_data_parallel_prefix_is_removed(
    tmp_path: Path, make: Callable[[foreign.Arrays], bytes]
) -> None:
    values = {f"module.{name}": each for name, each in draw().items()}
    assert open_arrays(write("w.pth", make(values))(tmp_path)).arrays.keys() == draw().keys()
    mixed = values | {"epoch": np.ones(1)}
    assert open_arrays(write("w.pth", make(mixed))(tmp_path)).arrays.keys() == mixed.keys()


@pytest.mark.parametrize("kind", WRITERS)
def test_truncated_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = WRITERS[kind](tmp_path)
    for part in [path] if path.exists() else sorted(tmp_path.iterdir()):
        content = part.read_bytes()
        for size in (0, 1, 9, len(content) // 3, len(content) // 2, len(content) - 1):
            part.write_bytes(content[:size])
            refuse(path)
        part.write_bytes(content)
        assert open_arrays(path).arrays


def test_bundle_with_changed_bit_is_refused(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path)
    for part in sorted(tmp_path.iterdir()):
        content = bytearray(part.read_bytes())
        content[5] ^= 4
        part.write_bytes(content)
        assert "checksum" in refuse(prefix)
        content[5] ^= 4
        part.write_bytes(content)


def test_bundle_digest_covers_all_files(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path)
    index, data = (
        prefix.with_name(prefix.name + end) for end in (".index", ".data-00000-of-00001")
    )
    whole = hashlib.sha256(index.read_bytes() + data.read_bytes()).hexdigest()
    assert open_arrays(prefix).sha256 == open_arrays(index).sha256 == whole


def test_bundle_without_checksums_is_refused(tmp_path: Path) -> None:
    entry = foreign.field(1, 1) + foreign.field(2, foreign.field(2, foreign.field(1, 1)))
    (tmp_path / "w.data-00000-of-00001").write_bytes(bytes(4))
    table = foreign.tabled({b"": foreign.field(1, 1), b"a": entry + foreign.field(5, 4)})
    (tmp_path / "w.index").write_bytes(table)
    assert "the checksum of a differs" in refuse(tmp_path / "w")


def refuse(path: Path) -> str:
    """Returns the one line of a refusal."""
    with pytest.raises(CheckpointError) as refusal:
        open_arrays(path)
    line = str(refusal.value)
    assert refusal.value.exit_code == 66 and str(path) in line and "\n" not in line
    return line


VALUES = np.ones((2, 3), np.float32)


def in_zip(pickle: bytes) -> bytes:
    return foreign.zipped(pickle, {"0": VALUES})


def touching(canary: Path) -> dict[str, bytes]:
    """Pickles that would create a file if their code ran."""
    mark = foreign.text(f"touch {canary}")
    system = foreign.called(foreign.named("os", "system"), mark)
    code = foreign.text(f"open({str(canary)!r}, 'w')")
    evaluated = foreign.called(foreign.named("builtins", "eval"), code)
    getter = foreign.called(
        foreign.named("builtins", "getattr"),
        foreign.called(foreign.named("builtins", "__import__"), foreign.text("os")),
        foreign.text("system"),
    )
    built = foreign.named("torch._utils", "_rebuild_tensor_v2") + b"}(" + code + b"Nub"
    return {
        "posix": foreign.called(foreign.named("posix", "system"), mark),
        "system": system,
        "eval": evaluated,
        "getattr": foreign.called(getter, mark),
        "beside a tensor": foreign.tensor("0", VALUES) + b"0" + system,
        "numpy": foreign.called(foreign.named("numpy", "load"), code),
        "dotted": foreign.called(foreign.named("torch", "FloatStorage.__reduce__"), mark),
        "inst": b"(" + mark + b"ios\nsystem\n",
        "extension": b"\x82\x01",
        "newobj": foreign.named("os", "system") + foreign.row(mark) + b"\x81",
        "build": built,
        "persistent": foreign.row(foreign.text("module"), system) + b"Q",
        "memo": b"Nr\xff\xff\xff\x7f",
        "reading": b"\x8e" + b"\xff" * 7 + b"\x00",
        "deep": b"(" * 100_000 + b"t" * 100_000,
    }


@pytest.mark.slow
@pytest.mark.parametrize("attack", touching(Path()))
@pytest.mark.parametrize("form", ["zip", "legacy", "bare"])
def test_pickle_code_never_runs(tmp_path: Path, attack: str, form: str) -> None:
    canary = tmp_path / "canary"
    content = foreign.pickled(b"}" + foreign.text("a") + touching(canary)[attack] + b"s")
    match form:
        case "zip":
            content = in_zip(content)
        case "legacy":
            start = foreign.torch_legacy({})
            at = start.index(foreign.mapping())
            content = start[:at] + content + start[at:]
    refuse(write("w.pth", content)(tmp_path))
    assert not canary.exists()


LIES = {
    "strides that lead out": foreign.tensor("0", VALUES, strides=(3, 3)),
    "strides that repeat": foreign.tensor("0", VALUES, strides=(0, 1)),
    "negative strides": foreign.tensor("0", VALUES, strides=(-3, 1)),
    "a longer storage": foreign.tensor("0", VALUES, length=2**40),
    "an absent storage": foreign.tensor("1", VALUES),
    "a storage outside": foreign.tensor("../version", VALUES),
    "a huge shape": foreign.tensor("0", np.broadcast_to(VALUES[:1, :1], (2**30, 2**30))),
}


@pytest.mark.parametrize("lie", LIES)
def test_tensors_outside_their_storage_are_refused(tmp_path: Path, lie: str) -> None:
    refuse(write("w.pth", in_zip(foreign.mapping(a=LIES[lie])))(tmp_path))


def test_other_files_are_refused_with_reason(tmp_path: Path) -> None:
    assert "does not exist" in refuse(tmp_path / "absent")
    assert "cannot be read" in refuse(tmp_path)
    assert "unknown format" in refuse(write("w.pth", b"%PDF a book of weights")(tmp_path))
    np.savez(tmp_path / "w.npz", a=VALUES)
    assert "without data.pkl" in refuse(tmp_path / "w.npz")
    np.save(tmp_path / "w.npy", VALUES)
    assert "no dictionary of layers" in refuse(tmp_path / "w.npy")
    refuse(write("w.h5", b"\x89HDF\r\n\x1a\n" + bytes(99))(tmp_path))
    nothing = {"a": np.array([1, np.nan], np.float32)}
    assert "not finite" in refuse(write("w", safetensors.numpy.save(nothing))(tmp_path))
    assert "not finite" in refuse(write("w", foreign.torch_zip(nothing))(tmp_path))
    foreign.bundle(tmp_path / "lie", draw(), lie=2**40)
    assert "larger than its data files" in refuse(tmp_path / "lie.index")
    foreign.bundle(tmp_path / "lie", draw(), lie=-4)
    assert "does not fit" in refuse(tmp_path / "lie.index")


@pytest.mark.slow
def test_numpy_pickle_holds_only_numbers(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    np.save(tmp_path / "w.npy", np.array({"a": {"b": [object]}}, object), allow_pickle=True)
    assert "builtins.object" in refuse(tmp_path / "w.npy")
    head = (tmp_path / "w.npy").read_bytes()
    head = head[: head.index(b"\n") + 1]
    for attack in touching(canary).values():
        refuse(
            write("w.npy", head + foreign.pickled(b"}" + foreign.text("a") + attack + b"s"))(
                tmp_path
            )
        )
    assert not canary.exists()


def test_file_of_more_than_4_gib_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "w.safetensors").open("wb") as file:
        file.truncate(4 * 2**30 + 1)
    with pytest.raises(CheckpointError, match=r"has 4,096 MiB, .* at most 4,096 MiB; name"):
        open_arrays(tmp_path / "w.safetensors")
