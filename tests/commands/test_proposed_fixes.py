"""Applies every fix that a refusal of a config proposes, and checks that it is accepted."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from data_pipelines.config import DATASETS, VIDEOS
from data_pipelines.core.errors import ConfigError, DataError, Refusal
from gap_jax import cli
from gap_jax.commands.train import check_data
from gap_jax.config import Config
from gap_jax.flags import read_config
from gap_jax.model_config import BACKBONES, INPUTS
from gap_jax.weights.metadata import Metadata, compare
from tests.support.tiny_data import build, tiny_data

ROOT = Path(__file__).parents[2]
GAP_POSE = str(ROOT / "configs/gap_pose.py")
CHECKS = [ROOT / "gap_jax/config.py", ROOT / "gap_jax/model_config.py"]
ASSIGNMENT = re.compile(r"\b([a-z]+\.[A-Za-z_]+=(?:\([^)]*\)|[^\s,;]+))")

MISTAKES = [
    "train.early_stop_evals=3 eval.every_steps=0",
    "train.batch_size=30",
    "train.batch_size=7 train.accumulate=8",
    "train.batch_size=160",
    "train.batch_size=144 model.frames=3 pose.weight=0",
    "model.widths=(1,2)",
    "model.widths=(1,1,1,1,1,1,1,1,1)",
    "model.space=weight model.T=0",
    "model.space=weight model.gate_init=one",
    "model.space=weight model.T=0 model.gate_init=one",
    "model.frames=2",
    "model.frames=2 model.saliency_input=pose",
    "model.frames=2 model.pooling=pose_parts model.dropout_where=pooled",
    "model.temporal=attention",
    *(f"pose.kernel_size={size}" for size in (2, 4, 6)),
    "model.saliency_input=pose pose.branch=false",
    "model.saliency_input=pose pose.hidden=()",
    "model.saliency_input=pose pose.hidden=(8,4) pose.branch=false",
    "model.pooling=pose_parts pose.branch=false",
    "model.rank_form=chained model.rank=2 model.per_class=true",
    "model.final_relu=false",
    "model.backbone=vgg16 model.strides=v1_5",
    "model.backbone=small model.stem_padding=same",
    "model.pooling=max model.rank=2",
    "model.pooling=max model.widths=(8,4)",
    "model.pooling=mean model.rank_form=chained",
    "model.pooling=attention model.T=2",
    "model.sketch_features=64",
    "data.regions=10",
    "model.pooling=rcnn data.regions=10",
    "model.pooling=rstarcnn",
    "model.pooling=rcnn model.regions=people",
    "model.pooling=rcnn model.region_grow=2",
    "model.region_side=5",
    "model.over_people=mean",
    "model.pooling=gap model.region_pool=align",
    "model.regions=people model.region_widths=(8,4)",
    *(
        f"model.pooling=rcnn {mistake}"
        for mistake in (
            "data.name=hmdb51",
            "data.eval_crops=five",
            "data.eval_flip=true",
            "train.mixup=0.2",
            "model.frames=2 pose.weight=0",
        )
    ),
    "data.short_side_px=440",
    "data.image_size_px=600",
    "data.area_range=(0.9,0.1)",
    "data.aspect_range=(1.5,1.25)",
    "data.region_iou=(0.8,0.2)",
    "data.cache=ram data.workers=2",
    "data.cache=features optim.frozen=('backbone',)",
    "data.cache=features optim.frozen=('backbone',) model.norm=frozen data.erasing=0.5",
]


def read(assignments: list[str]) -> Config:
    """Reads the paper's config with the last value of each field."""
    fields = dict(each.split("=", 1) for each in assignments)
    return read_config(GAP_POSE, [f"--config.{name}={value}" for name, value in fields.items()])


