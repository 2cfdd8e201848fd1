"""Defines the rows of Attentional Pooling on HMDB51, RGB, for each of its three splits.

    python -m gap_jax.main --config=configs/hmdb51.py --workdir=runs/hmdb51-1  # attention, split 1
    gap_jax train --config=hmdb51:split2 --workdir=runs/hmdb51-2
    gap_jax train --config=hmdb51:attention_pose,split3 --workdir=runs/hmdb51-3
    gap_jax report --mean runs/hmdb51-1 runs/hmdb51-2 runs/hmdb51-3     # the mean over the splits

Published (accuracy, mean over the three splits; not yet run here):
    mean 47.1 (the paper's ResNet-101 of temporal segment networks) · attention 50.8 ·
    attention_pose 52.2

Assumptions, as the release has no file for HMDB51: the recipe is that of MPII, with a quarter of
its steps. A step sees one random frame of each video; evaluation averages the logits of 25. The
release squeezes frames to 340 x 256 pixels before they are resized; here they keep their shape.
"""

from gap_jax.config import Config
from gap_jax.variants import PARTS, parse_parts, set_data, set_method


def get_config(variant: str = "") -> Config:
    """Returns the config of a variant; by default attention on split 1."""
    chosen = parse_parts(variant, PARTS["hmdb51"])
    cfg = Config()
    set_method(cfg, chosen.get("method", "attention"))
    set_data(cfg, "hmdb51")
    data, optim, train = cfg.data, cfg.optim, cfg.train
    data.root = f"data/hmdb51_{chosen.get('split', 'split1')}"
    train.steps, optim.decay_every_steps = 3000, 1250  # 108 passes over the videos
    cfg.eval.every_steps = cfg.checkpoint.every_steps = 500
    return cfg
