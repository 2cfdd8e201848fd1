"""Configs: defaults, variants, overrides and refusals."""

import ast
import dataclasses
import itertools
import math
from pathlib import Path

import pytest
from absl import flags

from data_pipelines.config import DATASETS, VIDEOS, DataConfig
from data_pipelines.core.errors import ConfigError
from data_pipelines.core.settings import list_choices
from gap_jax.config import Config, OptimConfig, TrainConfig, differences, fields
from gap_jax.flags import parse, read_config, resolve
from gap_jax.model_config import HARD
from gap_jax.variants import METHODS, SCALES, WITHOUT_JOINTS, WITHOUT_VAL, locate, parse_variant

ROOT = Path(__file__).parents[2]
GAP_POSE = str(ROOT / "configs/gap_pose.py")
LEAVES = {name: (field, value) for name, field, value in fields(Config())}


def test_defaults_are_the_papers_run() -> None:
    cfg = read_config(GAP_POSE)
    assert differences(Config().resolved(), cfg) == {}
    assert cfg.model.factored_widths == (4096, 2048, 1024)
    assert (cfg.train.batch_size, cfg.train.micro_batch_size, cfg.train.steps) == (128, 16, 12_000)
    assert (cfg.data.limit_width_px, cfg.data.short_side_px, cfg.data.image_size_px) == (
        512,
        480,
        450,
    )


def test_config_may_follow_its_flag_as_a_separate_argument() -> None:
    own = flags.FlagValues()
    parse(["gap_jax", "--config", "gap_pose:demo", "--config.train.steps=7"], own)
    cfg = resolve(own["config"].value)
    assert cfg == read_config(f"{GAP_POSE}:demo", ["--config.train.steps=7"])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    ("method", "data"),
    sorted(
        {*itertools.product(METHODS, ("people", "objects"))}
        | {*itertools.product(("attention", "gap_pose", "pose_parts"), DATASETS)}
    ),
)
def test_every_variant_resolves(method: str, data: str, scale: str) -> None:
    words = f"{GAP_POSE}:{scale},{data},{method}"
    if method == "pose_parts" and data in WITHOUT_JOINTS:
        with pytest.raises(ConfigError, match=r"model.pooling=pose_parts pools by the pose"):
            read_config(words)
        return
    if method in HARD and data in VIDEOS:
        with pytest.raises(ConfigError, match=r"model.pooling=r\w+ reads boxes of one view"):
            read_config(words)
        return
    cfg = read_config(words)
    assert cfg.data.name == data
    assert cfg.pose.branch == ("pose" in method and data not in WITHOUT_JOINTS)
    assert cfg.data.eval_split == ("test" if data in WITHOUT_VAL else "val")
    assert cfg.model.pooling == method.removesuffix("_pose")
    assert (cfg.model.backbone == "small") == (scale == "demo")


def test_demo_alone_means_drawn_people() -> None:
    assert parse_variant("demo", method="gap_pose") == parse_variant(
        "people,demo", method="gap_pose"
    )
    assert parse_variant("", method="gap").data == "mpii"


