"""VGG16 as torchvision, Keras and TF-slim name it; `dense` with fc6, fc7 and the classifier."""

from collections.abc import Iterator

from gap_jax.models.backbones.vgg import BLOCKS
from gap_jax.weights.names.forms import Form, NameMap, Source, classifier_names


def _convolutions() -> Iterator[tuple[int, int]]:
    """Block and place of every 3x3 convolution."""
    for block, (_, depth) in enumerate(BLOCKS):
        for place in range(depth):
            yield block, place


def _layer(path: str, kernel: str, bias: str, form: Form = "same") -> NameMap:
    return {f"{path}/kernel": Source((kernel,), form), f"{path}/bias": Source((bias,))}


def torch_names(*, dense: bool = True) -> NameMap:
    """torchvision's vgg16."""
    names: NameMap = {}
    for index, (block, place) in enumerate(_convolutions()):
        stem = f"features.{2 * index + block}"  # a relu follows each, a pool each block
        path = f"backbone/stages/{block}/{place}"
        names |= _layer(path, f"{stem}.weight", f"{stem}.bias", "oihw")
    if dense:
        fc6, fc7, fc8 = (f"classifier.{place}" for place in (0, 3, 6))
        names |= _layer("backbone/stages/5/0", f"{fc6}.weight", f"{fc6}.bias", "map_oi")
        names |= _layer("backbone/stages/6/0", f"{fc7}.weight", f"{fc7}.bias", "cell_oi")
        names |= classifier_names(f"{fc8}.weight", f"{fc8}.bias", "classifier_oi")
    return names


def keras_names(*, dense: bool = True) -> NameMap:
    """Keras' VGG16 as LAYER/VARIABLE; it reads colours as BGR."""
    names: NameMap = {}
    for block, place in _convolutions():
        stem = f"block{block + 1}_conv{place + 1}"
        form = "bgr" if (block, place) == (0, 0) else "same"
        names |= _layer(f"backbone/stages/{block}/{place}", f"{stem}/kernel", f"{stem}/bias", form)
    if dense:
        names |= _layer("backbone/stages/5/0", "fc1/kernel", "fc1/bias", "map_io")
        names |= _layer("backbone/stages/6/0", "fc2/kernel", "fc2/bias", "cell_io")
        names |= classifier_names("predictions/kernel", "predictions/bias", "classifier_io")
    return names


def slim_names(*, dense: bool = True) -> NameMap:
    """TF-slim's, as in vgg_16.ckpt."""
    names: NameMap = {}
    for block, place in _convolutions():
        stem = f"vgg_16/conv{block + 1}/conv{block + 1}_{place + 1}"
        names |= _layer(f"backbone/stages/{block}/{place}", f"{stem}/weights", f"{stem}/biases")
    if dense:
        for stage, layer in ((5, "fc6"), (6, "fc7")):
            stem = f"vgg_16/{layer}"
            names |= _layer(f"backbone/stages/{stage}/0", f"{stem}/weights", f"{stem}/biases")
        fc8 = "vgg_16/fc8"
        names |= classifier_names(f"{fc8}/weights", f"{fc8}/biases", "classifier_pointwise")
    return names
