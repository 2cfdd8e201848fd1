"""Tiny people whose maps of a frozen backbone are stored, for tests that read or damage them."""

from pathlib import Path
from typing import Any, NamedTuple

from gap_jax.config import Config
from gap_jax.flags import read_config
from gap_jax.learning.setup import Setup, assemble
from gap_jax.runtime.extraction import StoredMaps, store_maps
from tests.support.tiny_data import prepare_tiny_people, quiet
from tests.support.tiny_training import FIELDS

OURS = (
    "data.cache=features", "data.feature_views=4", "data.feature_dtype=float32", "model.stage=1",
    "optim.frozen=('backbone',)", "model.norm=frozen", "train.ema_decay=0",
    "optim.schedule=constant",
)  # fmt: skip
SPEC = "gap_pose:gap_pose,demo"


def words_of(data: Path, *fields: str) -> list[str]:
    """Returns the config's arguments; of a field the last value counts."""
    given = (*FIELDS, *OURS, f"data.root={data}", *fields)
    chosen = {each.partition("=")[0]: each for each in given}
    return [f"--config.{each}" for each in chosen.values()]


def configure(data: Path, *fields: str) -> Config:
    return read_config(SPEC, words_of(data, *fields))


class Made(NamedTuple):
    """Tiny people, their maps as float32, and what made them."""

    data: Path
    setup: Setup
    variables: Any
    maps: StoredMaps


def make_maps(data: Path) -> Made:
    """Prepares tiny people in `data` and stores their maps."""
    stated = prepare_tiny_people(data)
    setup = assemble(configure(data), stated)
    variables = setup.initial_variables()
    return Made(data, setup, variables, store_maps(setup, variables, log=quiet))


def store(made: Made, data: Path, *fields: str, **options: Any) -> StoredMaps:
    """Stores the maps of another config for the same parameters."""
    setup = assemble(configure(data, *fields), made.setup.data)
    return store_maps(setup, made.variables, log=quiet, **options)