@pytest.mark.parametrize("file", ["gap_pose", "configs/gap_pose.py"])
def test_package_configs_are_found_by_name_in_any_folder(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_config(f"{file}:mean") == read_config(f"{GAP_POSE}:mean")
    own = tmp_path / file
    own.parent.mkdir(exist_ok=True)
    own.write_text("raise SystemExit")
    is_path = file.endswith(".py")
    assert (locate(f"{file}:mean") == f"{file}:mean") == is_path, "a name is no path"


def test_unknown_config_is_refused_with_the_nearest_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate("elsewhere/gap_pose.py") == "elsewhere/gap_pose.py"
    with pytest.raises(ConfigError, match="gap_pos does not exist; did you mean 'gap_pose'"):
        read_config("gap_pos")


def test_overrides_reach_the_frozen_config() -> None:
    words = [
        "--config.model.T=2", "--config.model.widths=(8,4)", "--noconfig.data.flip",
        "--config.optim.learning_rate=1", "--config.data.root=ünï 模型 #%'",
    ]  # fmt: skip
    cfg = read_config(GAP_POSE, words)
    assert cfg.model.factored_widths == (8, 4)
    assert not cfg.data.flip
    assert cfg.optim.learning_rate == 1
    assert cfg.data.directory == Path("ünï 模型 #%'")
    with pytest.raises(dataclasses.FrozenInstanceError):
        cfg.model.T = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        cfg.model = Config().model


@pytest.mark.parametrize("name", LEAVES)
def test_every_field_refuses_a_typo_and_a_wrong_type(name: str) -> None:
    group, _, leaf = name.partition(".")
    with pytest.raises(ConfigError, match=f"no field '{group}.{leaf}z'; did you mean"):
        read_config(GAP_POSE, [f"--config.{group}.{leaf}z=1"])
    if not isinstance(LEAVES[name][1], str | tuple):
        with pytest.raises(ConfigError, match=rf"{name}='abc' is not of type"):
            read_config(GAP_POSE, [f"--config.{name}=abc"])


@pytest.mark.parametrize(
    "name",
    [
        "optim.learnin_rate",
        "train.stepz",
        "data.batch_size",
        "steps",
        "foo",
        "optim",
        "model.group",
    ],
)
def test_config_file_and_command_line_refuse_the_same_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as on_command_line:
        read_config(GAP_POSE, [f"--config.{name}=3"])
    path = tmp_path / "misspelt.py"
    path.write_text(
        "from gap_jax.config import Config\n\n\ndef get_config(variant=''):\n"
        f"    cfg = Config()\n    cfg.{name} = 3\n    return cfg\n"
    )
    with pytest.raises(ConfigError) as in_file:
        read_config(str(path))
    assert str(in_file.value) == str(on_command_line.value)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("optim", TrainConfig(), r"config.optim is a group; its fields are optim.name"),
        ("train.steps", 1.5, r"train.steps=1.5 is not of type int"),
        ("train.class_weights", None, r"train.class_weights=None is not of type str"),
        ("model.widths", [8, 4, 2], r"model.widths=\[8, 4, 2\] is not a tuple"),
    ],
)
def test_settings_refuse_a_wrong_group_and_a_wrong_type(
    name: str, value: object, line: str
) -> None:
    cfg = Config()
    *groups, leaf = name.split(".")
    with pytest.raises(ConfigError, match=line):
        setattr(getattr(cfg, groups[0]) if groups else cfg, leaf, value)
        cfg.resolved()


def test_group_accepts_another_of_its_type() -> None:
    cfg = Config()
    cfg.optim = OptimConfig(learning_rate=0.5)
    assert cfg.resolved().optim.learning_rate == 0.5


@pytest.mark.parametrize("name", [n for n, (_, v) in LEAVES.items() if isinstance(v, float)])
@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_every_float_refuses_nan_infinity_and_negatives(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}=.* (is not a finite number|is out of range)"):
        read_config(GAP_POSE, [f"--config.{name}={value}"])


@pytest.mark.parametrize("name", [n for n, (_, v) in LEAVES.items() if type(v) is int])
def test_every_int_refuses_a_negative(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}=-5 is out of range; it takes \d"):
        read_config(GAP_POSE, [f"--config.{name}=-5"])


