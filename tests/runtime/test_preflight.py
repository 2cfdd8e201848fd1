"""The description before the first step: its exact text, its width, its warnings."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.cells import cell_len

from data_pipelines.manifest import Manifest, Split
from gap_jax.config import Config
from gap_jax.learning.length import resolve_length
from gap_jax.learning.setup import Setup
from gap_jax.runtime.preflight import (
    Preflight,
    describe_memory,
    wrap,
)

MPII = """\
-- preflight ---------------------------------------------------------------------------------------
start     : fresh run in runs/gap_pose, initialised from weights/resnet101.safetensors
data      : mpii in data/mpii (fingerprint FINGERPRINT): 8,218 images in train, 6,987 in val; 3
            classes, from 'résumé, reading' with 3 training images to '模型を見ながら歩く' with
            8,000
batch     : 128 images = 4 per device x 4 devices (NVIDIA H200) x 8 accumulated; the reference run
            has 128; batch norm over groups of 16
lr        : 0.001 x 0.33 every 5,000 steps, 12,000 steps = 186.9 epochs; sgd, momentum 0.9, weight
            decay 0.0005
init      : backbone 42,500,160 loaded; pooling 9,000 random; pose 1,586,000 random
loss      : action x 1 + pose x 1e-06 (sum_per_image), which on 15 x 15 cells is 0.0036 as reference
            = 0.000225 as mean = 1e-06 as sum_per_image; 72% of the training images have joints
look at   : runs/gap_pose/samples/train_batch0.png, the first batch as the model sees it
----------------------------------------------------------------------------------------------------"""


def mpii(**values: Any) -> Manifest:
    train = Split(8218, 8218, 5917, (215, 3, 8000), "", ())
    train = dataclasses.replace(train, **values)
    splits = {"train": train, "val": Split(6987, 6987, 0, (1, 1, 1), "", ())}
    classes = ("jumping", "résumé, reading", "模型を見ながら歩く")
    return Manifest("mpii", "single", classes, 2, splits, {})


class StatedSetup(Setup):
    """A setup of the given parts; nothing is built."""

    def __init__(self, **parts: Any) -> None:
        self.__dict__.update(parts)

    def map_size(self) -> tuple[int, int] | None:
        return self.__dict__["cells"]


def describe_run(
    cfg: Config | None = None,
    data: Manifest | None = None,
    devices: tuple[str, ...] = ("NVIDIA H200",) * 4,
    pose_cells: tuple[int, int] | None = (15, 15),
    **values: Any,
) -> Preflight:
    cfg = cfg or Config()
    cfg.pose.branch = pose_cells is not None
    sizes = {"backbone": 42_500_160, "pooling": 9_000, "pose": 1_586_000}
    params = nnx.State({p: {"w": jax.ShapeDtypeStruct((n,), "float32")} for p, n in sizes.items()})
    setup = StatedSetup(
        cfg=cfg.resolved(),
        data=data or mpii(),
        mesh=SimpleNamespace(devices=np.array([SimpleNamespace(device_kind=d) for d in devices])),
        target=SimpleNamespace(variables=SimpleNamespace(params=params)),
        cells=pose_cells,
    )
    plain = Preflight(
        setup=setup,
        workdir="runs/gap_pose",
        start=0,
        changes={},
        loaded=("backbone",),
    )
    return dataclasses.replace(plain, **values)


def row(text: str, label: str) -> str:
    """Returns the text of a row on one line."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"{label:<10}: "))
    rest = lines[start + 1 :]
    end = next(i for i, line in enumerate(rest) if not line.startswith(" "))
    return " ".join(line.strip() for line in [lines[start][12:], *rest[:end]])


def test_text_of_the_papers_run() -> None:
    assert describe_run().render() == MPII.replace("FINGERPRINT", mpii().fingerprint)


def test_resumed_run_names_its_step_and_changes() -> None:
    text = describe_run(start=1834).render()
    assert row(text, "start") == "resumed at step 1,834 of runs/gap_pose (config unchanged)"
    assert row(text, "init") == (
        "backbone 42,500,160, pooling 9,000, pose 1,586,000 parameters from the checkpoint"
    )
    changes = {"train.steps": "train.steps: 1 -> 2", "mesh.fsdp": "mesh.fsdp: 1 -> 4"}
    assert row(describe_run(start=1, changes=changes).render(), "start").endswith(
        "(train.steps: 1 -> 2; mesh.fsdp: 1 -> 4)"
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"schedule": "cosine", "warmup_steps": 11_999}, "to 0, 12,000 steps = 186.9 epochs; sgd"),
        ({"schedule": "cosine", "warmup_steps": 12_000}, "of them warm-up: the rate never falls;"),
        ({"warmup_steps": 12_000}, "0.33 every 5,000 steps, 12,000 steps = 186.9 epochs; sgd"),
        ({"warmup_steps": 25}, "0.001 after 25 steps of warm-up, x 0.33 every 5,000 steps,"),
        ({"schedule": "constant", "name": "adamw"}, "0.001, constant, 12,000 steps"),
        ({"name": "adamw"}, "epochs; adamw, weight decay 0.0005"),
    ],
)  # fmt: skip
def test_schedules_are_described(values: dict[str, Any], words: str) -> None:
    cfg = Config()
    for name, value in values.items():
        setattr(cfg.optim, name, value)
    assert words in row(describe_run(cfg).render(), "lr")


