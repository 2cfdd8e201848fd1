"""Conversion of foreign files: values, conventions and refusals."""

import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from data_pipelines.core.errors import CheckpointError
from gap_jax import cli
from gap_jax.config import Config
from gap_jax.learning.state import Variables, describe_model
from gap_jax.model_config import ModelConfig, PoseConfig
from gap_jax.models.backbones import resnet as backbones
from gap_jax.weights import native
from gap_jax.weights.convert import convert
from gap_jax.weights.formats import ForeignFile
from gap_jax.weights.metadata import Metadata
from gap_jax.weights.names import recognise, resnet
from gap_jax.weights.names.forms import NameMap
from tests.support.file_server import serve
from tests.support.foreign_names import rename

pytestmark = pytest.mark.slow
BLOCKS = (1, 1, 1, 1)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes ResNet-50 one unit per block in all name maps."""
    for table in (backbones.BLOCKS, recognise.BLOCKS):
        monkeypatch.setitem(table, "resnet50", BLOCKS)


def at_source(variables: Variables, names: NameMap) -> dict[str, np.ndarray]:
    """Converts the network's arrays to the source's names and layouts."""
    ours = {path: np.asarray(leaf) for path, leaf in native.name_arrays(variables).items()}
    return rename(ours, names)


def draw(cfg: Config, classes: int) -> Variables:
    """Draws different variables for a network."""
    rng = np.random.default_rng(5)

    def fill(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if len(leaf.shape) < 2:
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32)
        values = rng.normal(size=leaf.shape) * math.sqrt(2 / math.prod(leaf.shape[:-1]))
        return jnp.asarray(values, jnp.float32)

    return jax.tree.map(fill, describe_model(cfg, classes)[1])


def zeros(cfg: Config, classes: int) -> Variables:
    """Returns variables of zeros."""
    shapes = describe_model(cfg, classes)[1]
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def configure(strides: Any = "slim", pooling: Any = "mean", **model: Any) -> Config:
    made = ModelConfig(backbone="resnet50", strides=strides, pooling=pooling, dropout=0.0)
    pose = PoseConfig(branch=model.get("saliency_input") == "pose")
    return Config(model=dataclasses.replace(made, **model), pose=pose)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("strides", "source"),
    [
        ("v1_5", "torch"),
        ("v1_5", "hugging face"),
        ("caffe", "keras"),
        ("caffe", "keras 3"),
        ("slim", "slim"),
    ],
)
def test_converted_file_equals_network(
    tmp_path: Path, strides: str, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = configure(strides)
    made = draw(cfg, 10)
    wanted = source, "resnet50"
    known = next(k for k in recognise.every_known() if (k.source, k.backbone) == wanted)
    foreign = at_source(made, known.names)
    safetensors.numpy.save_file(foreign, tmp_path / "theirs")
    out = tmp_path / "ours.safetensors"
    assert cli.main(["weights", "convert", str(tmp_path / "theirs"), str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"a resnet50 of {source}: matched" in printed and "absent: nothing" in printed
    assert f"{strides} strides" in printed and "unused none" in printed
    convention = known.convention
    fitting = configure(strides, input=convention.input, norm_eps=convention.norm_eps)
    random = zeros(fitting, 10)
    loaded, report = native.load_backbone(out, random, fitting.model, "all")
    assert not report.left_random and not report.unused and not report.notes
    assert report.whole_parts == ("backbone", "pooling")
    for path, values in native.name_arrays(loaded).items():
        np.testing.assert_allclose(values, native.name_arrays(made)[path], rtol=1e-6, atol=1e-7)


@pytest.mark.usefixtures("tiny")
def test_file_is_downloaded_and_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    theirs = at_source(draw(configure("v1_5"), 3), resnet.torch_names(BLOCKS))
    auxiliary = dict.fromkeys(("Aux.fc.weight", "Aux.fc.bias"), np.ones(2, np.float32))
    content = safetensors.numpy.save(theirs | auxiliary)
    digest = hashlib.sha256(content).hexdigest()
    out = tmp_path / "new" / "ours.safetensors"
    with serve(content) as served:
        address = f"{served.address}/whole/w?token=secret"
        words = ["weights", "convert", address, str(out), "--sha256", digest.upper()]
        assert cli.main(words) == 0
    source = out.with_name(f"{digest[:8]}-w")
    printed = capsys.readouterr().out
    assert printed.startswith(f"{source} has SHA-256 {digest} and is from {served.address}/whole")
    assert "unused 2 arrays with 4 values (Aux)" in printed
    metadata = native.read_metadata(out)
    assert metadata.command == f"gap_jax weights convert {served.address}/whole/w {out}"
    assert "secret" not in printed + metadata.dump() and digest in metadata.origin
    words = ["weights", "convert", str(source), str(tmp_path / "x"), "--sha256"]
    assert cli.main([*words, digest]) == 0
    assert cli.main(["weights", "convert", str(source), str(tmp_path / "y"), "--sha256", "0" * 64])
    assert f"has SHA-256 {digest}, not 000" in capsys.readouterr().err


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("reads_pose", [False, True])
def test_released_head_matches_formula(tmp_path: Path, reads_pose: bool) -> None:
    """logits = mean over cells of (Z b + beta)(X A + alpha), Z is X or relu(X M + mu)."""
    cfg = configure("slim", "attention", saliency_input="pose" if reads_pose else "features")
    made = draw(cfg, 7)
    names = resnet.released_names(BLOCKS, "resnet_v1_50", attention=True)
    foreign = at_source(made, names)
    extra = {"resnet_v1_50/logits/weights": np.ones((1, 1, 2048, 7), np.float32),
             "global_step": np.array([12_000])}  # fmt: skip
    safetensors.numpy.save_file(foreign | extra, tmp_path / "theirs")
    out = tmp_path / "ours.safetensors"
    assert cli.main(["weights", "convert", str(tmp_path / "theirs"), str(out)]) == 0
    model, _ = describe_model(cfg, 7)
    loaded, report = native.load_backbone(out, zeros(cfg, 7), cfg.model, "all")
    assert not report.left_random
    image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)), np.uint8)
    outputs, _ = jax.jit(lambda v, x: model.apply(v, x, want_maps=True))(loaded, image)
    a = foreign["PosePrelogitsBasedAttention/Conv/weights"][0, 0]
    alpha = foreign["PosePrelogitsBasedAttention/Conv/biases"]
    b = foreign["PosePrelogitsBasedAttention/Conv2d_PrePose_Attn/weights"][0, 0, :, 0]
    beta = foreign["PosePrelogitsBasedAttention/Conv2d_PrePose_Attn/biases"][0]
    x = np.asarray(features(cfg, loaded, image), np.float64)
    z = x
    if reads_pose:
        hidden = foreign["PoseLogits/ExtraConv2d_1x1/weights"][0, 0]
        z = np.maximum(x @ hidden + foreign["PoseLogits/ExtraConv2d_1x1/biases"], 0)
    expected = ((z @ b + beta)[..., None] * (x @ a + alpha)).mean((1, 2))
    np.testing.assert_allclose(outputs.logits, expected, atol=1e-6 * np.abs(expected).max())


def features(cfg: Config, variables: Variables, image: jax.Array) -> jax.Array:
    """The last map of the network's backbone."""
    model, _ = describe_model(cfg, 7)
    backbone = model.merge(variables).backbone
    return jax.jit(lambda x: backbone(x, train=False))(image.astype(np.float32) - 128)


