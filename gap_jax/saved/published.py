"""Opens a published classifier: a network with its own classes, from an installed package."""

from data_pipelines.config import DataConfig
from data_pipelines.core.errors import ConfigError, nearest
from gap_jax.config import Config
from gap_jax.learning.state import describe_model
from gap_jax.model_config import InitConfig, ModelConfig, PoseConfig
from gap_jax.saved.model import Opened, Origin
from gap_jax.weights import named
from gap_jax.weights.names.recognise import EFFICIENTNET_LITE

SIDES_PX = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}
BORDER_PX = 32  # of the short side around the crop, in the evaluation of the publisher
CLASSES = named.FOLDER / "imagenet_classes.txt"


def configure_published(name: str) -> Config:
    """Returns the config of a published classifier: mean pooling, and its publisher's pixels."""
    side = SIDES_PX[name]
    return Config(
        data=DataConfig(
            image_size_px=side, short_side_px=side + BORDER_PX, limit_width_px=0, resize="antialias"
        ),
        model=ModelConfig(
            backbone=name, input=EFFICIENTNET_LITE.input, norm_eps=EFFICIENTNET_LITE.norm_eps,
            pooling="mean", dropout=0.0,
        ),
        pose=PoseConfig(branch=False),
        init=InitConfig(weights=name, parts="all"),
    ).resolved()  # fmt: skip


def open_published(name: str) -> Opened:
    """Opens a classifier of SIDES_PX with ImageNet's 1,000 classes; its package is not imported."""
    if name not in SIDES_PX:
        raise ConfigError(
            f"{name!r} is no published classifier{nearest(name, list(SIDES_PX))}; use one of "
            f"{', '.join(SIDES_PX)}"
        )
    path = named.find_packaged(name)
    cfg, classes = configure_published(name), tuple(CLASSES.read_text("utf-8").splitlines())
    model, shapes = describe_model(cfg, len(classes))
    variables, report = named.load_packaged(path, shapes, cfg.model, cfg.init.parts)
    if report.left_random:
        raise AssertionError(f"{path} lacks {', '.join(report.left_random)}")
    origin = Origin(name, 0, "raw", "", {})
    return Opened(path, cfg, classes, origin, model, variables, is_exported=False)
