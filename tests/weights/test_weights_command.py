"""`gap_jax weights`: exports the backbone of a run, and lists shipped files."""

import re
from pathlib import Path

import pytest

from data_pipelines.core import files
from gap_jax import cli
from gap_jax.learning.state import TrainState
from gap_jax.weights import download, named, native
from gap_jax.weights.sources import PUBLISHED
from tests.support.saved_runs import fill_variables, model_of, prepare_run, tiny_config

Run = tuple[Path, dict[int, TrainState]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Saves steps 3 and 7; step 3 is the better one."""
    folder = tmp_path_factory.mktemp("weights")
    return prepare_run(folder, steps={3: 0.5, 7: 0.25})


@pytest.mark.slow
@pytest.mark.parametrize(("words", "step"), [((), 7), (("--checkpoint", "best"), 3)])
def test_backbone_of_run_loads_into_another_network(
    run: Run, tmp_path: Path, words: tuple[str, ...], step: int, capsys: pytest.CaptureFixture[str]
) -> None:
    root, states = run
    out = tmp_path / "backbone.safetensors"
    assert cli.main(["weights", "convert", str(root), str(out), *words]) == 0
    printed = capsys.readouterr().out
    assert f"the small of step {step} of {root}" in printed and files.sha256(out) in printed
    trained = states[step].variables
    cfg = tiny_config(root.parent / "data", "model.stage=2")
    loaded, report = native.load_backbone(out, fill_variables(trained, 99), cfg.model)
    assert not report.unused and set(report.left_random) == {
        name for name in native.name_arrays(trained) if not name.startswith(native.BACKBONE)
    }
    before, after = native.name_arrays(trained), native.name_arrays(loaded)
    assert all((after[name] == before[name]).all() for name in report.matched)
    metadata = native.read_metadata(out)
    assert metadata.seed == cfg.train.seed and metadata.command == "python -m gap_jax.main --x=1"


def test_inconvertible_files_are_refused(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, _ = run
    taken = tmp_path / "taken"
    taken.touch()
    for words, code, message in (
        ([str(root), str(taken)], 73, "exists already and stays untouched"),
        ([str(tmp_path), str(tmp_path / "x")], 66, "neither a run nor an exported model"),
        ([str(root), str(tmp_path / "x"), "--checkpoint", "4"], 66, "no good checkpoint 4"),
        ([str(root)], 64, "DST"),
        ([str(root), str(tmp_path / "x"), "--sha256", "0" * 64], 64, "--sha256 applies to files"),
        ([str(root), str(tmp_path / "x"), "--sha256", "0" * 63], 64, "is no SHA-256"),
        (
            [str(taken), str(tmp_path / "x"), "--checkpoint", "4"],
            64,
            "--checkpoint applies to runs",
        ),
        ([str(taken), str(tmp_path / "x")], 66, "(unknown format)"),
    ):
        assert cli.main(["weights", "convert", *words]) == code
        assert message in capsys.readouterr().err
    assert model_of(root) and not (tmp_path / "x").exists()


def test_list_shows_shipped_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["weights", "list"]) == 0
    printed = capsys.readouterr().out
    assert named.SHIPPED
    for name, digest in named.SHIPPED.items():
        assert files.sha256(named.shipped_path(name)) == digest
        assert (
            digest in printed and native.read_metadata(named.shipped_path(name)).command in printed
        )
        assert named.shipped_path(name).stat().st_size < 2**20
    for each in PUBLISHED:
        assert f"{each.name}: {each.holds}\n  {each.address}\n" in printed
        assert each.address.startswith("http") and (each.sha256 or each.known) in printed
        assert len(each.sha256) in (0, 64)


def test_published_name_resolves_to_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A known SHA-256 needs no option; otherwise --sha256 is required."""
    fetched: list[tuple[str, str, Path]] = []

    def fetch(address: str, digest: str, folder: Path) -> Path:
        fetched.append((address, digest, folder))
        return tmp_path / "absent"

    monkeypatch.setattr(download, "fetch", fetch)
    out, given = str(tmp_path / "new" / "x"), "AB" * 32
    by_name = {each.name: each for each in PUBLISHED}
    timm, torch = by_name["timm-resnet101-a1h"], by_name["torchvision-resnet101-v1"]
    assert cli.main(["weights", "convert", timm.name, out]) == 66
    assert cli.main(["weights", "convert", torch.name, out, "--sha256", given]) == 66
    folder = tmp_path / "new"
    assert fetched == [(timm.address, timm.sha256, folder), (torch.address, given.lower(), folder)]
    capsys.readouterr()
    assert cli.main(["weights", "convert", torch.name, out]) == 64
    assert "whole SHA-256 (known: begins 63fe2227); add --sha256" in capsys.readouterr().err
    assert cli.main(["weights", "convert", "slim-vgg16", out]) == 66
    assert "is an archive; fetch and unpack it yourself" in capsys.readouterr().err
    assert cli.main(["weights", "convert", "https://weights.invalid/w", out]) == 64
    assert "w is downloaded only with its whole SHA-256;" in capsys.readouterr().err
    assert len(fetched) == 2


def test_published_weights_have_a_name_and_an_address() -> None:
    names = [each.name for each in PUBLISHED]
    assert len(set(names)) == len(names)
    for each in PUBLISHED:
        assert re.fullmatch(r"[a-z0-9-]+", each.name) and each.address.startswith("http")
