"""Defines the rows of the two papers on MPII, and the same rows on drawn people.

    python -m gap_jax.main --config=configs/gap_pose.py                   # GAP + pose, MPII
    python -m gap_jax.main --config=configs/gap_pose.py:attention         # another row
    python -m gap_jax.main --config=configs/gap_pose.py:attention,demo    # drawn people, 96 px
    python -m gap_jax.main --config=configs/gap_pose.py:attention_pose,reference  # as AP's code
    python -m gap_jax.main --config=configs/gap_pose.py:rstarcnn          # hard attention, VGG16

Published for MPII val (mAP / accuracy); not yet run here:
    mean 26.2 / 33.5 · attention 30.3 / 37.2 · attention_pose 30.6 / 37.8 (the AP release)
    gap 30.6 / 36.0 · gap_pose 31.6 / 36.9 (the GAP paper, which quotes AP at 35.3 and 35.7)
    rcnn 16.5 · rstarcnn 21.7 (mAP alone)

Assumptions where the GAP paper gives no details: its recipe is AP's; its widths are halved, so
that T = 3 means 4096, 2048, 1024; its pose weight 1e-6 multiplies the squared error summed over
joints and cells, halved, per image (0.0036 on the AP release's scale at 15 x 15 cells).
"""

from gap_jax.config import Config
from gap_jax.variants import (
    Variant,
    parse_variant,
    set_data,
    set_method,
    set_reference_recipe,
    set_region_recipe,
)


def get_config(variant: str = "") -> Config:
    """Returns the config of a variant; by default GAP + pose on MPII at full size."""
    chosen = parse_variant(variant, method="gap_pose")
    cfg = Config()
    set_method(cfg, chosen.method)
    set_data(cfg, chosen.data)
    if cfg.reads_boxes and chosen.scale == "full":
        set_region_recipe(cfg)
    if chosen.scale == "demo":
        _set_demo_scale(cfg, chosen)
    if chosen.recipe == "reference":
        set_reference_recipe(cfg)
    return cfg


def _set_demo_scale(cfg: Config, chosen: Variant) -> None:
    """Sets 96 px, the small backbone, 15 epochs of 1,600 drawn people or 1,920 drawn scenes."""
    data, model, pose, optim = cfg.data, cfg.model, cfg.pose, cfg.optim
    data.image_size_px, data.short_side_px, data.limit_width_px = 96, 104, 0
    data.brightness, data.cache = 0.2, "ram"  # decoding takes a quarter of the time
    model.backbone = "small"
    if model.reads_boxes:
        model.region_channels, model.region_widths = 32, (128, 128)
    if model.pooling == "gap":  # others have no factored layers
        model.T, model.widths = 2, (128, 64)
    model.dropout, model.gate_init = 0.0, "one"
    model.norm_decay = 0.9  # 0.997 would keep the initial statistics after so few steps
    pose.hidden, pose.kernel_size = (96,), 3
    pose.weight, pose.reduction, pose.target = 0.1, "sum_per_image", "gaussian"
    if pose.branch and model.pooling != "pose_parts":
        model.saliency_input = "pose"
    cfg.init.weights = "drawn_objects"
    optim.name, optim.learning_rate, optim.weight_decay = "adamw", 4e-3, 0.05
    optim.schedule, optim.clip_norm, optim.warmup_steps = "cosine", 5.0, 25
    cfg.train.steps, cfg.train.batch_size, cfg.train.accumulate = 495, 48, 1
    cfg.eval.every_steps, cfg.eval.batch_size = 99, 48
    cfg.checkpoint.every_steps = 99
    if chosen.data == "objects":  # this run trains those weights
        cfg.init.weights, cfg.init.allow_random = "", True
        optim.learning_rate, cfg.train.steps = 1e-3, 600
