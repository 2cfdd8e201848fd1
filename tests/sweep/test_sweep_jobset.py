"""The JobSet that runs a sweep on Kubernetes: its schema, its phases, and what its pods run."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from gap_jax import cli
from gap_jax.sweep.batch import REQUIRED, pick_cell
from gap_jax.sweep.execute import execute
from tests.support.jobset_schema import GOLDEN, complain
from tests.support.stand_ins import FINAL, ROOT
from tests.support.swept import SIZES, Recorder, make_plan, words_of
from tests.support.tiny_data import prepare_tiny_people, quiet

SCHEMA = json.loads(GOLDEN.read_text("utf-8"))["schema"]
SETTINGS = {
    "IMAGE": "images/gap_jax:1", "CLAIM": "disk", "CPUS": "8", "MEMORY": "32Gi",
    "ACCELERATOR": "nvidia-l4", "PODS": "4",
}  # fmt: skip
GRID = ["grid", "--over", "model.rank=1,2", "--seeds", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jobset") / "it's data $(INDEX)"
    prepare_tiny_people(folder, sizes=SIZES)
    return folder


def write(data: Path, out: Path, patch: pytest.MonkeyPatch, *options: str, **changed: str) -> int:
    for name, value in {**SETTINGS, "MOUNT": str(out.parent), **changed}.items():
        patch.setenv(name, value)
    given = ["--config=gap_pose:demo", *words_of(data), "--out", str(out), *options]
    return cli.main(["sweep", *GRID, "--write", "jobset", *given])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the claim, which holds the sweep `out`."""
    return tmp_path_factory.mktemp("claim")


@pytest.fixture(scope="module")
def jobset(data: Path, folder: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("NAME", raising=False)
        assert write(data, folder / "out", patch) == 0
    return yaml.safe_load((folder / "out" / "jobset.yaml").read_text())


def jobs_of(jobset: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each["template"]["spec"] for each in jobset["spec"]["replicatedJobs"]}


def test_the_jobset_follows_the_schema(jobset: dict[str, Any]) -> None:
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert jobset["metadata"]["name"] == "sweep-grid"
    assert list(complain(jobset, SCHEMA)) == []


def test_each_phase_begins_after_the_previous_one(jobset: dict[str, Any]) -> None:
    phases = [(each["name"], each.get("dependsOn")) for each in jobset["spec"]["replicatedJobs"]]
    assert phases == [
        ("search", None),
        ("final", [{"name": "search", "status": "Complete"}]),
        ("results", [{"name": "final", "status": "Complete"}]),
    ]
    counts = [(job["completions"], job["parallelism"]) for job in jobs_of(jobset).values()]
    assert counts == [(6, 4), (2, 2), (1, 1)]


def test_a_pod_makes_the_run_of_its_index(jobset: dict[str, Any], data: Path, folder: Path) -> None:
    expected = [
        *GRID, "--config=gap_pose:demo", *words_of(data), "--out", str(folder / "out"),
    ]  # fmt: skip
    for phase, job in jobs_of(jobset).items():
        assert job["completionMode"] == "Indexed"
        (container,) = job["template"]["spec"]["containers"]
        (index,) = (each for each in container["env"] if "valueFrom" in each)
        path = index["valueFrom"]["fieldRef"]["fieldPath"]
        assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
        named = f"$({index['name']})"
        words = [word.replace("$$", "\0") for word in container["args"]]
        found = [
            word.replace(named, "3").replace("\0", "$") for word in words
        ]  # as Kubernetes does
        only = [] if phase == "results" else ["--only", f"{phase}-3"]
        assert container["command"] == ["python", "-m", "gap_jax", "sweep"]
        assert found == [*expected, *only]


def test_pods_save_are_replaced_and_have_few_rights(jobset: dict[str, Any], folder: Path) -> None:
    for job in jobs_of(jobset).values():
        failing, ignored = job["podFailurePolicy"]["rules"]
        pod = job["template"]["spec"]
        (container,) = pod["containers"]
        assert failing["action"] == "FailIndex"
        assert failing["onExitCodes"] == {
            "containerName": container["name"], "operator": "In",
            "values": [code for code in FINAL if code != 77],
        }  # fmt: skip
        assert ignored["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
        assert job["backoffLimitPerIndex"] > 0 and "backoffLimit" not in job
        assert pod["restartPolicy"] == "Never"  # required by podFailurePolicy
        assert pod["terminationGracePeriodSeconds"] >= 120
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        mounted = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        assert mounted["shared"] == str(folder)
        assert (
            mounted["tmp"] == {each["name"]: each.get("value") for each in container["env"]}["HOME"]
        )
        assert set(mounted) == {each["name"] for each in pod["volumes"]}
        assert container["image"] == SETTINGS["IMAGE"]
        assert container["resources"] == {
            "requests": {"cpu": "8", "memory": "32Gi"}, "limits": {"nvidia.com/gpu": "1"},
        }  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"IMAGE": "", "PODS": ""}, "IMAGE, PODS not set; --write jobset needs them"),
        ({"PODS": "0"}, "PODS=0 must be an integer of 1 or more"),
        ({"MOUNT": "/shared"}, "must be in MOUNT=/shared, where the pods write"),
    ],
)
def test_a_wrong_variable_is_refused_in_one_line(
    data: Path,
    tmp_path: Path,
    changed: dict[str, str],
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert write(data, tmp_path / "out", monkeypatch, **changed) == 64
    (line,) = capsys.readouterr().err.splitlines()
    assert problem in line
    assert not (tmp_path / "out" / "jobset.yaml").exists()


def test_a_row_that_diverged_at_every_rate_does_not_stop_the_others(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*GRID, "--rates", "0.1,0.2", "--config=gap_pose:demo", *words_of(data)]
    plan = make_plan(data, tmp_path, "grid", over=["model.rank=1,2"], rates=(0.1, 0.2), seeds=1)
    diverging = Recorder(plan.data, code=lambda cell: 71 * cell.row.name.endswith("=1"))
    plan.enter()
    execute(plan, diverging, quiet)
    assert pick_cell(plan, "final-0") is None and pick_cell(plan, "final-1")
    assert cli.main(["sweep", *given, "--out", str(tmp_path), "--only", "final-0"]) == 0
    assert "final-0: its row diverged at every rate" in capsys.readouterr().out


def test_documentation_names_every_variable() -> None:
    page = (ROOT / "docs" / "sweeps.md").read_text("utf-8")
    assert all(f"`{name}`" in page for name in (*REQUIRED, "NAME", "MOUNT"))
