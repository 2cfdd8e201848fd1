"""Our own weights file: a backbone's parameters and statistics by path, as safetensors."""

import contextlib
import hashlib
import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy

from data_pipelines.core import files
from data_pipelines.core.errors import CheckpointError, name_some
from gap_jax.learning.optim import name_path
from gap_jax.learning.state import Variables
from gap_jax.model_config import ModelConfig
from gap_jax.weights.formats import Arrays
from gap_jax.weights.metadata import KEY, Metadata, compare, parse_metadata

MOST_GROUPS, MOST_LETTERS = 8, 40  # groups of arrays that a line lists, and letters of each
DIGESTS = "sha256"  # in the safetensors metadata: a JSON object with the digest of each array
BACKBONE = "backbone/"  # prefix of the backbone's arrays
VARIANCE = "/norm/var"  # suffix of running variances
DENSE = {  # R-CNN's dense layers on a VGG16, and the files' fc6 and fc7, which are convolutions
    f"pooling/hidden/{layer}/{name}": f"backbone/stages/{layer + 5}/0/{name}"
    for layer in (0, 1)
    for name in ("kernel", "bias")
}


class Form(NamedTuple):
    """The type and the shape of a stored array."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


class Contents(NamedTuple):
    """The contents of a weights file under our names; `read` reads and verifies arrays."""

    metadata: Metadata
    forms: Mapping[str, Form]
    read: Callable[[Collection[str]], Arrays]


class LoadReport(NamedTuple):
    """The sizes of a network's and a file's arrays by name; `notes` tell harmless differences."""

    source: Path
    sha256: str
    matched: dict[str, int]
    left_random: dict[str, int]
    unused: dict[str, int]
    notes: list[str]

    @property
    def whole_parts(self) -> tuple[str, ...]:
        """The parts of the network whose arrays all come from the file."""
        random = {name.partition("/")[0] for name in self.left_random}
        return tuple(sorted({name.partition("/")[0] for name in self.matched} - random))

    def __str__(self) -> str:
        first = (
            f"{self.source}: {count_matched(self.matched)}; left random "
            f"{count(self.left_random)}; unused {count(self.unused)}; SHA-256 {self.sha256}"
        )
        return "\n".join([first, *self.notes])


def name_arrays(variables: Variables) -> dict[str, Any]:
    """Names parameters and statistics by path, as backbone/layers/0/norm/mean."""
    return {
        name_path(path): leaf
        for part in variables
        for path, leaf in jax.tree_util.tree_leaves_with_path(part)
    }


def replace_arrays(variables: Variables, arrays: Mapping[str, Any]) -> Variables:
    """Replaces the variables at the named paths."""

    def replace(path: tuple[Any, ...], leaf: Any) -> Any:
        return arrays.get(name_path(path), leaf)

    return Variables(*(jax.tree_util.tree_map_with_path(replace, part) for part in variables))


def save_backbone(path: Path, variables: Variables, metadata: Metadata) -> None:
    """Writes the backbone's arrays; equal arrays and metadata give equal bytes."""
    arrays = {
        name: np.asarray(jax.device_get(leaf))
        for name, leaf in name_arrays(variables).items()
        if name.startswith(BACKBONE)
    }
    write(path, arrays, metadata)


def write(path: Path, arrays: Arrays, metadata: Metadata) -> None:
    """Writes arrays under our names; equal arrays and metadata give equal bytes."""
    _check_values(path, arrays)
    texts = {KEY: metadata.dump()}
    texts[DIGESTS] = json.dumps(_digest(texts, arrays), sort_keys=True)
    files.write_atomically(path, _sort_header(safetensors.numpy.save(arrays, texts)))


def load_backbone(
    source: Path, variables: Variables, model: ModelConfig, parts: str = "backbone"
) -> tuple[Variables, LoadReport]:
    """Replaces the backbone by that of one of our files, see `fill_backbone`."""
    with _opened(source) as contents:
        return fill_backbone(source, contents, variables, model, parts)


def fill_backbone(
    source: Path, contents: Contents, variables: Variables, model: ModelConfig, parts: str
) -> tuple[Variables, LoadReport]:
    """Replaces the backbone by the file's; each array keeps the sharding of the one it replaces.

    `variables` may hold shapes instead of arrays.

    The file must hold every array of this backbone, as finite float32 of the right shape. Of its
    other arrays `parts="all"` also loads those with the name and the shape of an array here, such
    as a classifier; R-CNN's dense layers on a VGG16 are its fc6 and fc7 where they have their
    sizes. The rest, such as later stages, is left out and reported.
    """
    named = name_arrays(variables)
    notes = compare(source, contents.metadata, model)
    contents, dense = _rename_dense(contents, named, model)
    wanted = {
        name: leaf for name, leaf in named.items() if name.startswith(BACKBONE) or name in dense
    }
    forms = contents.forms
    sizes = {name: math.prod(form.shape) for name, form in forms.items()}
    if parts == "all":
        wanted |= {
            name: leaf
            for name, leaf in named.items()
            if name in forms and forms[name].shape == leaf.shape
        }
    _check_forms(source, forms, wanted)
    arrays = contents.read(wanted)
    _check_values(source, arrays)
    sharded = {
        name: jax.make_array_from_callback(leaf.shape, leaf.sharding, arrays[name].__getitem__)
        if leaf.sharding
        else jax.device_put(arrays[name])
        for name, leaf in wanted.items()
    }
    report = LoadReport(
        source,
        files.sha256(source),
        matched={name: sizes[name] for name in wanted},
        left_random={name: leaf.size for name, leaf in named.items() if name not in wanted},
        unused={name: size for name, size in sizes.items() if name not in wanted},
        notes=notes,
    )
    return replace_arrays(variables, sharded), report


