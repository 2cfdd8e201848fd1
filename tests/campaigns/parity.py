"""Compares our backbones with other libraries' on the same random weights and the same image.

Run as `make parity`. It runs every reference that can be imported (transformers and torchvision
with torch, Keras, and always a literal numpy network) with weights and statistics that are drawn by
name and renamed by our name maps; features and logits must agree within 1e-4 of the largest value.
The answers are stored in tests/goldens, from which docs/parity.md is written.
"""

import argparse
import functools
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from data_pipelines.core import files
from gap_jax.config import Config
from gap_jax.learning.state import Variables, split_network
from gap_jax.models.backbones.efficientnet_lite import STAGES
from gap_jax.models.backbones.resnet import BLOCKS
from gap_jax.models.build import build
from gap_jax.models.network import Network
from gap_jax.weights import named
from gap_jax.weights.names import efficientnet_lite, inception, resnet, vgg
from gap_jax.weights.names.forms import NameMap, Source
from tests.campaigns.parity_references import PACKAGES, REFERENCES, Answer
from tests.support.foreign_names import rename
from tests.support.small_networks import UNOPTIMISED, by_path, drawn

ROOT = Path(__file__).parent.parent.parent
GOLDENS = ROOT / "tests/goldens"
PAGE = ROOT / "docs/parity.md"
BEGIN, END = "<!-- parity: begin -->", "<!-- parity: end -->"
TOLERANCE = 1e-4
KEPT = 120  # values of each array
SEED = 0  # of the image; arrays are drawn by their names
FULL = (224, 450)


class Case(NamedTuple):
    """A network of ours, its reference, the sides of the images, and weights other than random."""

    name: str
    reference: str
    fields: dict[str, Any]
    names: NameMap | None = None  # None: our names
    sides: tuple[int, ...] = FULL
    weights: str = ""  # of a package


def cases() -> Iterator[Case]:
    """Yields every pair; the sides besides 224 and 450 px are small enough for the tests."""
    keras = functools.partial(Case, reference="keras")
    vgg16 = {"backbone": "vgg16"}
    yield keras("vgg16", fields=vgg16, names=vgg.keras_names(dense=False), sides=(64, *FULL))
    yield keras("vgg16_fc7", fields={**vgg16, "stage": 7}, names=vgg.keras_names(), sides=(224,))
    v3 = {"backbone": "inception_v3", "norm_eps": 1e-3}
    yield keras("inception_v3", fields=v3, names=inception.keras_names(), sides=(107, *FULL))
    yield Case(
        "inception_v3_torch", "torchvision", {**v3, "backbone": "inception_v3_torch"},
        inception.torch_names(), sides=(299, 450),
    )  # fmt: skip
    bn_inception = inception.bn_inception_names()
    yield Case("bn_inception", "numpy", {"backbone": "bn_inception"}, bn_inception)
    for name, stages in STAGES.items():
        fields = {"backbone": name, "norm_eps": 1e-3, "input": "efficientnet_lite"}
        theirs = efficientnet_lite.torch_names(stages)
        yield Case(f"{name}_imagenet", "torch", fields, theirs, weights=name)
    for name, blocks in BLOCKS.items():
        sides = (65, *FULL) if name == "resnet50" else FULL
        caffe = {"backbone": name, "strides": "caffe", "norm_eps": 1.001e-5}
        yield keras(f"{name}_caffe", fields=caffe, names=resnet.keras_names(blocks), sides=sides)
        v1_5 = {"backbone": name, "strides": "v1_5"}
        yield Case(f"{name}_v1_5", "transformers", v1_5, resnet.hugging_face_names(blocks))
        yield Case(f"{name}_slim", "numpy", {"backbone": name})


def draw_network(case: Case) -> Network:
    """Builds our network with mean pooling; draws its values by their paths, or loads them."""
    cfg = Config()
    cfg.pose.branch, cfg.model.pooling = False, "mean"
    for name, value in case.fields.items():
        setattr(cfg.model, name, value)
    network = drawn(lambda: build(cfg.resolved(), 1000, 0))
    if not case.weights:
        return network
    model, variables = split_network(network)
    path = named.find_packaged(case.weights)
    return model.merge(named.load_packaged(path, variables, cfg.model, "all")[0])


