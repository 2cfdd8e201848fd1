"""The names of VGG16 in torchvision, Keras and TF-slim; `dense`: with fc6, fc7 and classifier."""

from gap_jax.models.backbones.vgg import BLOCKS
from gap_jax.weights.names.forms import NameMap, Source, classifier_names

CONVOLUTIONS = [(block, conv) for block, (_, depth) in enumerate(BLOCKS) for conv in range(depth)]


def _layer(path: str, kernel: str, bias: str, form: str = "same") -> NameMap:
    return {f"{path}/kernel": Source((kernel,), form), f"{path}/bias": Source((bias,))}


def torch_names(*, dense: bool = True) -> NameMap:
    """The names of torchvision's vgg16."""
    names: NameMap = {}
    for index, (block, conv) in enumerate(CONVOLUTIONS):
        stem = f"features.{2 * index + block}"  # a relu follows each, a pool each block
        path = f"backbone/stages/{block}/{conv}"
        names |= _layer(path, f"{stem}.weight", f"{stem}.bias", "oihw")
    if dense:
        fc6, fc7, fc8 = (f"classifier.{index}" for index in (0, 3, 6))
        names |= _layer("backbone/stages/5/0", f"{fc6}.weight", f"{fc6}.bias", "map_oi")
        names |= _layer("backbone/stages/6/0", f"{fc7}.weight", f"{fc7}.bias", "cell_oi")
        names |= classifier_names(f"{fc8}.weight", f"{fc8}.bias", "classifier_oi")
    return names


def keras_names(*, dense: bool = True) -> NameMap:
    """Keras' VGG16 as LAYER/VARIABLE; it reads colours as BGR."""
    names: NameMap = {}
    for block, conv in CONVOLUTIONS:
        stem = f"block{block + 1}_conv{conv + 1}"
        form = "bgr" if (block, conv) == (0, 0) else "same"
        names |= _layer(f"backbone/stages/{block}/{conv}", f"{stem}/kernel", f"{stem}/bias", form)
    if dense:
        names |= _layer("backbone/stages/5/0", "fc1/kernel", "fc1/bias", "map_io")
        names |= _layer("backbone/stages/6/0", "fc2/kernel", "fc2/bias", "cell_io")
        names |= classifier_names("predictions/kernel", "predictions/bias", "classifier_io")
    return names


def slim_names(*, dense: bool = True) -> NameMap:
    """TF-slim's names, as in vgg_16.ckpt."""
    names: NameMap = {}
    for block, conv in CONVOLUTIONS:
        stem = f"vgg_16/conv{block + 1}/conv{block + 1}_{conv + 1}"
        names |= _layer(f"backbone/stages/{block}/{conv}", f"{stem}/weights", f"{stem}/biases")
    if dense:
        for stage, layer in ((5, "fc6"), (6, "fc7")):
            stem = f"vgg_16/{layer}"
            names |= _layer(f"backbone/stages/{stage}/0", f"{stem}/weights", f"{stem}/biases")
        fc8 = "vgg_16/fc8"
        names |= classifier_names(f"{fc8}/weights", f"{fc8}/biases", "classifier_pointwise")
    return names
