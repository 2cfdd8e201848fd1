"""The JobSets for GKE: their content, their schema, and the commands of their pods."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.jobset_schema import GOLDEN, complain
from tests.support.stand_ins import FINAL, LAUNCH, ROOT, place_command, run

GKE = [sys.executable, str(LAUNCH / "gke.py")]
SCHEMA = json.loads(GOLDEN.read_text("utf-8"))["schema"]
COMMON = {
    "NAME": "gap-1", "IMAGE": "images/gap_jax:1", "CLAIM": "disk", "CPUS": "60",
    "MEMORY": "200Gi", "HOSTS": "2",
}  # fmt: skip
SETTINGS = {
    "tpu": {**COMMON, "ACCELERATOR": "tpu-v5-lite-podslice", "TOPOLOGY": "2x4", "CHIPS": "4"},
    "gpu": {**COMMON, "ACCELERATOR": "nvidia-h100-80gb", "GPUS": "8"},
}
WORDS = [
    "--config=configs/gap_pose.py:gap",
    '--workdir=/shared/it\'s "here"',
    "--x=$(HOME)",
    "--y=a$$b$",
]
KINDS = pytest.mark.parametrize("kind", ["tpu", "gpu"])


def render(folder: Path, kind: str) -> list[dict[str, Any]]:
    code, out, err = run(folder, [*GKE, "--dry-run", kind, *WORDS], **SETTINGS[kind])
    assert code == 0, err
    return list(yaml.safe_load_all(out))


def job_of(jobset: dict[str, Any]) -> dict[str, Any]:
    (processes,) = jobset["spec"]["replicatedJobs"]
    return processes["template"]["spec"]


def pod_of(jobset: dict[str, Any]) -> dict[str, Any]:
    return job_of(jobset)["template"]["spec"]


@KINDS
def test_jobsets_follow_the_schema(tmp_path: Path, kind: str) -> None:
    jobset, policy = render(tmp_path, kind)
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert list(complain(jobset, SCHEMA)) == []
    run_label = {"matchLabels": {"jobset.sigs.k8s.io/jobset-name": "gap-1"}}
    assert policy["kind"] == "NetworkPolicy"
    assert policy["spec"]["podSelector"] == run_label
    assert policy["spec"]["ingress"] == [{"from": [{"podSelector": run_label}]}]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (("spec.replicatedJobs", "name: workers", "nam: workers"), "has no field nam"),
        (("restartPolicy", "restartPolicy: Never", "restartPolicy: 3"), "is 3 and no string"),
        (("maxRestarts", "maxRestarts: 20", "maxRestarts: many"), "'many' and no integer"),
        (("strategy", "BlockingRecreate", "Recreation"), "'Recreation' and none of"),
        (("claim", "claimName", "claim"), "claimName is missing"),
        (("runAsNonRoot", "runAsNonRoot: true", "runAsNonRoot: 1"), "1 and no boolean"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_schema_refuses(tmp_path: Path, broken: tuple[str, str, str], message: str) -> None:
    _, out, _ = run(tmp_path, [*GKE, "--dry-run", "gpu", *WORDS], **SETTINGS["gpu"])
    _, right, wrong = broken
    assert right in out
    jobset = next(yaml.safe_load_all(out.replace(right, wrong)))
    assert any(message in line for line in complain(jobset, SCHEMA))


@KINDS
def test_codes_that_a_restart_does_not_fix_end_the_jobset(tmp_path: Path, kind: str) -> None:
    jobset, _ = render(tmp_path, kind)
    job, policy = job_of(jobset), jobset["spec"]["failurePolicy"]
    (rule,) = job["podFailurePolicy"]["rules"]
    container = pod_of(jobset)["containers"][0]["name"]
    assert rule == {
        "action": "FailJob",
        "onExitCodes": {"containerName": container, "operator": "In", "values": [*FINAL]},
    }
    (final,) = policy["rules"]  # else JobSet would restart a failed Job
    assert (final["action"], final["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", final["name"])
    assert job["backoffLimit"] == 0  # every other exit code restarts all pods
    assert policy["maxRestarts"] > 0
    assert pod_of(jobset)["restartPolicy"] == "Never"  # required by podFailurePolicy


@KINDS
def test_pods_have_time_to_save_and_few_rights(tmp_path: Path, kind: str) -> None:
    pod = pod_of(render(tmp_path, kind)[0])
    assert pod["terminationGracePeriodSeconds"] >= 120
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounted = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert mounted["shared"] == "/shared"
    assert mounted["tmp"] == {each["name"]: each.get("value") for each in container["env"]}["HOME"]
    assert set(mounted) == {each["name"] for each in pod["volumes"]}
    assert container["image"] == COMMON["IMAGE"]


def expand(text: str, environment: dict[str, str]) -> str:
    """Expands like Kubernetes: $$ to $, $(NAME) from the container's environment."""

    def fill(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else environment.get(found[1], found[0])

    return re.sub(r"\$\$|\$\((\w+)\)", fill, text)


@KINDS
@pytest.mark.parametrize("index", [0, 1])
def test_pods_run_the_program_with_unchanged_arguments(
    tmp_path: Path, kind: str, index: int
) -> None:
    (container,) = pod_of(render(tmp_path, kind)[0])["containers"]
    annotations = {"batch.kubernetes.io/job-completion-index": str(index)}
    environment = {}
    for entry in container["env"]:
        field = entry.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
        named = re.fullmatch(r"metadata\.annotations\['(.+)'\]", field)
        environment[entry["name"]] = annotations[named[1]] if named else entry["value"]
    command = [expand(word, environment) for word in container["command"] + container["args"]]
    place_command(tmp_path, "python", 'printf "%s\\n" "$@"\n')
    code, out, _ = run(tmp_path, command)
    assert code == 0
    processes = {
        "tpu": [],  # GKE's variables tell JAX
        "gpu": [
            "--coordinator=gap-1-workers-0-0.gap-1:8476", "--processes=2", f"--process={index}"
        ],
    }[kind]  # fmt: skip
    assert out.splitlines() == ["-m", "gap_jax.main", *processes, *WORDS]


@KINDS
def test_there_is_one_pod_for_each_process(tmp_path: Path, kind: str) -> None:
    jobset, _ = render(tmp_path, kind)
    job, container = job_of(jobset), pod_of(jobset)["containers"][0]
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"] == 2
    chips = {"tpu": {"google.com/tpu": "4"}, "gpu": {"nvidia.com/gpu": "8"}}[kind]
    assert container["resources"]["limits"] == chips
    assert container["resources"]["requests"] == {"cpu": "60", "memory": "200Gi"}
    # parts of the coordinator's address
    assert jobset["spec"]["network"] == {"enableDNSHostnames": True, "subdomain": "gap-1"}
    assert (jobset["metadata"]["name"], jobset["spec"]["replicatedJobs"][0]["name"]) == (
        "gap-1",
        "workers",
    )


def test_start_passes_the_jobset_to_kubectl(tmp_path: Path) -> None:
    place_command(tmp_path, "kubectl", 'echo "$@"; cat\nexit 3\n')
    code, out, _ = run(tmp_path, [*GKE, "tpu", *WORDS], **SETTINGS["tpu"])
    called, _, manifest = out.partition("\n")
    assert (code, called) == (3, "create --filename=-")
    assert list(yaml.safe_load_all(manifest)) == render(tmp_path, "tpu")


@pytest.mark.parametrize(
    ("words", "changed", "message"),
    [
        (["gpu", *WORDS], {"IMAGE": "", "CLAIM": ""}, "CLAIM, IMAGE not set"),
        (["gpu", *WORDS], {"IMAGE": "a b"}, "IMAGE='a b'"),
        (["gpu", *WORDS], {"NAME": 'x"\nkind: Pod'}, "NAME="),
        (["gpu", *WORDS], {"NAME": "Gap_2"}, "NAME=Gap_2 must be up to 40 of a-z"),
        (["gpu", *WORDS], {"NAME": "gap-"}, "NAME=gap-"),
        (["gpu", *WORDS], {"NAME": "g" * 41}, "NAME=ggg"),
        (["gpu", *WORDS], {"HOSTS": "two"}, "HOSTS=two must be an integer"),
        (["cpu", *WORDS], {}, "usage"),
        (["gpu"], {}, "usage"),
        ([], {}, "usage"),
        (["gpu", *WORDS], {"PATH": ""}, "kubectl is not on the PATH"),
    ],
)
def test_mistakes_end_in_one_line_and_64(
    tmp_path: Path, words: list[str], changed: dict[str, str], message: str
) -> None:
    code, out, err = run(tmp_path, [*GKE, *words], **{**SETTINGS["gpu"], **changed})
    assert (code, out) == (64, "")
    assert message in err
    assert len(err.splitlines()) == 1


@KINDS
def test_readme_explains_every_name(kind: str) -> None:
    other = {"tpu": "gpu", "gpu": "tpu"}[kind]
    lines = (LAUNCH / "gke.yaml").read_text("utf-8").splitlines()
    kept = "\n".join(line for line in lines if not line.endswith(f"{other} only"))
    names = set(re.findall(r"\$\{(\w+)\}", kept))
    readme = (ROOT / "launch" / "README.md").read_text("utf-8")
    assert names - {"WORDS"} == set(SETTINGS[kind])
    assert all(f"`{name}`" in readme for name in names - {"WORDS"})
