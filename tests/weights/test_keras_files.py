"""Keras' HDF5, older and of Keras 3: names by layer, and refusals."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_pipelines.core.errors import CheckpointError
from gap_jax.weights.formats.read import open_arrays

VALUES = np.ones((2, 3), np.float32)
LAYERS = {
    "conv1_conv": [np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3), np.arange(3.0)],
    "conv1_bn": [np.full(3, float(number)) for number in range(4)],
    "conv2_block1_0_conv": [VALUES],
}


def write_numbered(path: Path, layers: Mapping[str, Sequence[np.ndarray]]) -> None:
    """Writes like Keras 3.15's save_weights: layers are numbered within a class."""
    with h5py.File(path, "w") as file:
        file.create_group("vars").attrs["name"] = "resnet50"
        file.create_group("layers/activation/vars").attrs["name"] = "conv1_relu"
        for index, name in enumerate(reversed(list(layers))):
            counted = f"conv2d_{index}" if index else "conv2d"
            variables = file.create_group(f"layers/{counted}/vars")
            variables.attrs["name"] = name
            for number, values in enumerate(layers[name]):
                variables[str(number)] = values
        adam = file.create_group("optimizer/vars")
        adam.attrs["name"] = "adam"
        adam["0"] = np.int32(7)


def refuse(path: Path) -> str:
    """Returns the one line of a refusal."""
    with pytest.raises(CheckpointError) as refusal:
        open_arrays(path)
    line = str(refusal.value)
    assert str(path) in line and "\n" not in line
    return line


def test_numbered_variables_are_read_by_layer_name(tmp_path: Path) -> None:
    path = tmp_path / "w.weights.h5"
    write_numbered(path, LAYERS)
    file = open_arrays(path)
    assert file.format == "keras HDF5"
    expected = {
        f"{layer}/{number}": values
        for layer, variables in LAYERS.items()
        for number, values in enumerate(variables)
    }
    assert file.arrays.keys() == {*expected, "adam/0"}
    for name, values in expected.items():
        assert file.arrays[name].dtype == values.dtype
        np.testing.assert_array_equal(file.arrays[name], values)
    content = path.read_bytes()
    for size in (9, len(content) // 3, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        refuse(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "layers/conv2d/vars has no layer name"),
        (np.array(["conv1_conv"] * 2, h5py.string_dtype()), "has no layer name"),
        (7, "has no layer name"),
        ("", "has no layer name"),
        ("a\nb", "has no layer name"),
        ("x" * 201, "has no layer name"),
        ("conv1_bn", "two arrays are called conv1_bn/0"),
    ],
)
def test_invalid_layer_names_are_refused(tmp_path: Path, name: object, message: str) -> None:
    path = tmp_path / "w.weights.h5"
    write_numbered(path, {"conv1_bn": [VALUES], "conv1_conv": [VALUES]})
    with h5py.File(path, "a") as file:
        attributes = file["layers/conv2d/vars"].attrs
        assert attributes["name"] == "conv1_conv"
        del attributes["name"]
        if name is not None:
            attributes["name"] = name
    assert message in refuse(path)


@pytest.mark.parametrize("group", ["layers/conv2d/vars", "model_weights/conv1_conv"])
def test_links_and_external_values_are_refused(tmp_path: Path, group: str) -> None:
    (tmp_path / "raw").write_bytes(VALUES.tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = VALUES
    source = h5py.VirtualSource(str(tmp_path / "other.h5"), "secret", VALUES.shape)
    virtual = h5py.VirtualLayout(VALUES.shape, "f4")
    virtual[:] = source
    outside = [(str(tmp_path / "raw"), 0, 24)]
    for message, add in (
        (f"a link at {group}/0", lambda g: g.__setitem__("0", h5py.SoftLink("/layers"))),
        (f"a link at {group}/0",
         lambda g: g.__setitem__("0", h5py.ExternalLink(str(tmp_path / "other.h5"), "/secret"))),
        (f"a loop at {group}/0", lambda g: g.__setitem__("0", g)),
        ("values outside the file", lambda g: g.create_dataset("0", (6,), "f4", external=outside)),
        ("values outside the file", lambda g: g.create_virtual_dataset("0", virtual)),
        ("no numbers", lambda g: g.__setitem__("0", "words")),
        ("larger than the file can hold",
         lambda g: g.create_dataset("0", (2**34,), "f4", chunks=(2**20,), compression="gzip")),
    ):  # fmt: skip
        path = tmp_path / "w.h5"
        with h5py.File(path, "w") as file:
            made = file.create_group(group)
            made.attrs["name"] = "conv1_conv"
            add(made)
        assert message in refuse(path)