def test_held_out_images_are_not_trained_on() -> None:
    cfg = Config()
    cfg.data.held_out, cfg.train.epochs = 0.2, 200.0
    text = describe_run(cfg).render()
    assert "12,000 steps = 233.6 epochs" in row(text, "lr")  # 128 x 12,000 images of 6,574
    assert "trained on" not in row(text, "data")
    joined = Config()
    joined.data.train_split = "trainval"
    both = "15,205 images in trainval, 6,987 in val, which are trained on (see data.held_out);"
    assert both in row(describe_run(joined).render(), "data")
    few = mpii(examples=50, labelled=50, with_joints=0)
    text = describe_run(cfg, few).render()
    assert "warning   : 10 held-out images: one is 10.0 points of accuracy" in text
    assert "40 training images of 3 classes are few" in text


def test_batches_losses_and_frozen_statistics_are_described() -> None:
    cfg = Config()
    cfg.train.batch_size, cfg.train.accumulate, cfg.model.norm_group_size = 8, 1, 16
    text = describe_run(cfg, devices=("cpu",), pose_cells=None).render()
    assert row(text, "batch") == (
        "8 images = 8 per device x 1 device (cpu) x 1 accumulated; the reference run has 128; "
        "batch norm over groups of 8"
    )
    assert row(text, "loss") == "action only, there is no pose branch"
    cfg = Config()
    cfg.model.norm = "frozen"
    cfg.pose.weight, cfg.pose.reduction = 1.0, "reference"
    text = describe_run(cfg, pose_cells=(14, 15)).render()
    assert row(text, "batch").endswith("batch norm over running statistics, frozen")
    assert "is 1 as reference = 0.0625 as mean = 0.0002976 as sum_per_image" in row(text, "loss")


def test_warns_of_common_mistakes() -> None:
    assert "every parameter starts random; " in row(describe_run(loaded=()).render(), "warning")
    alone = dataclasses.replace(mpii(), max_people=0)
    for harmless in (describe_run(), describe_run(loaded=(), start=5), describe_run(data=alone)):
        assert "warning" not in harmless.render()
    blind = describe_run(data=mpii(with_joints=0)).render()
    assert "no training image has a joint" in row(blind, "warning")
    cfg = Config()
    cfg.model.pooling = "rcnn"
    assert "the whole crop is the one person" in describe_run(cfg, data=alone).render()
    assert "warning" not in describe_run(data=mpii(with_joints=0), pose_cells=None).render()
    gone = describe_run(data=mpii(class_counts=(0, 5, 0), labelled=8000)).render()
    assert "2 classes without training images: 'jumping'" in gone
    assert "218 training images have no label and weigh nothing" in gone
    one = describe_run(data=mpii(class_counts=(0, 5, 1))).render()
    assert "1 class without training images: 'jumping'" in one


def photos(counts: tuple[int, ...], evaluated: int, **fields: Any) -> str:
    """Renders the description of a run on that many photographs of each class, on one CPU."""
    cfg = Config()
    cfg.train.epochs, cfg.train.min_steps, cfg.train.steps = 5.0, 200, 20_000
    cfg.train.batch_size, cfg.train.accumulate, cfg.optim.frozen = 32, 1, ("backbone",)
    cfg.train.class_weights, cfg.train.early_stop_evals, cfg.data.name = "balanced", 3, "folder"
    for name, value in fields.items():
        group, _, field = name.partition("__")
        setattr(getattr(cfg, group), field, value)
    names = tuple(f"class {k}" for k in range(len(counts)))
    train = Split(sum(counts), sum(counts), 0, counts, "", ())
    val = Split(evaluated, evaluated, 0, (evaluated,) * len(counts), "", ())
    data = Manifest("folder", "single", names, 0, {"train": train, "val": val}, {})
    cfg = resolve_length(cfg.resolved(), data)
    return describe_run(Config(**vars_of(cfg)), data, ("cpu",), None).render()


def vars_of(cfg: Config) -> dict[str, Any]:
    """Returns mutable copies of the groups."""
    return {f.name: dataclasses.replace(getattr(cfg, f.name)) for f in dataclasses.fields(cfg)}


