"""Converts files of other libraries with `gap_jax weights convert` and compares them bit for bit.

    python -m tests.campaigns.roundtrips [torch=PYTHON] [keras=PYTHON] [tensorflow=PYTHON]
    make roundtrips PYTHONS="torch=PYTHON ..."

Each library writes whole networks of random values in a separate interpreter, by default this one;
a missing library is listed as "not run". The table is written to docs/weights.md; the exit code is
1 if a file was refused or differs.
"""

import contextlib
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jaxtyping import Float

from data_pipelines.core import files
from gap_jax import cli
from gap_jax.config import Config
from gap_jax.learning.state import describe_model
from gap_jax.model_config import InitConfig, ModelConfig, PoseConfig
from gap_jax.models.backbones.resnet import BLOCKS
from gap_jax.weights import native
from gap_jax.weights.names import inception, resnet, vgg
from gap_jax.weights.names.forms import NameMap
from tests.campaigns import roundtrip_writers
from tests.support.foreign_names import rename

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs/weights.md"
BEGIN, END = "<!-- roundtrips: begin -->", "<!-- roundtrips: end -->"
EQUAL, NOT_RUN = "equal", "not run"
LONGEST_S = 600

Arrays = Mapping[str, Float[np.ndarray, "..."]]


class Case(NamedTuple):
    """A file to write: the library, a form of roundtrip_writers, a backbone and its names."""

    library: str
    form: str
    told: str
    backbone: str
    names: NameMap
    file: str = "theirs"


class Verdict(NamedTuple):
    """The result of a case: EQUAL, NOT_RUN or a description of the error."""

    case: Case
    versions: Mapping[str, str]
    arrays: int
    values: int
    result: str


def cases() -> list[Case]:
    """Lists every form of every library."""
    torch = resnet.torch_names(BLOCKS["resnet50"])
    found = [
        Case("torch", "zip", "torch.save", "resnet50", torch),
        Case("torch", "zip", "torch.save", "vgg16", vgg.torch_names()),
        Case("torch", "zip", "torch.save", "inception_v3_torch", inception.torch_names()),
        Case("torch", "legacy", "torch.save as before 1.6", "resnet50", torch),
        Case("torch", "wrapped", "torch.save of a training on several devices", "resnet50", torch),
        Case("torch", "f32", "safetensors, float32", "resnet50", torch),
        Case("torch", "bf16", "safetensors, bfloat16", "resnet50", torch),
    ]
    keras = {name: resnet.keras_names(blocks) for name, blocks in BLOCKS.items()}
    keras |= {"vgg16": vgg.keras_names(), "inception_v3": inception.keras_names()}
    for file in ("theirs.h5", "theirs.weights.h5"):
        for backbone, names in keras.items():
            told = f"`{file.removeprefix('theirs')}`"
            found.append(Case("keras", "keras", told, backbone, names, file))
    slim = resnet.slim_names(BLOCKS["resnet101"], "resnet_v1_101")
    for form in ("V1", "V2"):
        told = f"Saver, {form}, slim's {len(slim)} names"
        found.append(Case("tensorflow", form, told, "resnet101", slim))
    dictionary = inception.bn_inception_names()
    found.append(Case("numpy", "numpy", "dictionary", "bn_inception", dictionary, "theirs.npy"))
    return found


def draw(case: Case) -> dict[str, Float[np.ndarray, "..."]]:
    """Draws random values for every array; rounded to bfloat16 for files of that type."""
    stage = 7 if case.backbone == "vgg16" else 0
    cfg = Config(
        model=ModelConfig(backbone=case.backbone, pooling="mean", stage=stage),
        pose=PoseConfig(branch=False),
        init=InitConfig(allow_random=True),
    )
    rng = np.random.default_rng(0)
    named = native.name_arrays(describe_model(cfg, 1000)[1])
    drawn = {path: rng.standard_normal(leaf.shape, np.float32) for path, leaf in named.items()}
    drawn |= {path: np.abs(x) for path, x in drawn.items() if path.endswith("/norm/var")}
    if case.form == "bf16":
        return {path: np.asarray(x.astype(jnp.bfloat16), np.float32) for path, x in drawn.items()}
    return drawn


def run_case(case: Case, python: str, folder: Path) -> Verdict:
    """Writes the file, converts it, and compares."""
    ours = {path: values for path, values in draw(case).items() if path in case.names}
    theirs = rename(ours, case.names)
    for path, source in case.names.items():
        if source.form == "difference":  # the mean minus the bias, in float32
            ours[path] = theirs[source.names[0]] - theirs[source.names[1]]
    np.savez(folder / "arrays.npz", allow_pickle=False, **theirs)
    writer = [python, roundtrip_writers.__file__, case.form, case.backbone]
    wrote = subprocess.run(
        [*writer, str(folder / "arrays.npz"), str(folder / case.file)],
        capture_output=True, text=True, timeout=LONGEST_S, check=False,
    )  # fmt: skip
    values = sum(each.size for each in ours.values())
    if wrote.returncode == roundtrip_writers.ABSENT:
        return Verdict(case, {}, len(ours), values, NOT_RUN)
    if wrote.returncode:
        return Verdict(case, {}, len(ours), values, f"not written: {_last_line(wrote.stderr)}")
    versions = json.loads(_last_line(wrote.stdout))
    result = convert_and_compare(folder / case.file, folder / "ours.safetensors", ours)
    return Verdict(case, versions, len(ours), values, result)


def convert_and_compare(theirs: Path, out: Path, expected: Arrays) -> str:
    """Converts a file; returns EQUAL or a description of the error."""
    stderr = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(stderr):
        code = cli.main(["weights", "convert", str(theirs), str(out)])
    if code:
        return f"refused: {_last_line(stderr.getvalue())}"
    return compare(safetensors.numpy.load_file(out), expected)


def compare(found: Arrays, expected: Arrays) -> str:
    """Returns EQUAL if both have the same names and the same bits."""
    if found.keys() != expected.keys():
        return f"{len(found.keys() ^ expected.keys())} names differ"
    wrong = [
        path
        for path, values in expected.items()
        if (found[path].shape, found[path].tobytes()) != (values.shape, values.tobytes())
    ]
    return f"{len(wrong)} arrays differ, first {wrong[0]}" if wrong else EQUAL


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


def render(verdicts: Sequence[Verdict]) -> str:
    """Renders a row for each case."""
    rows = [
        "| written by | as | network | arrays | values | came back |",
        "|---|---|---|---|---|---|",
    ]
    for case, versions, arrays, values, result in verdicts:
        by = ", ".join(f"{name} {held}" for name, held in versions.items()) or case.library
        cells = (by, case.told, case.backbone, f"{arrays:,}", f"{values:,}", result)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def write_page(verdicts: Sequence[Verdict], page: Path = PAGE) -> None:
    """Writes the table between its marks."""
    head, begin, rest = page.read_text("utf-8").partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} has no marks {BEGIN} and {END} for the table")
    files.write_atomically(page, f"{head}{begin}\n{render(verdicts)}\n{end}{tail}")


def main(words: Sequence[str]) -> int:
    """Runs all available libraries, and writes the table."""
    pythons = dict(word.split("=", 1) for word in words)
    verdicts = []
    for case in cases():
        with tempfile.TemporaryDirectory(prefix="roundtrips-") as folder:
            python = pythons.get(case.library, sys.executable)
            verdicts.append(run_case(case, python, Path(folder)))
        print(f"{case.library:<11} {case.told:<45} {case.backbone:<19} {verdicts[-1].result}")
    write_page(verdicts)
    return int(any(each.result not in (EQUAL, NOT_RUN) for each in verdicts))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
