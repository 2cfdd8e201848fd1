"""Starts a run on GKE: fills in gke_tpu.yaml or gke_gpu.yaml and hands it to kubectl.

    NAME=gap IMAGE=... CLAIM=... HOSTS=2 CPUS=60 MEMORY=200Gi ACCELERATOR=... GPUS=8 \\
      python launch/gke.py gpu --config=configs/gap_pose.py --workdir=/shared/runs/gap

Names in braces come from the environment, ${WORDS} is what follows tpu or gpu. With --dry-run as
the first word the JobSet is printed and nothing is started.
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
PLAIN = re.compile(r"[\w./:@-]+")  # what needs no quotes anywhere, and is all that names here need
NUMBERS = ("HOSTS", "CHIPS", "GPUS")
LABEL = re.compile(r"[a-z]([a-z0-9-]{,38}[a-z0-9])?")  # 63 letters with what a JobSet adds


class Refused(Exception):
    """A start that cannot be, in one line."""


def render(template: str, environment: Mapping[str, str], words: Sequence[str]) -> str:
    """The template with every name filled in."""
    names = sorted(set(NAME.findall(template)) - {WORDS})
    if unset := [name for name in names if not environment.get(name)]:
        raise Refused(f"{', '.join(unset)} not set; launch/README.md says what to set")
    for name in names:
        value = environment[name]
        if not PLAIN.fullmatch(value):
            raise Refused(f"{name}={value!r} has other characters than letters, digits, ._/:@-")
        if name == "NAME" and not LABEL.fullmatch(value):
            raise Refused(f"NAME={value} is not up to 40 small letters, digits and -, as in gap-2")
        if name in NUMBERS and not value.isdecimal():
            raise Refused(f"{name}={value} is no whole number")
    escaped = [word.replace("$", "$$") for word in words]  # Kubernetes would fill them in
    filled = {**environment, WORDS: json.dumps(escaped)}
    return NAME.sub(lambda found: filled[found[1]], template)


def start(manifest: str) -> int:
    """Hands the manifest to kubectl; its code."""
    kubectl = shutil.which("kubectl")
    if not kubectl:
        raise Refused("kubectl is not on the PATH; --dry-run prints what it would be given")
    command = [kubectl, "create", "--filename=-"]
    return subprocess.run(command, input=manifest, text=True, check=False).returncode


def main(argv: Sequence[str]) -> int:
    """The command's exit code."""
    is_dry_run = argv[:1] == ["--dry-run"]
    kind, *words = argv[is_dry_run:] or [""]
    try:
        if kind not in KINDS or not words:
            raise Refused("usage: gke.py [--dry-run] tpu|gpu --config=... --workdir=/shared/...")
        template = Path(__file__).with_name(f"gke_{kind}.yaml").read_text("utf-8")
        manifest = render(template, os.environ, words)
        if is_dry_run:
            print(manifest, end="")
            return 0
        return start(manifest)
    except Refused as refused:
        print(f"gke.py: {refused}", file=sys.stderr)
        return 64


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
