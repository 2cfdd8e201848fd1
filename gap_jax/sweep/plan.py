"""The runs of a sweep: learning rates on a held-out part of train, then seeds at the best rate."""

import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from data_pipelines.core import files
from data_pipelines.core.errors import CannotWrite, ConfigError, DataError, name_some
from data_pipelines.manifest import Manifest
from gap_jax.config import Config
from gap_jax.evaluation.evaluate import METRICS_FILE
from gap_jax.flags import spell_overrides
from gap_jax.learning.length import count_views, resolve_length
from gap_jax.runtime import run_folder
from gap_jax.runtime.extraction import NETWORK_FIELDS, STORED_FIELDS
from gap_jax.runtime.run_folder import RunFolder
from gap_jax.sweep.rows import Row, identify

HELD_OUT = 0.2
SEEDS = 5
SAVED_EVERY_STEPS = 2_000  # a shorter run has one checkpoint, at its end
SWEEP, RUNS = "sweep.json", "runs"
DIVERGED = ".diverged"  # file beside a search whose loss was no longer finite

Metrics = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Cell:
    """A run of a sweep: a folder of its own, which the same command resumes."""

    row: Row
    name: str  # of its folder in that of the row
    cfg: Config
    workdir: Path

    @property
    def label(self) -> str:
        return f"{self.row.name}/{self.name}"

    @property
    def log(self) -> Path:
        return self.workdir.with_name(f"{self.name}.log")

    @property
    def is_search(self) -> bool:
        return self.cfg.data.held_out > 0

    @property
    def words(self) -> list[str]:
        """The arguments of `gap_jax train`."""
        if self.row.base is None:
            raise AssertionError(f"{self.row.name} is only quoted")
        overrides = spell_overrides(self.row.base, self.cfg)
        return [f"--config={self.row.spec}", f"--workdir={self.workdir}", *overrides]

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "gap_jax.main", *self.words]

    @property
    def has_diverged(self) -> bool:
        return self.workdir.with_name(self.name + DIVERGED).exists()

    def mark_diverged(self) -> None:
        """Records that the loss of this search was no longer finite, so that its rate loses."""
        files.write_atomically(self.workdir.with_name(self.name + DIVERGED), "")

    def read_metrics(self) -> Metrics | None:
        """Reads the last evaluation of the run; None if it is not complete."""
        run = RunFolder(self.workdir)
        if not run.record.exists():
            return None
        step = run_folder.load_record(run)["completed_step"]
        if step is None:
            return None
        path = run.scores(self.cfg.data.scored_split, step) / METRICS_FILE
        try:
            return {**json.loads(path.read_text("utf-8")), "step": step}
        except (OSError, ValueError, TypeError) as error:
            raise DataError(
                f"{path} is not readable; remove {self.workdir} to run again"
            ) from error

    def is_done(self) -> bool:
        return self.has_diverged or self.read_metrics() is not None


@dataclasses.dataclass(frozen=True)
class Extraction(Cell):
    """Stores the maps of a run before it, as runs at the same time would compute them twice."""

    @property
    def command(self) -> list[str]:
        _, _, *overrides = self.words
        config = f"--config={self.row.spec}"
        return [sys.executable, "-m", "gap_jax", "features", config, *overrides]

    def identify(self) -> str:
        """Returns all that determines the maps; those of a held-out centre crop are in training."""
        cfg = self.cfg
        names = ("name", "root", "train_split", "eval_split", *STORED_FIELDS)
        data = {name: getattr(cfg.data, name) for name in names}
        if cfg.data.eval_views > 1 or cfg.data.eval_crops != "center":
            data["held_out"] = cfg.data.held_out
        network = {name: getattr(cfg.model, name) for name in (*NETWORK_FIELDS, "dtype")}
        seed = None if cfg.init.weights else cfg.train.seed  # of a random backbone
        return json.dumps([data, network, dataclasses.asdict(cfg.init), seed])

    def read_metrics(self) -> Metrics | None:
        return None  # it looks at the stored maps itself


