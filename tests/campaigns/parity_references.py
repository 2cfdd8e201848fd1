"""Runs networks of other libraries, and literal numpy networks, with given weights."""

import importlib
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from tests.support import oracles

Array = Float[np.ndarray, "..."]
Arrays = Mapping[str, Array]
PACKAGES = {
    "transformers": ("transformers", "torch"),
    "torchvision": ("torchvision", "torch"),
    "torch": ("torch",),
    "keras": ("keras", "jax"),
    "numpy": ("numpy",),
}


class Answer(NamedTuple):
    """The last map, and the ImageNet logits of networks with a classifier."""

    features: Array
    logits: Array | None


def ask_transformers(backbone: str, theirs: Arrays, image: Array) -> Answer:
    """Runs ResNetForImageClassification, whose strides are torchvision's."""
    torch, transformers = (importlib.import_module(name) for name in ("torch", "transformers"))
    depths = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3)}
    config = transformers.ResNetConfig(depths=list(depths[backbone]), num_labels=1000)
    with torch.no_grad():
        model = transformers.ResNetForImageClassification(config).eval()
        state = {name: torch.tensor(np.ascontiguousarray(x)) for name, x in theirs.items()}
        absent = model.load_state_dict(state, strict=False)
        left = [name for name in absent.missing_keys if "num_batches_tracked" not in name]
        if left or absent.unexpected_keys:
            raise ValueError(f"transformers has {left} beyond our names")
        pixels = torch.tensor(np.ascontiguousarray(image.transpose(0, 3, 1, 2)))
        features = model.resnet(pixels).last_hidden_state.numpy().transpose(0, 2, 3, 1)
        return Answer(features, model(pixels).logits.numpy())


def ask_torchvision(backbone: str, theirs: Arrays, image: Array) -> Answer:
    """Runs torchvision's Inception-v3 without its auxiliary head."""
    torch, torchvision = (importlib.import_module(name) for name in ("torch", "torchvision"))
    if backbone != "inception_v3_torch":
        raise ValueError(f"torchvision is no reference for {backbone}")
    with torch.no_grad():
        model = torchvision.models.inception_v3(weights=None, aux_logits=False, init_weights=False)
        absent = model.load_state_dict(
            {name: torch.tensor(x) for name, x in theirs.items()}, strict=False
        )
        left = [name for name in absent.missing_keys if "num_batches_tracked" not in name]
        if left or absent.unexpected_keys:
            raise ValueError(f"torchvision has {left} beyond our names")
        maps: list[Any] = []
        model.Mixed_7c.register_forward_hook(lambda *called: maps.append(called[2]))
        pixels = torch.tensor(np.ascontiguousarray(image.transpose(0, 3, 1, 2)))
        logits = model.eval()(pixels).numpy()
        return Answer(maps[0].numpy().transpose(0, 2, 3, 1), logits)


def ask_torch(backbone: str, theirs: Arrays, image: Array) -> Answer:
    """Runs the EfficientNet-Lite of the benchmarks, written in PyTorch for this comparison."""
    torch = importlib.import_module("torch")
    built = importlib.import_module("benchmarks.torch_efficientnet_lite")
    model = built.EfficientNetLite(backbone, 1000).eval()
    absent = model.load_state_dict(
        {name: torch.tensor(np.array(x)) for name, x in theirs.items()}, strict=False
    )
    left = [name for name in absent.missing_keys if "num_batches_tracked" not in name]
    if left or absent.unexpected_keys:
        raise ValueError(f"the network has {left} beyond our names")
    with torch.no_grad():
        pixels = torch.tensor(np.ascontiguousarray(image.transpose(0, 3, 1, 2)))
        features = model.features(pixels).numpy().transpose(0, 2, 3, 1)
        return Answer(features, model(pixels).numpy())


def ask_keras(backbone: str, theirs: Arrays, image: Array) -> Answer:
    """Runs networks of keras.applications; those from Caffe read BGR."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = importlib.import_module("keras")
    keras.utils.clear_session()
    make, last, reads_bgr = {
        "resnet50": ("ResNet50", "conv5_block3_out", True),
        "resnet101": ("ResNet101", "conv5_block3_out", True),
        "resnet152": ("ResNet152", "conv5_block3_out", True),
        "vgg16": ("VGG16", "fc2" if "fc2/kernel" in theirs else "block5_conv3", True),
        "inception_v3": ("InceptionV3", "mixed10", False),
    }[backbone]
    with_classifier = "predictions/kernel" in theirs
    options: dict[str, Any] = {"weights": None, "input_shape": image.shape[1:]}
    options["include_top"] = with_classifier
    if with_classifier:
        options["classifier_activation"] = None
    model = getattr(keras.applications, make)(**options)
    unset = set(theirs)
    for layer in model.layers:
        for variable in layer.weights:
            name = f"{layer.name}/{variable.name}"
            variable.assign(theirs[name])
            unset.remove(name)
    if unset:
        raise ValueError(f"Keras has no {sorted(unset)}")
    ends = keras.Model(model.inputs, [model.get_layer(last).output, model.output])
    features, logits = ends(image[..., ::-1] if reads_bgr else image, training=False)
    map_ = np.asarray(features)
    map_ = map_[:, None, None] if map_.ndim == 2 else map_
    return Answer(map_, np.asarray(logits) if with_classifier else None)


def ask_numpy(backbone: str, theirs: Arrays, image: Array) -> Answer:
    """Runs the literal networks of the tests in float64; a ResNet's arrays keep our names."""
    exact = {name: np.asarray(x, np.float64) for name, x in theirs.items()}
    pixels = np.asarray(image, np.float64)
    if backbone == "bn_inception":
        return Answer(oracles.bn_inception(exact, pixels), None)
    arrays: dict[Any, Any] = {}
    for name, x in exact.items():
        *folders, leaf = (int(part) if part.isdigit() else part for part in name.split("/"))
        place = arrays
        for folder in folders:
            place = place.setdefault(folder, {})
        place[leaf] = x
    features = oracles.resnet(arrays["backbone"], arrays["backbone"], pixels, "slim")
    kernel, bias = arrays["pooling"]["kernel"][0], arrays["pooling"]["bias"][0]
    return Answer(features, features.mean((1, 2)) @ kernel + bias)


REFERENCES: dict[str, Callable[[str, Arrays, Array], Answer]] = {
    "torch": ask_torch,
    "transformers": ask_transformers,
    "torchvision": ask_torchvision,
    "keras": ask_keras,
    "numpy": ask_numpy,
}
