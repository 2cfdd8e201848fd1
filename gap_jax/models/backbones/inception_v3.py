"""Inception-v3 of TF-slim and Keras, up to mixed10 (slim: Mixed_7c), without the auxiliary head.

Its batch norms have no gamma. Layers that halve the map have no padding, nor have the second and
the last convolution of the stem. torchvision's network, `TORCH_STAGES`, has gammas, and its mean
pools always divide by nine.
"""

from gap_jax.models.backbones.inception import Conv, Pool, Stages, Steps, fork

HALF = Pool("max", 2, "valid")
ROW, COLUMN = (1, 7), (7, 1)


def _mixed_35(projected: int, mean: Pool) -> Steps:
    return fork(
        (Conv(64),),
        (Conv(48), Conv(64, 5)),
        (Conv(64), Conv(96, 3), Conv(96, 3)),
        (mean, Conv(projected)),
    )


def _mixed_17(width: int, mean: Pool) -> Steps:
    double = (Conv(width, COLUMN), Conv(width, ROW), Conv(width, COLUMN), Conv(192, ROW))
    return fork(
        (Conv(192),),
        (Conv(width), Conv(width, ROW), Conv(192, COLUMN)),
        (Conv(width), *double),
        (mean, Conv(192)),
    )


def _mixed_8(mean: Pool) -> Steps:
    split = fork((Conv(384, (1, 3)),), (Conv(384, (3, 1)),))
    return fork(
        (Conv(320),),
        (Conv(384), *split),
        (Conv(448), Conv(384, 3), *split),
        (mean, Conv(192)),
    )


def _halved_35() -> Steps:
    return fork(
        (Conv(384, 3, 2, "valid"),),
        (Conv(64), Conv(96, 3), Conv(96, 3, 2, "valid")),
        (HALF,),
    )


def _halved_17() -> Steps:
    return fork(
        (Conv(192), Conv(320, 3, 2, "valid")),
        (Conv(192), Conv(192, ROW), Conv(192, COLUMN), Conv(192, 3, 2, "valid")),
        (HALF,),
    )


def _stages(mean: Pool) -> Stages:
    """Maps of side 147, 71, 35, 17 and 8 at 299 px."""
    return (
        ((Conv(32, 3, 2, "valid"),), (Conv(32, 3, 1, "valid"),), (Conv(64, 3),)),
        ((HALF, Conv(80)), (Conv(192, 3, 1, "valid"),)),
        ((HALF, *_mixed_35(32, mean)), _mixed_35(64, mean), _mixed_35(64, mean)),
        (_halved_35(), *(_mixed_17(width, mean) for width in (128, 160, 160, 192))),
        (_halved_17(), _mixed_8(mean), _mixed_8(mean)),
    )


STAGES = _stages(Pool("mean"))
TORCH_STAGES = _stages(Pool("mean of nine"))