@pytest.mark.usefixtures("tiny")
def test_unknown_files_leave_no_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = configure("v1_5")
    names = resnet.torch_names(BLOCKS)
    whole = at_source(draw(cfg, 10), names)
    narrow = whole | {"layer2.0.conv2.weight": np.zeros((128, 127, 3, 3), np.float32)}
    flat = whole | {"conv1.weight": np.zeros(64, np.float32)}
    lacking = {name: values for name, values in whole.items() if name != "bn1.running_var"}
    nan = whole | {"fc.bias": np.full(10, np.nan, np.float32)}
    for arrays, message in (
        (narrow, "layer2.0.conv2.weight of shape [128, 127, 3, 3] gives"),
        (flat, "conv1.weight has 1 axes and must have 4"),
        (lacking, "lacks 1 of its"),
        (nan, "fc.bias that are not finite"),
        ({"a": np.zeros(3, np.float32)}, "holds no network that gap_jax knows"),
        (whole | {"\x1b[2J\n": np.zeros(3, np.float32)}, r"1 arrays more, first \x1b[2J"),
    ):
        safetensors.numpy.save_file(arrays, tmp_path / "theirs")
        out = tmp_path / "out"
        assert cli.main(["weights", "convert", str(tmp_path / "theirs"), str(out)]) == 66
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1 and not out.exists()


@pytest.mark.usefixtures("tiny")
def test_negative_variance_is_neither_written_nor_read(tmp_path: Path) -> None:
    cfg = configure("v1_5")
    variables = draw(cfg, 7)
    name = "backbone/conv1/norm/var"
    arrays = {path: np.asarray(leaf) for path, leaf in native.name_arrays(variables).items()}
    arrays[name] = -arrays[name]
    metadata = Metadata("resnet50", "v1_5", "made", stem_padding="symmetric")
    with pytest.raises(CheckpointError, match=f"{name} is a variance and is negative"):
        native.write(tmp_path / "w", arrays, metadata)
    assert not (tmp_path / "w").exists()
    safetensors.numpy.save_file(arrays, tmp_path / "w", {"gap_jax": metadata.dump()})
    with pytest.raises(CheckpointError, match=f"{name} is a variance and is negative"):
        native.load_backbone(tmp_path / "w", variables, cfg.model)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"layer1.0.se.fc1.weight": np.ones((4, 4, 1, 1), np.float32)}, "1 arrays more, first lay"),
        ({"layer2.7.conv1.weight": np.ones((4, 4, 1, 1), np.float32)}, "it is another network"),
        ({"bn1.running_var": -1}, "bn1.running_var is a variance and is negative"),
        ({"fc.bias": np.ones(99, np.float32)}, "99 biases for the"),
        ({"conv1.weight": np.int8}, "conv1.weight holds int8"),
    ],
)
def test_damaged_networks_are_refused(changes: dict[str, Any], complaint: str) -> None:
    theirs = at_source(draw(configure("v1_5"), 3), resnet.torch_names(BLOCKS))
    for name, change in changes.items():
        match change:
            case np.ndarray():
                theirs[name] = change
            case int():
                theirs[name] = np.full_like(theirs[name], change)
            case _:
                theirs[name] = theirs[name].astype(change)
    with pytest.raises(CheckpointError, match=complaint):
        convert(ForeignFile(Path("w"), "safetensors", "0" * 64, theirs), "")
