"""A backbone is saved and loaded exactly; a mismatched file is refused in one line."""

import dataclasses
import hashlib
import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from data_pipelines.core import files
from data_pipelines.core.errors import CheckpointError
from gap_jax.config import Config
from gap_jax.learning.state import Variables, describe_model
from gap_jax.model_config import InitConfig, ModelConfig
from gap_jax.weights import named, native
from gap_jax.weights.metadata import KEY, describe_backbone
from tests.support.saved_runs import fill_variables, tiny_config
from tests.support.saved_states import assert_same, refuse_warning

METADATA = {"command": "gap_jax train …", "seed": 7, "fingerprint": "0123456789abcdef"}
HEADER = struct.Struct("<Q")


@pytest.fixture(scope="module")
def cfg() -> Config:
    return tiny_config(Path("nowhere"))


@pytest.fixture(scope="module")
def shapes(cfg: Config) -> Variables:
    """The shapes of a network with 5 classes."""
    return describe_model(cfg, 5)[1]


@pytest.fixture
def saved(tmp_path: Path, cfg: Config, shapes: Variables) -> Path:
    """Saves a backbone and returns its path."""
    metadata = describe_backbone(cfg.model, **METADATA)
    native.save_backbone(tmp_path / "w.safetensors", fill_variables(shapes, 1), metadata)
    return tmp_path / "w.safetensors"


def backbone_of(variables: Variables) -> dict[str, Any]:
    named = native.name_arrays(variables)
    return {name: leaf for name, leaf in named.items() if name.startswith("backbone/")}


def parse(path: Path) -> tuple[dict[str, Any], bytes]:
    """Splits a safetensors file into its header, as JSON, and its data."""
    content = path.read_bytes()
    (size,) = HEADER.unpack_from(content)
    return json.loads(content[HEADER.size : HEADER.size + size]), content[HEADER.size + size :]


def rewrite(path: Path, header: dict[str, Any], data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(HEADER.pack(len(text)) + text + data)


def test_backbone_roundtrips_exactly_into_other_classes(
    saved: Path, cfg: Config, shapes: Variables
) -> None:
    other = fill_variables(describe_model(cfg, 3)[1], 2)
    loaded, report = native.load_backbone(saved, other, cfg.model)
    assert_same(backbone_of(loaded), backbone_of(fill_variables(shapes, 1)))
    for name, leaf in native.name_arrays(other).items():
        if not name.startswith("backbone/"):
            assert native.name_arrays(loaded)[name] is leaf
    assert jax.tree.structure(loaded) == jax.tree.structure(other)
    stored = safetensors.numpy.load_file(saved)
    assert report.matched == {name: value.size for name, value in stored.items()}
    assert {"backbone/layers/4/conv/kernel", "backbone/layers/0/norm/var"} <= stored.keys()
    assert sum(report.matched.values()) == 177_560 + 2 * (24 + 48 + 64 + 96 + 96)
    assert report.left_random["pooling/bias"] == 3 and not report.unused
    assert {name.partition("/")[0] for name in report.left_random} == {"pooling", "pose"}
    assert str(report).startswith(f"{saved}: matched 25 arrays with 178,216 values (backbone), ")
    assert "values (backbone), running statistics of 5 layers; left random " in str(report)
    assert str(report).endswith(f"(pooling, pose); unused none; SHA-256 {files.sha256(saved)}")
    assert report.whole_parts == ("backbone",) and not report.notes


def test_file_has_metadata_and_is_reproducible(saved: Path, cfg: Config, shapes: Variables) -> None:
    header, _ = parse(saved)
    assert list(header["__metadata__"]) == [KEY, native.DIGESTS], "safetensors' order is random"
    assert json.loads(header["__metadata__"]["gap_jax"]) == {
        "format_version": 2, "backbone": "small", "strides": "", "stem_padding": "", **METADATA,
        "input_mean": [128.0] * 3, "input_scale": [1.0] * 3, "colours": "RGB", "norm_eps": 1e-5,
        "origin": "",
    }  # fmt: skip
    again = saved.with_name("again.safetensors")
    metadata = describe_backbone(cfg.model, **METADATA)
    native.save_backbone(again, fill_variables(shapes, 1), metadata)
    assert again.read_bytes() == saved.read_bytes()
    assert describe_backbone(ModelConfig(), **METADATA).strides == "slim"


def test_loaded_arrays_keep_sharding(saved: Path, cfg: Config, shapes: Variables) -> None:
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "fsdp"))

    def spread(leaf: jax.Array) -> jax.Array:
        spec = PartitionSpec(*[None] * (leaf.ndim - 1), "fsdp" if leaf.shape[-1] % 2 == 0 else None)
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    target = jax.tree.map(spread, fill_variables(shapes, 2))
    loaded, _ = native.load_backbone(saved, target, cfg.model)
    for one, other in zip(jax.tree.leaves(loaded), jax.tree.leaves(target), strict=True):
        assert one.sharding == other.sharding
    assert_same(backbone_of(loaded), backbone_of(fill_variables(shapes, 1)))


