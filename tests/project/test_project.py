"""Project files: reasons of dependencies, CI, the commit hook, the contents of the wheel."""

import re
import subprocess
import tomllib

import yaml

from tests.support.doc_blocks import ROOT


def test_every_dependency_has_a_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    reasons = (ROOT / "docs/dependencies.md").read_text("utf-8")
    for requirement in wanted:
        name = re.match(r"[\w-]+", requirement)
        assert name and name[0].removeprefix("pytest-") in reasons, f"no reason for {requirement}"


def test_ci_runs_all_checks_and_the_commit_hook_uses_the_pinned_ruff() -> None:
    ci = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    steps = ci["jobs"]["check-and-test"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    (ruff,) = (pin for pin in project["dependency-groups"]["dev"] if pin.startswith("ruff"))
    assert hooks["repos"][0]["rev"] == ruff.replace("ruff==", "v")


def test_wheel_lacks_no_file() -> None:
    """It holds what git does not ignore in its folders; `make wheel-test` looks into it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel.keys() == {"packages", "force-include"}
    folders = [*wheel["packages"], *wheel["force-include"]]
    ignored = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard", *folders]
    found = subprocess.run(ignored, cwd=ROOT, capture_output=True, text=True, check=True)
    assert not found.stdout
