"""BN-Inception of temporal segment networks (Caffe): convolutions have a bias before the norm.

Pools are padded as in TensorFlow: on sizes even at every pool (224 px) maps are as large as
Caffe's. A mean pool does not count padding, where Caffe always divides by nine.
"""

from typing import Literal

from gap_jax.models.backbones.inception import Conv, Pool, Stages, Steps, fork


def _mixed(
    one: int,
    three: tuple[int, int],
    double: tuple[int, int],
    projected: int,
    pool: Literal["mean", "max"] = "mean",
) -> Steps:
    """Branches 1x1, 3x3, twice 3x3 and a pool; a pair begins with the 1x1 convolution before."""
    return fork(
        (Conv(one),),
        (Conv(three[0]), Conv(three[1], 3)),
        (Conv(double[0]), Conv(double[1], 3), Conv(double[1], 3)),
        (Pool(pool), Conv(projected)),
    )


def _halved(three: tuple[int, int], double: tuple[int, int]) -> Steps:
    """The same at stride 2, without the 1x1 branch and the projection."""
    return fork(
        (Conv(three[0]), Conv(three[1], 3, 2)),
        (Conv(double[0]), Conv(double[1], 3), Conv(double[1], 3, 2)),
        (Pool("max", 2),),
    )


STAGES: Stages = (  # conv1, conv2, inception_3a-3c, 4a-4e, 5a-5b
    ((Conv(64, 7, 2),),),
    ((Pool("max", 2), Conv(64)), (Conv(192, 3),)),
    (
        (Pool("max", 2), *_mixed(64, (64, 64), (64, 96), 32)),
        _mixed(64, (64, 96), (64, 96), 64),
        _halved((128, 160), (64, 96)),
    ),
    (
        _mixed(224, (64, 96), (96, 128), 128),
        _mixed(192, (96, 128), (96, 128), 128),
        _mixed(160, (128, 160), (128, 160), 128),
        _mixed(96, (128, 192), (160, 192), 128),
        _halved((128, 192), (192, 256)),
    ),
    (
        _mixed(352, (192, 320), (160, 224), 128),
        _mixed(352, (192, 320), (192, 224), 128, "max"),
    ),
)