def draw_image(side: int) -> Float[np.ndarray, "1 h w 3"]:
    """Draws a normalised image."""
    values = np.random.default_rng(SEED).normal(size=(1, side, side, 3))
    return values.astype(np.float32)


def ask_ours(network: Network, image: Float[np.ndarray, "1 h w 3"]) -> Answer:
    """Computes our last map and logits, in float32."""
    model, variables = split_network(network)

    def apply(variables: Variables, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        ours = model.merge(variables)
        features = ours.backbone(image, train=False)
        return features, ours(features, map_of_px=image.shape[1]).logits

    features, logits = jax.jit(apply, compiler_options=UNOPTIMISED)(variables, image)
    return Answer(np.asarray(features), np.asarray(logits))


def thin_out(values: np.ndarray) -> np.ndarray:
    """Selects values from the whole array with an odd stride."""
    flat = values.ravel()
    return flat[:: max(flat.size // KEPT, 1) | 1]


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Returns the largest difference, relative to the largest value."""
    if ours.shape != theirs.shape:
        raise SystemExit(f"ours has shape {ours.shape}, the reference {theirs.shape}")
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def compare(case: Case) -> Iterator[dict[str, Any]]:
    """Yields the golden of each side."""
    network = draw_network(case)
    ours = {path: np.asarray(x) for path, x in by_path(nnx.state(network)).items()}
    names = case.names or {name: Source((name,)) for name in ours}
    theirs = rename(ours, names)
    for side in case.sides:
        image = draw_image(side)
        answer = REFERENCES[case.reference](case.fields["backbone"], theirs, image)
        arrays, own = {}, ask_ours(network, image)
        for name, expected in answer._asdict().items():
            if expected is not None:
                arrays[name] = {
                    "difference": difference(getattr(own, name), expected),
                    "largest": float(np.abs(expected).max()),
                    "shape": expected.shape,
                    "values": [float(f"{value:.7g}") for value in thin_out(expected)],
                }
        versions = {name: importlib.metadata.version(name) for name in PACKAGES[case.reference]}
        yield {
            "case": case.name,
            "side": side,
            "seed": SEED,
            "reference": case.reference,
            "versions": versions,
            "arrays": arrays,
        }


def read_golden(name: str, side: int) -> dict[str, Any]:
    """Reads the stored answer of a reference."""
    return json.loads((GOLDENS / f"{name}_{side}.json").read_text("utf-8"))


def render() -> str:
    """Renders a row for each golden."""
    rows = [
        "| network | pixels | reference | features | logits |",
        "|---|---|---|---|---|",
    ]
    for case in cases():
        for side in case.sides:
            if not (GOLDENS / f"{case.name}_{side}.json").exists():
                continue
            golden = read_golden(case.name, side)
            versions = ", ".join(f"{name} {held}" for name, held in golden["versions"].items())
            found = golden["arrays"]
            errors = [
                f"{found[name]['difference']:.1e}" if name in found else "-"
                for name in Answer._fields
            ]
            rows.append(f"| {case.name} | {side} | {versions} | {' | '.join(errors)} |")
    return "\n".join(rows)


def write_page() -> None:
    """Writes the table between its marks."""
    head, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    tail = rest.partition(END)[2]
    files.write_atomically(PAGE, f"{head}{BEGIN}\n{render()}\n{END}{tail}")


def main() -> int:
    """Runs all available references; returns 1 if a difference exceeds the tolerance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="prefix of the names of cases")
    only, wrong = parser.parse_args().only, 0
    for case in cases():
        if not case.name.startswith(only):
            continue
        absent = [name for name in PACKAGES[case.reference] if not importlib.util.find_spec(name)]
        if absent:
            print(
                f"{case.name}: {', '.join(absent)} is not installed; its goldens stay as they are"
            )
            continue
        for golden in compare(case):
            errors = {name: found["difference"] for name, found in golden["arrays"].items()}
            print(case.name, golden["side"], errors, flush=True)
            wrong += max(errors.values()) > TOLERANCE
            place = GOLDENS / f"{case.name}_{golden['side']}.json"
            files.write_atomically(place, json.dumps(golden) + "\n")
            write_page()
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