def test_shorter_backbone_loads_its_layers(saved: Path, cfg: Config) -> None:
    short = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, stage=3))
    variables = fill_variables(describe_model(short, 5)[1], 2)
    _, report = native.load_backbone(saved, variables, short.model)
    assert sorted(report.unused)[0] == "backbone/layers/3/conv/kernel" and len(report.unused) == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"backbone": "resnet50", "strides": "slim", "stem_padding": "same"},
            "holds a resnet50 and model.backbone is small; set model.back",
        ),
        ({"backbone": "resnet50"}, "has no metadata of its backbone"),
        ({"strides": "v1_5"}, "has no metadata of its backbone"),
        ({"stem_padding": "same"}, "has no metadata of its backbone"),
        ({"norm_eps": 1e-3}, "was trained with eps 0.001 and model.norm_eps is 1e-05; set model."),
        ({"input_scale": [58, 57, 57]}, "was trained on pixels divided by (58.0, 57.0, 57.0)"),
        ({"input_scale": [127.5] * 3}, "set model.input=inception"),
        ({"format_version": 3}, "has format_version=3 and this gap_jax reads up to 2"),
        ({"surprise": 1}, "has no metadata of its backbone"),
    ],
)
def test_mismatched_metadata_is_refused(
    saved: Path, cfg: Config, shapes: Variables, change: dict[str, Any], message: str
) -> None:
    header, data = parse(saved)
    metadata = json.loads(header["__metadata__"]["gap_jax"])
    header["__metadata__"]["gap_jax"] = json.dumps({**metadata, **change})
    rewrite(saved, header, data)
    assert message in refuse(saved, cfg, shapes)


def refuse(path: Path, cfg: Config, shapes: Variables) -> str:
    """Returns the one line of a refusal."""
    with pytest.raises(CheckpointError) as refusal:
        native.load_backbone(path, fill_variables(shapes, 2), cfg.model)
    assert refusal.value.exit_code == 66 and str(path) in str(refusal.value)
    return str(refusal.value)


KERNEL, LAST = "backbone/layers/0/conv/kernel", "backbone/layers/4/norm/var"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({LAST: None}, f"in 1 of 25 arrays: {LAST} is absent"),
        (
            {KERNEL: np.zeros((3, 3, 3, 23), np.float32)},
            "F32[3, 3, 3, 23] in the file and F32[3, 3, 3, ",
        ),
        (
            {KERNEL: np.zeros((3, 3, 3, 24), np.float16)},
            "is F16[3, 3, 3, 24] in the file and F32[3",
        ),
        ({KERNEL: np.full((3, 3, 3, 24), np.nan, np.float32)}, f"not finite, first {KERNEL}"),
        ({LAST: np.full(96, np.inf, np.float32)}, f"that are not finite, first {LAST}"),
    ],
)
def test_mismatched_arrays_are_refused(
    saved: Path, cfg: Config, shapes: Variables, change: dict[str, Any], message: str
) -> None:
    header, _ = parse(saved)
    arrays = {**safetensors.numpy.load_file(saved), **change}
    kept = {name: values for name, values in arrays.items() if values is not None}
    metadata = {KEY: header["__metadata__"][KEY]}
    saved.write_bytes(safetensors.numpy.save(kept, metadata))
    assert message in refuse(saved, cfg, shapes)


def test_damaged_files_are_refused(saved: Path, cfg: Config, shapes: Variables) -> None:
    whole = saved.read_bytes()
    header, data = parse(saved)
    for size in (0, 4, 8, 100, len(whole) - len(data), len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:size])
        assert "cannot be read as safetensors" in refuse(saved, cfg, shapes)
    start, end = header[KERNEL]["data_offsets"]
    for lie in ({"shape": [3, 3, 3, 25]}, {"dtype": "F64"}, {"data_offsets": [start, end + 4]},
                {"data_offsets": [end, start]}, {"data_offsets": [0, 2**60]}):  # fmt: skip
        rewrite(saved, {**header, KERNEL: {**header[KERNEL], **lie}}, data)
        assert "cannot be read as safetensors" in refuse(saved, cfg, shapes)
    for metadata in ({}, {"gap_jax": "[]"}, {"gap_jax": "{"}, {"format": "pt"}):
        rewrite(saved, {**header, "__metadata__": metadata}, data)
        assert "has no metadata of its backbone" in refuse(saved, cfg, shapes)
    saved.write_bytes(HEADER.pack(2**40) + whole[8:])
    refuse(saved, cfg, shapes)
    saved.unlink()
    refuse(saved, cfg, shapes)
    saved.mkdir()
    refuse(saved, cfg, shapes)


