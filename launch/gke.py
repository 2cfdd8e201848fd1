"""Starts a run on GKE: fills in gke.yaml and passes it to kubectl.

    NAME=gap IMAGE=... CLAIM=... HOSTS=2 CPUS=60 MEMORY=200Gi ACCELERATOR=... GPUS=8 \\
      python launch/gke.py gpu --config=configs/gap_pose.py --workdir=/shared/runs/gap

Names in braces come from the environment; ${WORDS} are the arguments after tpu or gpu. With
--dry-run as the first argument the JobSet is printed and not started.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

KINDS = ("tpu", "gpu")
NAME = re.compile(r"\$\{([A-Z]+)\}")
WORDS = "WORDS"
PLAIN = re.compile(r"[\w./:@-]+")  # needs no quotes in YAML
NUMBERS = ("HOSTS", "CHIPS", "GPUS")
LABEL = re.compile(r"[a-z]([a-z0-9-]{,38}[a-z0-9])?")  # a JobSet's suffixes make it 63 long


class Refused(Exception):
    """The run cannot start; the message is one line."""


def render(template: str, kind: str, environment: Mapping[str, str], words: Sequence[str]) -> str:
    """Drops the lines of the other kind and fills in every name."""
    (other,) = set(KINDS) - {kind}
    template = re.sub(rf"(?m)^.*\b{other} only\n", "", template)
    names = sorted(set(NAME.findall(template)) - {WORDS})
    if unset := [name for name in names if not environment.get(name)]:
        raise Refused(f"{', '.join(unset)} not set; see launch/README.md")
    for name in names:
        value = environment[name]
        if not PLAIN.fullmatch(value):
            raise Refused(f"{name}={value!r} may only have letters, digits and ._/:@-")
        if name == "NAME" and not LABEL.fullmatch(value):
            raise Refused(f"NAME={value} must be up to 40 of a-z, 0-9 and -, as in gap-2")
        if name in NUMBERS and not value.isdecimal():
            raise Refused(f"{name}={value} must be an integer")
    escaped = [word.replace("$", "$$") for word in words]  # Kubernetes expands $(NAME)
    filled = {**environment, WORDS: json.dumps(escaped)}
    return NAME.sub(lambda found: filled[found[1]], template)


def start(manifest: str) -> int:
    """Passes the manifest to kubectl; returns its exit code."""
    kubectl = shutil.which("kubectl")
    if not kubectl:
        raise Refused("kubectl is not on the PATH; install it, or print the JobSet with --dry-run")
    command = [kubectl, "create", "--filename=-"]
    return subprocess.run(command, input=manifest, text=True, check=False).returncode


def main(argv: Sequence[str]) -> int:
    """Starts a run, or prints its JobSet; returns the exit code."""
    is_dry_run = argv[:1] == ["--dry-run"]
    kind, *words = argv[is_dry_run:] or [""]
    try:
        if kind not in KINDS or not words:
            raise Refused("usage: gke.py [--dry-run] tpu|gpu --config=... --workdir=/shared/...")
        template = Path(__file__).with_name("gke.yaml").read_text("utf-8")
        manifest = render(template, kind, os.environ, words)
        if is_dry_run:
            print(manifest, end="")
            return 0
        return start(manifest)
    except Refused as refused:
        print(f"gke.py: {refused}", file=sys.stderr)
        return 64


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
