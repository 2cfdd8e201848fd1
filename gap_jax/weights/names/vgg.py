"""The names of VGG16 in torchvision, Keras and TF-slim; `dense`: with fc6, fc7 and classifier."""

from collections.abc import Sequence

from gap_jax.models.backbones.vgg import STAGES
from gap_jax.weights.names.forms import NameMap, Source, classifier_names

CONVOLUTIONS = [(block, conv) for block, (*_, n) in enumerate(STAGES[:5]) for conv in range(n)]
DENSE = [(5, 0), (6, 0)]  # fc6 and fc7


def torch_names(*, dense: bool = True) -> NameMap:
    """The names of torchvision's vgg16, in which a relu follows each layer, a pool each block."""
    stems = [f"features.{2 * index + block}" for index, (block, _) in enumerate(CONVOLUTIONS)]
    stems += ["classifier.0", "classifier.3", "classifier.6"]
    forms = ["oihw"] * len(CONVOLUTIONS) + ["map_oi", "cell_oi", "classifier_oi"]
    return _name_layers(stems, (".weight", ".bias"), forms, dense=dense)


def keras_names(*, dense: bool = True) -> NameMap:
    """Keras' VGG16 as LAYER/VARIABLE; it reads colours as BGR."""
    stems = [f"block{block + 1}_conv{conv + 1}" for block, conv in CONVOLUTIONS]
    stems += ["fc1", "fc2", "predictions"]
    forms = ["bgr"] + ["same"] * (len(CONVOLUTIONS) - 1) + ["map_io", "cell_io", "classifier_io"]
    return _name_layers(stems, ("/kernel", "/bias"), forms, dense=dense)


def slim_names(*, dense: bool = True) -> NameMap:
    """TF-slim's names, as in vgg_16.ckpt."""
    layers = [f"conv{block + 1}/conv{block + 1}_{conv + 1}" for block, conv in CONVOLUTIONS]
    stems = [f"vgg_16/{layer}" for layer in (*layers, "fc6", "fc7", "fc8")]
    forms = ["same"] * len(CONVOLUTIONS + DENSE) + ["classifier_pointwise"]
    return _name_layers(stems, ("/weights", "/biases"), forms, dense=dense)


def _name_layers(
    stems: Sequence[str], variables: tuple[str, str], forms: Sequence[str], *, dense: bool
) -> NameMap:
    kernel, bias = variables
    names: NameMap = {}
    layers = CONVOLUTIONS + DENSE if dense else CONVOLUTIONS
    for (stage, conv), stem, form in zip(layers, stems, forms, strict=False):
        path = f"backbone/stages/{stage}/{conv}"
        names[f"{path}/kernel"] = Source((stem + kernel,), form)
        names[f"{path}/bias"] = Source((stem + bias,))
    if dense:
        names |= classifier_names(stems[-1] + kernel, stems[-1] + bias, forms[-1])
    return names
