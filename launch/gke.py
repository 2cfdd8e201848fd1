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
from typing import NoReturn

OTHER = {"tpu": "gpu", "gpu": "tpu"}
NAME = re.compile(r"\$\{([A-Z]+)\}")
PLAIN = re.compile(r"[\w./:@-]+")  # needs no quotes in YAML
NUMBERS = ("HOSTS", "CHIPS", "GPUS")
LABEL = re.compile(r"[a-z]([a-z0-9-]{,38}[a-z0-9])?")  # a JobSet's suffixes make it 63 long


def render(template: str, kind: str, environment: Mapping[str, str], words: Sequence[str]) -> str:
    """Drops the lines of the other kind and fills in every name."""
    template = re.sub(rf"(?m)^.*\b{OTHER[kind]} only\n", "", template)
    names = sorted(set(NAME.findall(template)) - {"WORDS"})
    if unset := [name for name in names if not environment.get(name)]:
        refuse(f"{', '.join(unset)} not set; see launch/README.md")
    for name in names:
        value = environment[name]
        if not PLAIN.fullmatch(value):
            refuse(f"{name}={value!r} may only have letters, digits and ._/:@-")
        if name == "NAME" and not LABEL.fullmatch(value):
            refuse(f"NAME={value} must be up to 40 of a-z, 0-9 and -, as in gap-2")
        if name in NUMBERS and not value.isdecimal():
            refuse(f"{name}={value} must be an integer")
    escaped = [word.replace("$", "$$") for word in words]  # Kubernetes expands $(NAME)
    filled = {**environment, "WORDS": json.dumps(escaped)}
    return NAME.sub(lambda found: filled[found[1]], template)


def refuse(message: str) -> NoReturn:
    """Prints one line and ends with code 64."""
    print(f"gke.py: {message}", file=sys.stderr)
    sys.exit(64)


def main(argv: Sequence[str]) -> int:
    """Starts a run, or prints its JobSet; returns the exit code."""
    is_dry_run = argv[:1] == ["--dry-run"]
    kind, *words = argv[is_dry_run:] or [""]
    if kind not in OTHER or not words:
        refuse("usage: gke.py [--dry-run] tpu|gpu --config=... --workdir=/shared/...")
    template = Path(__file__).with_name("gke.yaml").read_text("utf-8")
    manifest = render(template, kind, os.environ, words)
    if is_dry_run:
        print(manifest, end="")
        return 0
    kubectl = shutil.which("kubectl")
    if not kubectl:
        refuse("kubectl is not on the PATH; install it, or print the JobSet with --dry-run")
    command = [kubectl, "create", "--filename=-"]
    return subprocess.run(command, input=manifest, text=True, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