def test_flipped_bit_in_any_array_is_refused(saved: Path, cfg: Config, shapes: Variables) -> None:
    header, data = parse(saved)
    for name in (KERNEL, LAST):
        flipped = bytearray(data)
        flipped[header[name]["data_offsets"][0]] ^= 1  # the last bit of a float32
        rewrite(saved, header, bytes(flipped))
        assert f"SHA-256 of 1 arrays differs from the one written, first {name}" in refuse(
            saved, cfg, shapes
        )
    held = header["__metadata__"]
    metadata = {**held, KEY: held[KEY].replace('"seed": 7', '"seed": 3')}
    assert metadata != held
    rewrite(saved, {**header, "__metadata__": metadata}, data)
    assert f"first {KEY}" in refuse(saved, cfg, shapes)
    for digests in ("[", "[1]", "{}"):
        rewrite(saved, {**header, "__metadata__": {**held, native.DIGESTS: digests}}, data)
        assert "SHA-256" in refuse(saved, cfg, shapes)


def test_digests_need_no_copy_of_all_arrays() -> None:
    arrays = {f"backbone/{k}": np.full((1024, 256), k, np.float32) for k in range(16)}
    tracemalloc.start()
    digests = native._digest({KEY: ""}, arrays)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < arrays["backbone/0"].nbytes / 2
    assert digests["backbone/3"] == hashlib.sha256(arrays["backbone/3"].tobytes()).hexdigest()


def test_file_without_digests_is_read(saved: Path, cfg: Config, shapes: Variables) -> None:
    header, data = parse(saved)
    del header["__metadata__"][native.DIGESTS]
    rewrite(saved, header, data)
    _, report = native.load_backbone(saved, fill_variables(shapes, 2), cfg.model)
    assert not [name for name in report.left_random if name.startswith(native.BACKBONE)]


def test_nonfinite_weights_are_not_saved(tmp_path: Path, cfg: Config, shapes: Variables) -> None:
    variables = fill_variables(shapes, 1)
    bad = native.replace_arrays(variables, {KERNEL: np.full((3, 3, 3, 24), np.nan, np.float32)})
    with pytest.raises(CheckpointError, match="not finite"):
        metadata = describe_backbone(cfg.model, **METADATA)
        native.save_backbone(tmp_path / "w.safetensors", bad, metadata)
    assert list(tmp_path.iterdir()) == []


def test_absent_weights_are_refused_or_random(tmp_path: Path) -> None:
    for name in ("", str(tmp_path / "no.safetensors"), str(tmp_path), "drawn_objcts"):
        with pytest.raises(CheckpointError) as refusal:
            named.resolve_weights(InitConfig(name), refuse_warning)
        assert f"init.weights={name} does not" in str(refusal.value) or not name
        assert "--config.init.allow_random=true" in str(refusal.value)
    with pytest.raises(CheckpointError, match=r"is empty .* --config\.init\.weights=FILE"):
        named.resolve_weights(InitConfig(""), refuse_warning)
    assert named.resolve_weights(InitConfig("", allow_random=True), refuse_warning) is None
    message: list[str] = []
    assert named.resolve_weights(InitConfig("none", allow_random=True), message.append) is None
    assert len(message) == 1 and "init.weights=none does not exist" in message[0]
    (tmp_path / "x").write_bytes(b"x")
    assert named.resolve_weights(InitConfig(str(tmp_path / "x"))) == tmp_path / "x"


def test_shipped_file_is_found_by_name_and_verified(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(named, "FOLDER", saved.parent)
    monkeypatch.setattr(named, "SHIPPED", {"w": files.sha256(saved), "gone": ""})
    assert named.resolve_weights(InitConfig("w")) == saved
    with pytest.raises(CheckpointError, match="does not exist; did you mean 'w'"):
        named.resolve_weights(InitConfig("ww"))
    with pytest.raises(CheckpointError, match=r"init\.weights=gone does not exist"):
        named.resolve_weights(InitConfig("gone"))
    content = bytearray(saved.read_bytes())
    content[-1] ^= 1
    saved.write_bytes(content)
    for allowed in (False, True):
        with pytest.raises(CheckpointError, match="in its SHA-256; install gap_jax again"):
            named.resolve_weights(InitConfig("w", allow_random=allowed))


def test_shipped_files_are_small_and_fit_their_network(cfg: Config) -> None:
    found = {path.stem for path in named.FOLDER.glob("*.safetensors")}
    assert found == set(named.SHIPPED)
    for name in named.SHIPPED:
        path = named.resolve_weights(InitConfig(name), refuse_warning)
        assert path and path.stat().st_size < 2**20
        native.load_backbone(path, fill_variables(describe_model(cfg, 5)[1], 1), cfg.model)
