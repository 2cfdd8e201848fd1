"""Writes a weights file with a library of the current interpreter; itself needs only numpy.

    PYTHON roundtrip_writers.py FORM BACKBONE ARRAYS.npz OUT

It prints the versions of the libraries as JSON, or ends with ABSENT if one of them is missing.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]
ABSENT = 3
APPLICATIONS = {
    "resnet50": "ResNet50",
    "resnet101": "ResNet101",
    "resnet152": "ResNet152",
    "vgg16": "VGG16",
    "inception_v3": "InceptionV3",
}


def torch_state(arrays: Arrays) -> dict[str, Any]:
    """Returns a state dict, with the counter of each batch norm."""
    torch: Any = importlib.import_module("torch")
    state = {}
    for name, values in arrays.items():
        state[name] = torch.from_numpy(values)
        if name.endswith(".running_var"):
            state[name.replace("running_var", "num_batches_tracked")] = torch.tensor(7)
    return state


def write_torch(arrays: Arrays, out: Path, **options: Any) -> tuple[str, ...]:
    """Writes only the state dict with torch.save."""
    torch: Any = importlib.import_module("torch")
    torch.save(torch_state(arrays), out, **options)
    return ("torch",)


def write_wrapped(arrays: Arrays, out: Path) -> tuple[str, ...]:
    """Writes a checkpoint of a training on several devices, with channels-last kernels."""
    torch: Any = importlib.import_module("torch")
    state = {
        f"module.{name}": x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
        for name, x in torch_state(arrays).items()
    }
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], 0.1).state_dict()
    beside = {"epoch": 90, "arch": "resnet50", "best_acc1": torch.tensor(76.1)}
    torch.save({**beside, "state_dict": state, "optimizer": optimizer}, out)
    return ("torch",)


def write_safetensors(arrays: Arrays, out: Path, kind: str) -> tuple[str, ...]:
    """Writes torch's tensors with safetensors."""
    torch, safe = (importlib.import_module(name) for name in ("torch", "safetensors.torch"))
    state = {name: x.to(getattr(torch, kind)) for name, x in torch_state(arrays).items()}
    safe.save_file(state, out)
    return ("safetensors", "torch")


def write_keras(arrays: Arrays, out: Path, backbone: str) -> tuple[str, ...]:
    """Writes a network of keras.applications: only its weights, or the model in the old format."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras: Any = importlib.import_module("keras")
    model = getattr(keras.applications, APPLICATIONS[backbone])(weights=None)
    unset = set(arrays)
    for layer in model.layers:
        for variable in layer.weights:
            name = f"{layer.name}/{variable.name}"
            variable.assign(arrays[name])
            unset.remove(name)
    if unset:
        raise ValueError(f"Keras has no {sorted(unset)}")
    (model.save_weights if out.name.endswith(".weights.h5") else model.save)(out)
    return ("keras", "h5py")


def write_saver(arrays: Arrays, out: Path, version: str) -> tuple[str, ...]:
    """Writes variables of these names and the step counter with TensorFlow's Saver."""
    v1: Any = importlib.import_module("tensorflow").compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        counter = v1.get_variable("global_step", (), v1.int64, v1.zeros_initializer())
        variables = {
            name: v1.get_variable(name, values.shape, initializer=v1.zeros_initializer())
            for name, values in arrays.items()
        }
        session.run(counter.initializer)
        for name, variable in variables.items():
            variable.load(arrays[name], session)
        saver = v1.train.Saver(write_version=getattr(v1.train.SaverDef, version))
        saver.save(session, str(out), write_meta_graph=False, write_state=False)
    return ("tensorflow",)


def write_numpy(arrays: Arrays, out: Path) -> tuple[str, ...]:
    """Writes a dictionary of layers, in an array of one object."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    for name, values in arrays.items():
        layer, _, variable = name.rpartition("/")
        layers.setdefault(layer, {})[variable] = values
    np.save(out, np.array(layers, dtype=object))
    return ("numpy",)


WRITERS: dict[str, Callable[[Arrays, Path, str], tuple[str, ...]]] = {
    "zip": lambda arrays, out, _: write_torch(arrays, out),
    "legacy": lambda arrays, out, _: write_torch(arrays, out, _use_new_zipfile_serialization=False),
    "wrapped": lambda arrays, out, _: write_wrapped(arrays, out),
    "f32": lambda arrays, out, _: write_safetensors(arrays, out, "float32"),
    "bf16": lambda arrays, out, _: write_safetensors(arrays, out, "bfloat16"),
    "keras": write_keras,
    "V1": lambda arrays, out, _: write_saver(arrays, out, "V1"),
    "V2": lambda arrays, out, _: write_saver(arrays, out, "V2"),
    "numpy": lambda arrays, out, _: write_numpy(arrays, out),
}


def main(form: str, backbone: str, source: str, out: str) -> int:
    """Writes one file."""
    with np.load(source, allow_pickle=False) as held:
        arrays = {name: held[name] for name in held.files}
    try:
        wrote = WRITERS[form](arrays, Path(out), backbone)
    except ModuleNotFoundError as error:
        print(f"no {error.name}", file=sys.stderr)
        return ABSENT
    print(json.dumps({name: importlib.import_module(name).__version__ for name in wrote}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