def _rename_dense(
    contents: Contents, named: Mapping[str, Any], model: ModelConfig
) -> tuple[Contents, Collection[str]]:
    """Gives a VGG16's fc6 and fc7 the names and shapes of R-CNN's dense layers; returns those.

    All four arrays must fit: fc7 is of no use above another fc6.
    """
    forms = dict(contents.forms)

    def fits(ours: str, theirs: str) -> bool:
        if ours not in named or ours in forms or theirs not in forms or theirs in named:
            return False
        return math.prod(forms[theirs].shape) == math.prod(named[ours].shape)

    if model.backbone != "vgg16" or not all(fits(*pair) for pair in DENSE.items()):
        return contents, ()
    if forms["backbone/stages/5/0/kernel"].shape[0] != model.region_side:  # other cells
        return contents, ()
    for ours, theirs in DENSE.items():
        forms[ours] = Form(forms.pop(theirs).dtype, named[ours].shape)

    def read(names: Collection[str]) -> Arrays:
        arrays = contents.read([DENSE.get(name, name) for name in names])
        return {name: arrays[DENSE.get(name, name)].reshape(forms[name].shape) for name in names}

    return contents._replace(forms=forms, read=read), DENSE.keys()


def read_metadata(source: Path) -> Metadata:
    """Reads the metadata of one of our files."""
    with _opened(source) as contents:
        return contents.metadata


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[Contents]:
    try:
        with safetensors.safe_open(source, framework="numpy") as file:
            texts, every = file.metadata(), file.keys()

            def read(names: Collection[str]) -> Arrays:
                arrays = {name: file.get_tensor(name) for name in names}
                _check_digests(source, texts, arrays)
                return arrays

            slices = {name: file.get_slice(name) for name in every}
            forms = {
                name: Form(each.get_dtype(), tuple(each.get_shape()))
                for name, each in slices.items()
            }
            yield Contents(parse_metadata(source, texts), forms, read)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{source} cannot be read as safetensors ({error}); make or copy it again"
        ) from error


def _check_forms(source: Path, forms: Mapping[str, Form], wanted: Mapping[str, Any]) -> None:
    """Refuses a file in which a wanted array is absent or has another type or shape."""
    misfits = []
    for name, leaf in wanted.items():
        fitting = Form("F32", leaf.shape)
        found = forms.get(name, "absent")
        if found != fitting:
            misfits.append(f"{name} is {found} in the file and {fitting} in the network")
    if misfits:
        raise CheckpointError(
            f"{source} does not fit this backbone in {len(misfits)} of {len(wanted)} arrays: "
            f"{misfits[0]}; use the config of its training or another init.weights"
        )


def _sort_header(content: bytes) -> bytes:
    """Sorts the header of a safetensors file; the library writes metadata in random order."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # arrays begin at a multiple of 8 bytes
    return len(header).to_bytes(8, "little") + header + content[end:]


def _digest(texts: Mapping[str, str], arrays: Arrays) -> dict[str, str]:
    """The SHA-256 of the metadata's text and of each array's bytes."""
    digests = {
        name: hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()  # without a copy
        for name, values in arrays.items()
    }
    return {**digests, KEY: hashlib.sha256(texts[KEY].encode()).hexdigest()}


def _check_digests(source: Path, texts: Mapping[str, str], arrays: Arrays) -> None:
    """Refuses a file whose digests differ; the oldest files have no digests."""
    if DIGESTS not in texts:
        return
    try:
        written = dict(json.loads(texts[DIGESTS]))
    except (ValueError, TypeError, RecursionError):
        written = {}
    found = _digest(texts, arrays)
    damaged = [name for name, digest in found.items() if written.get(name) != digest]
    if damaged:
        raise CheckpointError(
            f"{source} is damaged: the SHA-256 of {len(damaged)} arrays differs from the one "
            f"written, first {damaged[0]}; make or copy it again"
        )


def _check_values(path: Path, arrays: Arrays) -> None:
    bad = [name for name, values in arrays.items() if not np.isfinite(values).all()]
    if bad:
        raise CheckpointError(
            f"{len(bad)} arrays of {path} have values that are not finite, first {bad[0]}; "
            "use a checkpoint from before training diverged"
        )
    for name, values in arrays.items():
        if name.endswith(VARIANCE) and values.min(initial=0) < 0:
            raise CheckpointError(
                f"{path}: {name} is a variance and is negative; make or copy it again"
            )


def count(sizes: Mapping[str, int]) -> str:
    """Renders the numbers of arrays and values, and their groups."""
    if not sizes:
        return "none"
    groups = dict.fromkeys(re.split("[/.]", name, maxsplit=1)[0] for name in sizes)
    listed = name_some([ascii(each)[1:-1][:MOST_LETTERS] for each in groups], MOST_GROUPS)
    return f"{len(sizes)} arrays with {sum(sizes.values()):,} values ({listed})"


def count_matched(sizes: Mapping[str, int]) -> str:
    """Renders the numbers of matched arrays, and of layers with running statistics."""
    norms = sum(name.endswith(VARIANCE) for name in sizes)
    return f"matched {count(sizes)}, running statistics of {norms} layers"