@pytest.mark.parametrize("name", [n for n, (f, _) in LEAVES.items() if list_choices(f)])
def test_refused_choice_lists_the_choices(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}='bogus' is not one of .*{LEAVES[name][1]}"):
        read_config(GAP_POSE, [f"--config.{name}=bogus"])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["stray"], "unknown argument 'stray'"),
        (["--config.train.steps=5", "--config.train.steps=5"], "config.train.steps is given twice"),
        (["--config.data.flip=true", "--noconfig.data.flip"], "config.data.flip is given twice"),
        (["--config.optim.learnin_rate=1"], "did you mean 'optim.learning_rate'"),
        (["--config.steps=1"], "did you mean 'train.steps'"),
        (["--config.train=1"], "config.train is a group; its fields are train.steps"),
        (["--config.train.steps=1.5"], "train.steps='1.5' is not of type int"),
        (["--config.train.steps"], "train.steps"),
        (["--confg=x"], "unknown flag --confg; did you mean 'config'"),
        (["--config.model.widths=(1,2)"], r"model.widths=\(1, 2\) has 2 widths and model.T=3"),
        (["--config.model.widths=(1,'a',3)"], r"model.widths\[1\]='a' is not of type int"),
        (["--config.model.widths=(1,0,3)"], r"model.widths\[1\]=0 is out of range"),
        (["--config.data.area_range=(0.9,0.1)"], "is reversed"),
        (["--config.data.short_side_px=440"], "smaller than data.image_size_px=450"),
        (["--config.data.cache=ram", "--config.data.workers=2"], "set data.workers=0"),
        (["--config.train.batch_size=30"], "cannot be divided into train.accumulate=8"),
        (["--config.train.batch_size=160"], "does not divide the 20 images"),
        (["--config.pose.branch=false", "--config.model.saliency_input=pose"], "pose.branch=true"),
        (["--config.model.space=weight", "--config.model.T=0"], "set model.T=1 and model"),
        (["--config.model.space=weight", "--config.model.gate_init=one"], "gate_init=paper, or"),
        (["--config.pose.kernel_size=2"], "kernel_size=2 is even .* set pose.kernel_size=1 or"),
        (["--config.train.early_stop_evals=3", "--config.eval.every_steps=0"], "makes none before"),
        (["--flagfile=x"], "--flagfile is not supported"),
    ],
)  # fmt: skip
def test_mistakes_are_named(words: list[str], line: str) -> None:
    with pytest.raises(ConfigError, match=line) as refusal:
        read_config(GAP_POSE, words)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        ("demoo", "variant 'demoo' is unknown; did you mean 'demo'"),
        ("gap,mean", "names two methods, gap and mean; keep one"),
        ("mpii,people", "names two datas"),
    ],
)
def test_wrong_variants_are_named(parts: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        read_config(f"{GAP_POSE}:{parts}")


def test_broken_config_files_are_named(tmp_path: Path) -> None:
    cases = {
        "import nothing_here": "No module named 'nothing_here'",
        "def get_config(variant=''): return {}": "returned a dict",
        "x = ": "SyntaxError",
        "y = 1": "get_config",
        "import sys; sys.exit(3)": "the config file failed: SystemExit: 3",
        "import sys\ndef get_config(variant=''): sys.exit()": "the config file failed: SystemExit",
        "raise GeneratorExit('no more')": "the config file failed: GeneratorExit: no more",
    }
    for index, (text, line) in enumerate(cases.items()):
        path = tmp_path / f"broken_{index}.py"
        path.write_text(text)
        with pytest.raises(ConfigError, match=line):
            read_config(str(path))
    with pytest.raises(ConfigError, match=r"does not exist; did you mean .*broken_\d.py"):
        read_config(str(tmp_path / "broken_.py"))
    with pytest.raises(ConfigError, match="does not exist"):
        read_config(str(tmp_path / "ü n"))


def test_every_field_has_help_and_every_config_names_its_command() -> None:
    for name, (field, _) in LEAVES.items():
        assert len(field.metadata["help"]) > 10, name
    for path in (ROOT / "configs").glob("[a-z]*.py"):
        assert "python -m gap_jax.main --config=configs/" in (
            ast.get_docstring(ast.parse(path.read_text())) or ""
        )


def test_settings_check_themselves_without_flags() -> None:
    with pytest.raises(ConfigError, match=r"data\.workers=True is not of type int"):
        DataConfig(workers=True)
    with pytest.raises(ConfigError, match=r"data\.brightness=nan is not a finite number"):
        DataConfig(brightness=math.nan)
    broken = Config()
    broken.train.steps = -1
    with pytest.raises(ConfigError, match=r"train\.steps=-1"):
        broken.resolved()