def warnings_of(text: str) -> str:
    lines = text.splitlines()
    first = next((i for i, each in enumerate(lines) if each.startswith("warning")), len(lines) - 1)
    return " ".join(line[12:].strip() for line in lines[first:-1])


def test_preflight_of_photographs_says_what_was_chosen_and_why() -> None:
    text = photos((200,) * 15, 1_500)
    assert row(text, "length") == (
        "469 steps of 32 images (train.epochs=5); evaluated every 94 steps, ends early after 3 "
        "evaluations without gain"
    )
    assert row(text, "init").startswith("backbone 42,500,160 loaded, frozen; pooling 9,000 random")
    assert row(text, "loss").endswith("; classes weighted from 1 to 1 by their number of images")
    assert not warnings_of(text)
    text = photos((8,) * 4, 8, train__mixup=0.2, train__label_smoothing=0.1)
    assert "200 steps of 32 images (train.min_steps, as train.epochs=5 would make 5)" in row(
        text, "length"
    )
    assert "; label smoothing 0.1; mixup 0.2; classes weighted" in row(text, "loss")
    text = photos((8,) * 4, 8, train__steps=7)
    assert "(train.steps, as train.epochs=5 would make 5)" in row(text, "length")
    text = photos((500_000, 500_000), 9_000, train__early_stop_evals=0)
    assert row(text, "length").startswith(
        "20,000 steps of 32 images (train.steps, as train.epochs=5 would make 156,250)"
    )
    assert row(text, "length").endswith("evaluated every 1,000 steps")  # eval.every_steps
    assert "length" not in describe_run().render()


def test_preflight_of_ten_thousand_rare_classes_is_short() -> None:
    text = photos((3,) * 10_000, 20_000)
    assert len(text.splitlines()) < 30
    assert "fewer than 5 training images of 'class 0' (3), 'class 1' (3)" in warnings_of(text)


@pytest.mark.parametrize(
    ("counts", "evaluated", "fields", "expected"),
    [
        ((8, 8, 8, 8), 8, {},
         ["32 training images of 4 classes are few", "one is 12.5 points", "by 35 points"]),
        ((8, 8), 300, {"optim__frozen": ()}, ["a frozen backbone (:frozen) overfits less"]),
        ((4, 50, 1, 50), 500, {},
         ["fewer than 5 training images of 'class 0' (4), 'class 2' (1): add photographs"]),
        ((300, 100), 500, {"train__class_weights": "none"},
         ["classes have from 100 to 300 training images; train.class_weights=balanced"]),
        ((300, 100), 500, {}, []),
        ((299, 100), 500, {"train__class_weights": "none"}, []),
        ((1, 0), 0, {}, ["1 class without training images", "of 'class 0' (1)"]),
    ],
)  # fmt: skip
def test_advice_on_small_and_uneven_data(
    counts: tuple[int, ...], evaluated: int, fields: dict[str, Any], expected: list[str]
) -> None:
    told = warnings_of(photos(counts, evaluated, **fields))
    assert bool(told) == bool(expected)
    for words in expected:
        assert words in told


def test_classes_without_evaluated_images_are_named() -> None:
    data = mpii()
    data.splits["val"] = dataclasses.replace(data.splits["val"], class_counts=(0, 6987, 0))
    assert row(describe_run(data=data).render(), "data").endswith(
        "with 8,000; mAP over 1 of 3 classes; no image of val is of 'jumping', '模型を見ながら歩く'"
    )


def test_no_line_is_wider_than_100_cells() -> None:
    long = f"/scratch/{'模型' * 80}/{'x' * 250}"
    data = dataclasses.replace(mpii(), classes=("b" * 120, "跑" * 120, "é" * 20))
    text = describe_run(workdir=long, data=data).render()
    widths = [cell_len(line) for line in text.splitlines()]
    assert max(widths) == 100
    assert all(line[10:12] in (": ", "  ") for line in text.splitlines()[1:-1])
    joined = "".join(line[12:] for line in text.splitlines()[1:-1]).replace(" ", "")
    assert str(long) in joined
    assert f"'{'跑' * 80}\u2026'" in joined


def test_wrapping_loses_nothing() -> None:
    assert wrap("", 5) == [""]
    assert wrap("a bc def", 4) == ["a bc", "def"]
    assert wrap("a 模型模 b", 5) == ["a", "模型", "模 b"]
    assert wrap("abcdefgh i", 3) == ["abc", "def", "gh", "i"]


def test_memory_of_a_compiled_step_is_described() -> None:
    values = jnp.zeros(2**26)  # a quarter of a GiB goes in, and another comes out
    told = describe_memory(jax.jit(lambda x: x + 1).lower(values).compile())
    assert told == "compiled: a step takes 0.50 GiB on each device"
