"""Recognises the network and the source of a file by the names of its arrays."""

import itertools
import re
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from data_pipelines.core.errors import CheckpointError
from gap_jax.models.backbones import efficientnet_lite
from gap_jax.models.backbones.resnet import BLOCKS
from gap_jax.weights.names import efficientnet_lite as lite
from gap_jax.weights.names import inception, resnet, vgg
from gap_jax.weights.names.forms import NameMap, number_variables
from gap_jax.weights.native import BACKBONE

SKIPPED = re.compile(r"\.num_batches_tracked$|^global_step$|/mean_rgb$|/Momentum$")

# Arrays that a file may hold beside a backbone: heads, and an optimiser's state.
EXTRA = re.compile(
    r"^(fc|fc\d|head|pre_logits|classifier|predictions|probs|dense\w*|Aux\w*|optimizer\w*)[./]|"
    r"/(Aux)?[Ll]ogits/|"
    r"/(ExponentialMovingAverage|Adam|Adam_1|RMSProp|RMSProp_1)$"
)


class Convention(NamedTuple):
    """The settings that weights were trained with; `input` is a choice of `model.input`.

    `strides` are empty unless the network is a ResNet. `colours` is the order of the first layer.
    """

    strides: str
    norm_eps: float
    input: str
    colours: str = "RGB"


TORCH = Convention("v1_5", 1e-5, "torchvision")
KERAS = Convention("caffe", 1.001e-5, "vgg", "BGR")
SLIM = Convention("slim", 1e-5, "vgg")
RELEASED = Convention("slim", 1e-5, "reference")
VGG = Convention("", 1e-5, "vgg")
INCEPTION_V3 = Convention("", 1e-3, "inception")
BN_INCEPTION = Convention("", 1e-5, "reference")
EFFICIENTNET_LITE = Convention("", 1e-3, "efficientnet_lite")


class Known(NamedTuple):
    """A known network of a source, with its convention and its names.

    `mark` tells it from networks with the same names: the name of an array and its size.
    """

    source: str
    backbone: str
    convention: Convention
    names: NameMap
    mark: tuple[str, int] = ("", 0)

    def __str__(self) -> str:
        article = "an" if self.backbone[0] in "aeiou" else "a"
        return f"{article} {self.backbone} of {self.source}"

    @property
    def every_name(self) -> set[str]:
        """All names that a file of it can have."""
        return {name for source in self.names.values() for name in source.names}

    @property
    def backbone_names(self) -> set[str]:
        """The names that a file of it must have."""
        paths = [path for path in self.names if path.startswith(BACKBONE)]
        return {name for path in paths for name in self.names[path].names}


def every_known() -> Iterator[Known]:
    """All networks of all sources; Keras' twice, because version 3 numbers variables."""
    for known in itertools.chain(_resnets(), _other_networks()):
        yield known
        if known.source == "keras":
            yield known._replace(source="keras 3", names=number_variables(known.names))


def _resnets() -> Iterator[Known]:
    """The largest first, because their names contain those of smaller ones."""
    for backbone in sorted(BLOCKS, key=lambda name: sum(BLOCKS[name]), reverse=True):
        blocks = BLOCKS[backbone]
        scope = backbone.replace("resnet", "resnet_v1_")
        yield Known("torch", backbone, TORCH, resnet.torch_names(blocks))
        yield Known("hugging face", backbone, TORCH, resnet.hugging_face_names(blocks))
        for classifier in ("predictions", "probs"):
            yield Known("keras", backbone, KERAS, resnet.keras_names(blocks, classifier))
        yield Known("slim", backbone, SLIM, resnet.slim_names(blocks, scope))
        for attention in (True, False):
            names = resnet.released_names(blocks, scope, attention=attention)
            yield Known("attentional pooling", backbone, RELEASED, names)


def _other_networks() -> Iterator[Known]:
    for dense in (True, False):
        torch, keras = VGG._replace(input="torchvision"), VGG._replace(colours="BGR")
        yield Known("torch", "vgg16", torch, vgg.torch_names(dense=dense))
        yield Known("keras", "vgg16", keras, vgg.keras_names(dense=dense))
        yield Known("slim", "vgg16", VGG, vgg.slim_names(dense=dense))
    for first in (0, 1):
        yield Known("keras", "inception_v3", INCEPTION_V3, inception.keras_names(first))
    yield Known("slim", "inception_v3", INCEPTION_V3, inception.slim_names())
    yield Known("torch", "inception_v3_torch", INCEPTION_V3, inception.torch_names())
    names = inception.bn_inception_names()
    yield Known("temporal segment networks", "bn_inception", BN_INCEPTION, names)
    for backbone, stages in sorted(efficientnet_lite.STAGES.items(), reverse=True):
        names, mark = lite.torch_names(stages), lite.mark(stages)
        yield Known("torch", backbone, EFFICIENTNET_LITE, names, mark)


def recognise(
    file: str, names: Collection[str], sizes: Mapping[str, int] = MappingProxyType({})
) -> Known:
    """Finds the network with the most names in the file, among those whose backbone is complete.

    `sizes` are the numbers of values by name; they decide between networks with the same names.
    """
    names = set(names)
    backbones = [(known, known.backbone_names) for known in every_known()]
    complete = [known for known, needed in backbones if needed <= names]
    if complete:
        return max(
            complete,
            key=lambda known: (
                len(known.every_name & names),
                sizes.get(known.mark[0]) == known.mark[1],
            ),
        )
    nearest, needed = max(backbones, key=lambda each: len(each[1] & names) / len(each[1]))
    absent = sorted(needed - names)
    if len(absent) == len(needed):
        raise CheckpointError(
            f"{file} holds no network that gap_jax knows: none of its {len(names)} names is known, "
            f"for example {min(names, default='')!r}; see `gap_jax weights list`"
        )
    raise CheckpointError(
        f"{file} looks like {nearest} and lacks {len(absent)} of its {len(needed)} arrays, "
        f"first {absent[0]}; get it again"
    )
