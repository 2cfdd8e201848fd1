"""Parses a command line into a resolved config; refuses mistakes in one line.

`--config=FILE[:part,part]` runs `get_config` of FILE; `--config.group.field=value` sets fields.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_origin

from absl import flags
from ml_collections import config_flags

from data_pipelines.core import files
from data_pipelines.core.errors import ConfigError, nearest
from data_pipelines.core.settings import Settings, list_choices, unknown_field
from gap_jax.config import Config, fields
from gap_jax.variants import list_configs, locate

OVERRIDE = "config."


def parse(argv: Sequence[str], own: flags.FlagValues) -> list[str]:
    """Adds --config to a command's own flags and parses; refuses mistakes that absl accepts."""
    argv = list(argv)
    index, spec = find_spec(argv)
    with files.reading(Path(spec.partition(":")[0]), ConfigError):
        located = locate(spec)
        if spec:
            argv[index] = argv[index].removesuffix(spec) + located
        _check_config_file(argv, located)
    for _, field, _ in fields(Config()):
        if get_origin(field.type) is Literal:  # ml_collections does not know it
            config_flags.register_flag_parser_for_type(field.type, flags.ArgumentParser())
    config_flags.DEFINE_config_file(
        "config",
        None,
        "FILE[:part,part…] whose get_config returns the run's config",
        lock_config=True,
        flag_values=own,
        sys_argv=argv,
    )
    _check_names(argv, own)
    try:
        rest = flags.FLAGS(_parse_own(argv, own))  # other flags may belong to absl or grain
    except flags.IllegalFlagValueError as error:
        raise ConfigError(_value_problem(str(error))) from error
    except flags.Error as error:
        raise ConfigError(str(error)) from error
    if len(rest) > 1:
        raise ConfigError(
            f"unknown argument {rest[1]!r}; set fields with --config.group.field=value"
        )
    return rest


def read_config(spec: str, overrides: Sequence[str] = ()) -> Config:
    """Reads FILE[:parts] with --config.group.field=value overrides into a checked config.

    >>> from gap_jax import read_config
    >>> read_config("gap_pose:attention,demo", ["--config.train.steps=50"]).train.steps
    50
    """
    return resolve(read_unchecked(spec, overrides))


def read_unchecked(spec: str, overrides: Sequence[str] = ()) -> Config:
    """Reads FILE[:parts] with overrides into a config whose values may contradict each other."""
    own = flags.FlagValues()
    parse(["gap_jax", f"--config={spec}", *overrides], own)
    return _require_config(own["config"].value)


def spell_overrides(base: Config, cfg: Config) -> list[str]:
    """Returns the overrides that make the config `base` equal to `cfg`."""
    before = {name: value for name, _, value in fields(base)}
    return [
        f"--{OVERRIDE}{name}={_spell(value)}"
        for name, _, value in fields(cfg)
        if value != before[name]
    ]


def name_field(override: str) -> str:
    """Returns the field that --config.group.field=value sets."""
    return override.partition("=")[0].lstrip("-").removeprefix("no").removeprefix(OVERRIDE)


def _spell(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else repr(value)


def resolve(config: Any) -> Config:
    """Checks a config with its final values and freezes it."""
    return _require_config(config).resolved()


def _require_config(config: Any) -> Config:
    if config is None:
        raise ConfigError(
            "no --config=FILE was given; use --config=configs/gap_pose.py for the paper's run"
        )
    if not isinstance(config, Config):
        raise ConfigError(
            f"get_config returned a {type(config).__name__}; it must return gap_jax.config.Config"
        )
    return config


def find_spec(argv: Sequence[str]) -> tuple[int, str]:
    """Returns the FILE[:parts] of --config, or "", after the index of the word that ends in it."""
    for i, word in enumerate(argv):
        flag, equals, value = word.partition("=")
        if flag in ("--config", "-config"):
            return (i, value) if equals else (i + 1, "".join(argv[i + 1 : i + 2]))
    return 0, ""


def _parse_own(argv: list[str], own: flags.FlagValues) -> list[str]:
    """Parses a command's own flags, which runs the config file; returns the other words."""
    try:
        return own(argv, known_only=True)
    except (ConfigError, flags.Error, KeyboardInterrupt):
        raise
    except BaseException as error:  # a config file may raise anything
        raise ConfigError(
            f"the config file failed: {type(error).__name__}: {error}; correct the file"
        ) from error


def _check_config_file(argv: Sequence[str], spec: str) -> None:
    names = [word.lstrip("-").partition("=")[0] for word in argv[1:] if word.startswith("-")]
    if "flagfile" in names:
        raise ConfigError("--flagfile is not supported; use --config.group.field=value")
    if "config" in names and not spec:
        raise ConfigError("--config is empty; use --config=configs/gap_pose.py for the paper's run")
    path = Path(spec.partition(":")[0])
    if spec and not path.is_file():
        siblings = [*map(str, sorted(path.parent.glob("*.py"))), *list_configs()]
        raise ConfigError(f"config file {path} does not exist{nearest(str(path), siblings)}")


def _check_names(argv: Sequence[str], own: flags.FlagValues) -> None:
    known = [name for name, _, _ in fields(Config())]
    seen: set[str] = set()
    for word in argv[1:]:
        if word == "--":
            break
        if not word.startswith("-"):
            continue
        name = word.lstrip("-").split("=", 1)[0]
        if name.startswith("no" + OVERRIDE):
            name = name.removeprefix("no")
        if name.startswith(OVERRIDE):
            if name.removeprefix(OVERRIDE) not in known:
                raise unknown_field(name.removeprefix(OVERRIDE))
            if "config" not in seen:
                raise ConfigError(f"--{name} comes before --config=FILE; put --config first")
        elif not any(
            each in own or each in flags.FLAGS for each in (name, name.removeprefix("no"))
        ):
            raise ConfigError(f"unknown flag --{name}{nearest(name, list(own))}")
        if name in seen:
            raise ConfigError(f"--{name} is given twice; keep one of them")
        seen.add(name)


def _value_problem(message: str) -> str:
    """Adds the field's type to absl's message 'flag --config.train.steps=abc: invalid literal…'."""
    flag, _, problem = message.removeprefix("flag --").partition(": ")
    name, _, value = flag.removeprefix(OVERRIDE).partition("=")
    kinds = {name: field.type for name, field, _ in fields(Config())}
    if name not in kinds:
        return f"--{flag}: {problem}"
    return f"{name}={value!r} is not of type {getattr(kinds[name], '__name__', kinds[name])}"


def explain(cfg: Settings) -> str:
    """Describes each field in one line: name, value, help and choices."""
    lines = []
    for name, field, value in fields(cfg):
        choices = " | ".join(list_choices(field))
        text = field.metadata["help"] + (f" [{choices}]" if choices else "")
        lines.append(f"  {f'{name}={value!r}':<44} {text}")
    return "\n".join(lines)