def list_extractions(cells: Iterable[Cell]) -> list[Extraction]:
    """Lists the extractions that store the maps of cells on maps, each once."""
    found: dict[str, Extraction] = {}
    for cell in cells:
        if cell.cfg.data.cache == "features":
            own = Extraction(cell.row, f"features-{cell.name}", cell.cfg, cell.workdir)
            found.setdefault(own.identify(), own)
    return [*found.values()]


def choose_rate(scores: Mapping[float, float]) -> float:
    """Returns the rate with the highest score; of equal ones the lowest."""
    return max(scores, key=lambda rate: (scores[rate], -rate))


@dataclasses.dataclass(frozen=True)
class Plan:
    """A sweep in the folder `out`: `rates` holds the learning rates of each row, by its name.

    `left_out` holds the rows of the same table that are not chosen; the folder takes them later.
    """

    kind: str
    out: Path
    rows: tuple[Row, ...]
    rates: Mapping[str, tuple[float, ...]]
    seeds: int
    held_out: float
    data: Manifest
    left_out: tuple[Row, ...] = ()

    @cached_property
    def runnable(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.cfg)

    @cached_property
    def searches(self) -> list[Cell]:
        """The runs that choose rates; none of a row with one rate."""
        return [
            self.search_of(row, rate)
            for row in self.runnable
            for rate in self.rates[row.name]
            if len(self.rates[row.name]) > 1
        ]

    def search_of(self, row: Row, rate: float) -> Cell:
        """Returns the run of a row that is scored on the held-out part."""
        return self._cell(row, f"search-{rate:g}", rate, 0, self.held_out)

    def finals_of(self, row: Row, rate: float) -> list[Cell]:
        """Returns the runs of a row on the whole training split, one for each seed."""
        return [self._cell(row, f"seed-{seed}", rate, seed, 0.0) for seed in range(self.seeds)]

    def finals(self) -> list[Cell]:
        """Returns the runs of all rows whose rate is chosen."""
        chosen = [(row, self.choose(row)) for row in self.runnable]
        return [cell for row, rate in chosen if rate for cell in self.finals_of(row, rate)]

    @cached_property
    def cells(self) -> list[Cell]:
        """All runs of the sweep; the final ones at any rate."""
        rows = [(row, self.rates[row.name][0]) for row in self.runnable]
        return [*self.searches, *(cell for row, rate in rows for cell in self.finals_of(row, rate))]

    def list_extractions(self) -> list[Extraction]:
        """Lists the extractions of all runs; final runs come first, as they need all maps."""
        return list_extractions(sorted(self.cells, key=lambda cell: cell.is_search))

    def describe(self) -> Iterator[str]:
        """Describes the rows, the runs, and the images that they train on and evaluate."""
        for row in self.rows:
            if row.cfg:
                steps = self._bases[row.name].train.steps
                rates = ", ".join(f"{rate:g}" for rate in self.rates[row.name])
                yield f"{row.name}: {steps:,} steps, learning rates {rates}"
            else:
                yield f"{row.name}: not run: {row.reason}"
        steps = sum(cell.cfg.train.steps for cell in self.cells)
        trained = sum(cell.cfg.train.steps * cell.cfg.train.batch_size for cell in self.cells)
        evaluated = sum(count_views(cell.cfg, self.data) for cell in self.cells)
        left = sum(not cell.is_done() for cell in self.cells)
        yield (
            f"{len(self.searches):,} runs choose a learning rate, "
            f"{len(self.cells) - len(self.searches):,} use it: "
            f"{steps:,} steps, {trained:,} images trained on and {evaluated:,} evaluated; "
            f"{left:,} of {len(self.cells):,} runs are left"
        )

    def scores_of(self, row: Row) -> dict[float, Metrics | None]:
        """Returns the held-out metrics by rate, without those that are not done; None: diverged."""
        found: dict[float, Metrics | None] = {}
        for cell in self.searches:
            if cell.row is not row:
                continue
            metrics = cell.read_metrics()
            if metrics or cell.has_diverged:
                found[cell.cfg.optim.learning_rate] = metrics
        return found

    def choose(self, row: Row) -> float | None:
        """Returns the rate of a row; None if a search is not done, or every one diverged."""
        rates = self.rates[row.name]
        if len(rates) == 1:
            return rates[0]
        found = self.scores_of(row)
        scores = {rate: each["mAP"] for rate, each in found.items() if each}
        return choose_rate(scores) if len(found) == len(rates) and scores else None

    @cached_property
    def _bases(self) -> Mapping[str, Config]:
        """The config of each row with the same budget for all its runs."""
        return {row.name: self._prepare(row.cfg) for row in self.runnable if row.cfg}

    def _prepare(self, cfg: Config) -> Config:
        cfg = resolve_length(cfg, self.data)  # with all images, so that a search takes as many
        every = min(cfg.train.steps, SAVED_EVERY_STEPS)
        return dataclasses.replace(
            cfg,
            train=dataclasses.replace(cfg.train, epochs=0.0, early_stop_evals=0),
            eval=dataclasses.replace(cfg.eval, every_steps=0),
            checkpoint=dataclasses.replace(cfg.checkpoint, every_steps=every, keep=1),
        )

    def _cell(self, row: Row, name: str, rate: float, seed: int, held_out: float) -> Cell:
        base = self._bases[row.name]
        cfg = dataclasses.replace(  # the constructors check it
            base,
            data=dataclasses.replace(base.data, held_out=held_out),
            optim=dataclasses.replace(base.optim, learning_rate=rate),
            train=dataclasses.replace(base.train, seed=seed),
        )
        return Cell(row, name, cfg, self.out / RUNS / row.name / name)

    def identify(self) -> dict[str, Any]:
        """Returns all that determines the numbers of all rows, but the number of seeds."""
        rows = {row.name: row.cfg for row in (*self.rows, *self.left_out) if row.cfg}
        return {
            "kind": self.kind,
            "data": self.data.fingerprint,
            "held_out": self.held_out,
            "rates": {name: list(self.rates[name]) for name in rows},
            "rows": {name: identify(cfg) for name, cfg in rows.items()},
        }

    def enter(self) -> None:
        """Writes sweep.json, or refuses a folder that holds another sweep."""
        if not self.check_folder():
            files.write_atomically(self.out / SWEEP, json.dumps(self.identify(), indent=1) + "\n")

    def check_folder(self) -> bool:
        """Returns whether the folder holds this sweep; refuses another sweep, or a run."""
        path = self.out / SWEEP
        if not files.is_file(path, CannotWrite):
            with files.writing(self.out):
                if RunFolder(self.out).config.exists():
                    raise CannotWrite(f"{self.out} holds a run; choose another --out")
            return False
        try:
            held = json.loads(path.read_text("utf-8"))
            if not isinstance(held, dict):
                raise ValueError(held)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is damaged; restore it, or choose another --out") from error
        own = json.loads(json.dumps(self.identify()))
        if differing := list(_list_differences("", held, own)):
            raise ConfigError(
                f"{self.out} holds another sweep, {name_some(differing, separator='; ')}; use its "
                "values or another --out"
            )
        return True


def _list_differences(name: str, held: Any, own: Any) -> Iterator[str]:
    """Yields 'name: old -> new' for each value of nested objects that differs."""
    if isinstance(held, dict) and isinstance(own, dict):
        for key in dict.fromkeys([*held, *own]):
            yield from _list_differences(f"{name}/{key}".lstrip("/"), held.get(key), own.get(key))
    elif held != own:
        shown = ("absent" if each is None else repr(each)[:60] for each in (held, own))
        yield f"{name}: {' -> '.join(shown)}"
