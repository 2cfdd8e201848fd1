"""The environment in a run's run.json: machine, versions, code."""

import json
import re
import subprocess
import time
from pathlib import Path

import pytest

from gap_jax.runtime.environment import describe_environment, find_revision


def test_environment_has_versions_devices_and_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    monkeypatch.setenv("JAX_PROBE", "1")
    time.tzset()
    found = describe_environment()
    monkeypatch.undo()
    time.tzset()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["started"])
    assert found["devices"] == {"kind": "cpu", "count": 8, "processes": 1}
    assert found["packages"].keys() >= {"jax", "orbax-checkpoint", "numpy", "simplejpeg"}
    assert found["variables"]["JAX_PROBE"] == "1"
    assert "HOME" not in found["variables"]
    assert "pytest" in found["command"] or "-c" in found["command"]
    json.dumps(found, allow_nan=False)


def test_revision_is_a_commit_and_marks_changed_files(tmp_path: Path) -> None:
    assert find_revision(tmp_path) is None
    for words in ("init", "-c user.name=n -c user.email=e commit -m m --allow-empty"):
        subprocess.run(
            ["git", "-C", str(tmp_path), *words.split()], check=True, capture_output=True
        )
    commit = find_revision(tmp_path)
    assert commit is not None
    assert re.fullmatch(r"[0-9a-f]{40}", commit)
    (tmp_path / "file").write_text("")
    subprocess.run(["git", "-C", str(tmp_path), "add", "file"], check=True, capture_output=True)
    assert find_revision(tmp_path) == f"{commit}-dirty"
    (tmp_path / ".git" / "HEAD").write_text("no repository any more")
    assert find_revision(tmp_path) is None