def proposals(message: str) -> list[list[str]]:
    """Returns the assignments of each alternative after a refusal's last `set`."""
    _, found, advice = message.rpartition("; set ")
    assert found, message
    advice = advice.partition(" or another init")[0]
    alternatives = [ASSIGNMENT.findall(each) for each in re.split(r",? or ", advice)]
    return [each for each in alternatives if each]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_proposed_values_are_accepted(mistake: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        read(mistake.split())
    fixes = proposals(str(refusal.value))
    assert fixes, refusal.value
    for fix in fixes:
        read([*mistake.split(), *fix])


@pytest.mark.slow
def test_every_check_of_two_fields_is_among_the_mistakes() -> None:
    raised = set()
    for mistake in MISTAKES:
        with pytest.raises(ConfigError) as refusal:
            read(mistake.split())
        last = refusal.traceback[-1]
        raised.add((Path(last.path).name, last.lineno + 1))
    for path in CHECKS:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Raise):
                lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
                assert any((path.name, line) in raised for line in lines), (path.name, node.lineno)


@pytest.mark.parametrize(
    "facts",
    [
        Metadata("vgg16", "", "made", input_mean=INPUTS["vgg"][0]),
        Metadata("resnet50", "slim", "made", stem_padding="same"),
        Metadata("resnet101", "v1_5", "made", stem_padding="symmetric", norm_eps=1.00123e-3),
        Metadata("inception_v3", "", "made", input_scale=INPUTS["inception"][1], norm_eps=1e-3),
        Metadata("resnet50", "caffe", "made", stem_padding="same", input_scale=(2.0, 2.0, 2.0)),
        Metadata("squeezenet", "", "made"),
    ],
    ids=lambda facts: facts.backbone,
)
@pytest.mark.parametrize("mistake", ["", "model.strides=caffe", "model.backbone=vgg16"])
def test_proposed_model_takes_the_weights(facts: Metadata, mistake: str) -> None:
    words = mistake.split()
    for _ in range(5):
        try:
            compare(Path("file"), facts, read(words).model)
        except Refusal as refusal:
            fixes = proposals(str(refusal))
            if not fixes:
                assert str(refusal).endswith("; set another init.weights")
                assert facts.backbone not in BACKBONES or facts.input_scale == (2.0, 2.0, 2.0)
                return
            assert fixes[0][0] not in words, (refusal, words)
            words += fixes[0]
        else:
            return
    raise AssertionError(words)


@pytest.mark.parametrize("found", [*DATASETS, "photos"])
def test_proposed_data_set_is_accepted(found: str, tmp_path: Path) -> None:
    root, sizes = tmp_path / "data", {"train": 1, "val": 1, "test": 1}
    build(root, tiny_data(tmp_path, name=found, sizes=sizes))
    words = [f"--config.data.root={root}"]
    specs = [f"{GAP_POSE}:{each}" for each in ("", "demo", "gap,objects,demo", "attention,mpii")]
    for spec in (*specs, "hico:mean,reference"):
        data = read_config(spec, words).data
        if data.name == found:
            check_data(data, spec)
            continue
        with pytest.raises(ConfigError, match=f"{root} holds {found}; ") as refusal:
            check_data(data, spec)
        proposed = re.findall(r"use --config=(\S+),(?: set data.name=(\w+),)? ", str(refusal.value))
        assert len(proposed) == (found in DATASETS), refusal.value
        for better, name in proposed:
            check_data(read_config(better, words).data, better)
            if name:  # of videos none: their config names other splits, too
                check_data(read_config(spec, [*words, f"--config.data.name={name}"]).data, spec)
            assert bool(name) == (found not in VIDEOS)
        assert str(refusal.value).endswith(f"set data.root to a folder of {data.name}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["people", "objects", "crowd"])
def test_proposed_command_prepares_the_data(name: str, tmp_path: Path) -> None:
    words = [f"--config.data.root={tmp_path / 'a folder'}"]
    spec = f"{GAP_POSE}:{name},demo"
    data = read_config(spec, words).data
    with pytest.raises(DataError, match=": run gap_jax data") as refusal:
        check_data(data, spec)
    command = shlex.split(str(refusal.value).partition(": run ")[2])
    assert command[0] == "gap_jax"
    assert cli.main([*command[1:], "--train", "2", "--val", "1"]) == 0
    check_data(data, spec)
