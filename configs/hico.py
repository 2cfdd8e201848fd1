"""Defines the rows of the Attentional Pooling paper on HICO.

    gap_jax train --config=hico --config.data.root=data/hico            # attention
    python -m gap_jax.main --config=configs/hico.py:mean                # another row
    python -m gap_jax.main --config=configs/hico.py:attention,reference  # as AP's code

Published for HICO's test split (mAP, 11-point AP over all images); not yet run here:
    mean 30.2 · attention 35.0 · attention_pose 34.6

Unknown and ambiguous labels add no loss; with `reference` they are negatives and positives weigh
10, as in AP's code, which has two losses for HICO and no config that says which of them the paper
used (the other is unweighted: train.positive_weight=1). A masked loss never shows a class images
without its object, so it suits the known-object setting: --config.eval.unknown=known_object. AP's
code also squeezes each image into 256 x 340 pixels first, which is not offered here.
attention_pose needs joints: `gap_jax data prepare hico ... --joints FILE.json`, or a folder.
"""

from gap_jax.config import Config
from gap_jax.variants import PARTS, parse_parts, set_data, set_method, set_reference_recipe


def get_config(variant: str = "") -> Config:
    """Returns the config of a variant; by default attention on HICO at full size."""
    chosen = parse_parts(variant, PARTS["hico"])
    cfg = Config()
    set_method(cfg, chosen.get("method", "attention"))
    set_data(cfg, "hico", keeps_pose=True)  # joints may be given
    if chosen.get("recipe") == "reference":
        set_reference_recipe(cfg)
    return cfg
