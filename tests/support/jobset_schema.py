"""What fields a JobSet has, cut from its public definition, and whether a JobSet keeps to them.

`python -m tests.support.jobset_schema jobset.x-k8s.io_jobsets.yaml COMMIT` writes
tests/goldens/jobset.json anew: names, types, enumerations and required fields, no text. UNUSED
names the fields that are left out; a JobSet with one is refused like one with a misspelt field.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

GOLDEN = Path(__file__).parents[1] / "goldens" / "jobset.json"
SOURCE = "kubernetes-sigs/jobset, config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml"
KEPT = ("type", "enum", "required", "minItems", "maxItems")
UNUSED = {
    "affinity", "lifecycle", "ephemeralContainers", "initContainers", "dnsConfig",
    "livenessProbe", "readinessProbe", "startupProbe", "volumeClaimPolicies",
    "topologySpreadConstraints", "resourceClaims", "selector", "manualSelector", "envFrom",
    "awsElasticBlockStore", "azureDisk", "azureFile", "cephfs", "cinder", "configMap", "csi",
    "downwardAPI", "ephemeral", "fc", "flexVolume", "flocker", "gcePersistentDisk", "gitRepo",
    "glusterfs", "iscsi", "nfs", "photonPersistentDisk", "portworxVolume",
    "projected", "quobyte", "rbd", "scaleIO", "secret", "storageos", "vsphereVolume",
    "windowsOptions", "seLinuxOptions", "schedulingGates", "configMapKeyRef", "secretKeyRef",
}  # fmt: skip


def cut(schema: dict[str, Any]) -> dict[str, Any]:
    """The part of an OpenAPI schema that `complain` reads."""
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": "integer or string"}
    kept = {key: schema[key] for key in KEPT if key in schema}
    if fields := schema.get("properties"):
        kept["properties"] = {name: cut(fields[name]) for name in fields if name not in UNUSED}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            kept[key] = cut(schema[key])
    return kept


def complain(value: Any, schema: dict[str, Any], path: str = "jobset") -> Iterator[str]:
    """A line for everything in which a value does not keep to the schema."""
    types = {"integer or string": (int, str), "object": dict, "array": list, "string": str,
             "integer": int, "boolean": bool}  # fmt: skip
    is_flag = isinstance(value, bool) and schema["type"] != "boolean"
    if is_flag or not isinstance(value, types[schema["type"]]):
        yield f"{path} is {value!r} and no {schema['type']}"
    elif isinstance(value, dict):
        yield from (f"{path}.{n} is missing" for n in schema.get("required", ()) if n not in value)
        known, free = schema.get("properties", {}), schema.get("additionalProperties")
        for name, each in value.items():
            if name in known or free:
                yield from complain(each, known.get(name, free), f"{path}.{name}")
            elif known:
                yield f"{path} has no field {name}"
    elif isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield f"{path} has {len(value)} entries"
        for index, each in enumerate(value):
            yield from complain(each, schema["items"], f"{path}[{index}]")
    elif value not in schema.get("enum", [value]):
        yield f"{path} is {value!r} and none of {schema['enum']}"


def main(definition: str, commit: str) -> None:
    """Cuts the definition and writes the golden."""
    versions = yaml.safe_load(Path(definition).read_text("utf-8"))["spec"]["versions"]
    (schema,) = [v["schema"]["openAPIV3Schema"] for v in versions if v["name"] == "v1alpha2"]
    del schema["properties"]["status"]
    schema["properties"]["metadata"] = {  # Kubernetes' own, of which the definition says no more
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    }
    about = f"Cut by tests/support/jobset_schema.py from {SOURCE} at commit {commit} (Apache-2.0)"
    GOLDEN.write_text(
        json.dumps({"about": about, "schema": cut(schema)}, separators=(",", ":")) + "\n"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
