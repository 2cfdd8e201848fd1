"""`gap_jax evaluate` of a weights file with a config."""

import json
from pathlib import Path

import numpy as np
import pytest

from gap_jax import cli
from gap_jax.learning.state import TrainState
from gap_jax.weights import native
from gap_jax.weights.metadata import describe_backbone
from tests.support.saved_runs import prepare_run, tiny_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, TrainState]]:
    return prepare_run(tmp_path_factory.mktemp("released"), steps={3: 0.5})


def test_weights_file_scores_like_its_run(
    run: tuple[Path, dict[int, TrainState]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, states = run
    cfg = tiny_config(root.parent / "data", "model.stage=2")
    arrays = {
        name: np.asarray(leaf)
        for name, leaf in native.name_arrays(states[3].best_variables).items()
    }
    facts = describe_backbone(cfg.model, command="made", seed=0, fingerprint="")
    native.write(tmp_path / "w.safetensors", arrays, facts)
    config = tmp_path / "tiny.py"
    config.write_text(
        "from pathlib import Path\n"
        "from tests.support.saved_runs import tiny_config\n\n\n"
        "def get_config(variant: str = '') -> object:\n"
        f"    return tiny_config(Path({str(root.parent / 'data')!r}), 'model.stage=2')\n"
    )
    words = ["evaluate", str(tmp_path / "w.safetensors"), f"--config={config}"]
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert "left random none; unused none" in printed
    assert cli.main(["evaluate", str(root), "--checkpoint", "3"]) == 0
    of_run = json.loads(capsys.readouterr().out.splitlines()[-1])
    of_file = json.loads(printed.splitlines()[-1])
    assert {name: of_file[name] for name in ("mAP", "accuracy", "ci95")} == {
        name: of_run[name] for name in ("mAP", "accuracy", "ci95")
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.py", "w.safetensors"]
    del arrays["pooling/bias"]
    native.write(tmp_path / "part.safetensors", arrays, facts)
    words[1] = str(tmp_path / "part.safetensors")
    assert cli.main(words) == 66
    assert "does not hold 1 arrays of this network" in capsys.readouterr().err
    assert cli.main(["evaluate", str(root), "--config.eval.batch_size=2"]) == 64
    assert "belongs to a file of weights" in capsys.readouterr().err
