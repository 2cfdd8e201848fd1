"""Fine-tunes on your own photographs: a folder for each class, prepared by `gap_jax data prepare`.

    gap_jax train --config=photos --config.data.root=data/mine --workdir=runs/mine
    python -m gap_jax.main --config=configs/photos.py --config.data.root=data/mine   # the same
    python -m gap_jax.main --config=configs/photos.py:full      # train the backbone too
    python -m gap_jax.main --config=configs/photos.py:mean      # another method

The length follows the number of training images (`train.epochs`); docs/photos.md has the table.
"""

from gap_jax.config import Config
from gap_jax.variants import PARTS, parse_parts, set_method


def get_config(variant: str = "") -> Config:
    """Returns the config of a variant; by default attention on a frozen backbone."""
    chosen = parse_parts(variant, PARTS["photos"])
    cfg = Config()
    set_method(cfg, chosen.get("method", "attention"))
    _set_images(cfg)
    _set_network(cfg)
    _set_training(cfg)
    if chosen.get("training", "frozen") == "frozen":
        cfg.optim.frozen = ("backbone",)
    else:
        _train_backbone(cfg)
    return cfg


def _set_images(cfg: Config) -> None:
    data = cfg.data
    data.name, data.preprocessing = "folder", "modern"
    data.image_size_px, data.short_side_px = 224, 256
    data.brightness = data.contrast = data.saturation = 0.2


def _set_network(cfg: Config) -> None:
    model, pose = cfg.model, cfg.pose
    model.backbone, model.input, model.norm_eps = "efficientnet_lite0", "efficientnet_lite", 1e-3
    model.norm = "frozen"  # a batch's statistics are poor where classes or images are few
    model.dropout, model.gate_init = 0.0, "one"
    if model.pooling == "gap":  # others have no factored layers
        model.T, model.widths = 2, (256, 128)
    if model.reads_boxes:
        model.region_channels, model.region_widths = 128, (256, 256)
    pose.hidden, pose.kernel_size = (256,), 3
    pose.weight, pose.reduction, pose.target = 0.1, "sum_per_image", "gaussian"
    cfg.init.weights = "efficientnet_lite0"


def _set_training(cfg: Config) -> None:
    train, optim = cfg.train, cfg.optim
    train.epochs, train.min_steps, train.steps = 5.0, 200, 20_000
    train.batch_size, train.accumulate, train.log_every_steps = 32, 1, 20
    train.label_smoothing, train.class_weights, train.early_stop_evals = 0.1, "balanced", 3
    optim.name, optim.learning_rate, optim.weight_decay = "adamw", 1e-3, 0.05
    optim.schedule, optim.warmup_steps, optim.clip_norm = "cosine", 20, 5.0
    cfg.eval.every_steps = cfg.checkpoint.every_steps = 4_000
    cfg.eval.max_examples = 5_000  # evaluating 200,000 takes as long as many epochs of training


def _train_backbone(cfg: Config) -> None:
    """Trains the backbone too, at a tenth of the learning rate, twice as long."""
    cfg.optim.multipliers = ("backbone=0.1",)
    cfg.train.epochs, cfg.train.min_steps = 10.0, 400
