"""Searches the values of fields with Optuna: each trial is a run, scored on a held-out part."""

import contextlib
import dataclasses
import math
import re
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import optuna
from optuna.storages import journal
from optuna.trial import FrozenTrial, Trial, TrialState

from data_pipelines.core import files
from data_pipelines.core.errors import ConfigError, DataError, Diverged, InUse
from gap_jax.config import Config, fields
from gap_jax.sweep import execute
from gap_jax.sweep.plan import RUNS, Cell, Plan, list_extractions
from gap_jax.sweep.rows import CHOSEN_BY_SWEEP, RATE, Row, make_rows, parse_over

JOURNAL, CSV = "optuna.jsonl", "trials.csv"
CREATING_S = 0.05  # between looks at a trial that another process is creating
RANGE = re.compile(r"(.+?)\.\.(.+?)(:log)?")


class Axis(NamedTuple):
    """A field that is searched: the texts of its choices, or those of the ends of its range."""

    field: str
    texts: tuple[str, ...]
    kind: Any = None  # of a range: int or float
    is_log: bool = False

    def suggest(self, trial: Trial | FrozenTrial) -> str:
        """Returns the field's value in a trial; a value that was suggested before stays."""
        if self.kind is None:
            return trial.suggest_categorical(self.field, self.texts)
        low, high = map(self.kind, self.texts)
        suggest = trial.suggest_int if self.kind is int else trial.suggest_float
        return repr(suggest(self.field, low, high, log=self.is_log))


def parse_axis(text: str) -> Axis:
    """Parses FIELD=LOW..HIGH[:log] or FIELD=v1,v2."""
    field, texts = parse_over(text, {k: v for k, v in CHOSEN_BY_SWEEP.items() if k != RATE})
    found = RANGE.fullmatch(texts[0])
    if len(texts) > 1:
        return Axis(field, texts)
    kind = next(each.type for name, each, _ in fields(Config()) if name == field)
    if not found or kind not in (int, float):
        raise ConfigError(f"--over {text} must be FIELD=v1,v2, or of a number FIELD=LOW..HIGH")
    try:
        low, high = kind(found[1]), kind(found[2])
    except ValueError as error:
        raise ConfigError(f"--over {text}: an end is not of type {kind.__name__}") from error
    if not (low < high and math.isfinite(high - low)):
        raise ConfigError(f"--over {text} must have a lower and a higher end")
    if found[3] and low <= 0:
        raise ConfigError(f"--over {text}: a range with :log must begin above 0")
    return Axis(field, (found[1], found[2]), kind, bool(found[3]))


@dataclasses.dataclass(frozen=True)
class Study(Plan):
    """A plan whose one row is the config of all trials; `overrides` are those of that row."""

    axes: tuple[Axis, ...] = ()
    overrides: tuple[str, ...] = ()

    def identify(self) -> dict[str, Any]:
        """Returns all that determines the trials, but their number."""
        over = {axis.field: [*axis.texts, axis.is_log] for axis in self.axes}
        return {**super().identify(), "over": over}

    def check_values(self) -> None:
        """Refuses choices and ends of ranges that the config does not take."""
        for axis in self.axes:
            for text in axis.texts:
                self._make_row([(axis.field, (text,))])

    def make_cell(self, trial: Trial | FrozenTrial, *, is_final: bool = False) -> Cell:
        """Makes the run of a trial: its search, or the one on the whole training split."""
        over = [(axis.field, (axis.suggest(trial),)) for axis in self.axes]
        row, cfg = self._make_row(over)
        row, rate = row._replace(name=f"trial-{trial.number}"), cfg.optim.learning_rate
        plan = Plan(self.kind, self.out, (row,), {row.name: (rate,)}, 1, self.held_out, self.data)
        return plan.finals_of(row, rate)[0] if is_final else plan.search_of(row, rate)

    def _make_row(self, over: Sequence[tuple[str, tuple[str, ...]]]) -> tuple[Row, Config]:
        (row,) = make_rows("grid", self.rows[0].spec, self.overrides, self.data, over)
        if row.cfg is None:
            raise ConfigError(f"row {row.name}: {row.reason}")
        return row, row.cfg

    def describe(self) -> Iterator[str]:
        """Describes the trials."""
        for axis in self.axes:
            between = " or ".join(axis.texts) if axis.kind is None else " to ".join(axis.texts)
            yield f"{axis.field}: {between}{', logarithmic' * axis.is_log}"
        (cfg,) = self._bases.values()
        yield (
            f"a trial makes {cfg.train.steps:,} steps on {1 - self.held_out:.0%} of the training "
            "split, and is scored on the rest of it"
        )


class Search:
    """Runs the trials that no other process runs, until `count` have been created in all."""

    def __init__(
        self, plan: Study, count: int, runner: execute.Runner, log: Callable[[str], None] = print
    ) -> None:
        self._plan, self._count, self._runner, self._log = plan, count, runner, log
        self._locks: dict[int, contextlib.ExitStack] = {}
        self._begun: dict[str, int] = {}  # numbers of trials, by the labels of their runs
        self._tried: set[int] = set()
        self._stored: set[str] = set()  # maps of frozen backbones
        self._study = _open_study(plan)

    def run(self) -> int:
        """Runs trials and writes their table after each; returns the first failure's code."""
        failure = 0
        try:
            for cell, code in self._runner([], more=self._take_cells()):
                done = f"[{self._begun[cell.label] + 1}/{self._count}] {cell.label}"
                settled = execute.settle(cell, code, done, self._log)
                failure = failure or settled
                self._record(cell)
        finally:
            for lock in self._locks.values():
                lock.close()
        concluded = self._conclude()
        return failure or concluded

    def _take_cells(self) -> Iterator[Cell]:
        """Yields the runs of trials, one when it is asked for."""
        while trial := self._take():
            name = f"trial-{trial.number}"
            try:
                cell = self._plan.make_cell(trial)
            except ConfigError as error:  # values that contradict each other
                self._log(f"{name}: refused: {error}")
                trial.set_user_attr("remark", str(error))
                self._end(trial.number, state=TrialState.PRUNED)
                continue
            self._begun[cell.label] = trial.number
            if cell.is_done():  # its process was killed before it recorded the score
                self._record(cell)
                continue
            values = ", ".join(f"{axis.field}={axis.suggest(trial)}" for axis in self._plan.axes)
            self._log(f"{name}: {values}")
            maps = [e for e in list_extractions([cell]) if e.identify() not in self._stored]
            if maps:
                execute.run_phase(maps, self._runner, self._log)  # without them the run fails
            self._stored.update(each.identify() for each in maps)
            yield cell

    def _take(self) -> Trial | None:
        """Locks and returns a trial that was left, or a new one; None if all are taken.

        Only the process that holds the lock of a number creates its trial.
        """
        while True:
            for number in range(min(len(self._list_trials()) + 1, self._count)):
                if number in self._tried or not self._lock(number):
                    continue
                self._tried.add(number)
                # a new sampler for each trial, so that a study that goes on does not repeat values
                self._study.sampler = optuna.samplers.TPESampler(seed=number)
                trials = self._list_trials()
                if number == len(trials):
                    return self._study.ask()
                if not trials[number].state.is_finished():
                    return Trial(self._study, trials[number]._trial_id)
                self._locks.pop(number).close()
            if len(self._list_trials()) >= self._count:
                return None
            time.sleep(CREATING_S)

    def _list_trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _lock(self, number: int) -> bool:
        lock = contextlib.ExitStack()
        with contextlib.suppress(InUse):
            lock.enter_context(files.locked(self._plan.out / RUNS / f"trial-{number}"))
            self._locks[number] = lock
        return number in self._locks

    def _record(self, cell: Cell) -> None:
        """Records the score of a run; one that failed is run again by the next start."""
        number, metrics = self._begun[cell.label], cell.read_metrics()
        if cell.has_diverged:
            self._end(number, state=TrialState.PRUNED)  # so that the sampler avoids its values
        elif metrics:
            self._end(number, metrics["mAP"])
        else:
            self._locks.pop(number).close()

    def _end(
        self, number: int, score: float | None = None, state: TrialState | None = None
    ) -> None:
        self._study.tell(number, score, state)
        self._locks.pop(number).close()
        self._write_table()

    def _write_table(self) -> None:
        names = [axis.field for axis in self._plan.axes]
        rows = [
            [each.number, each.state.name.lower(), "" if each.value is None else each.value,
             *(each.params.get(name, "") for name in names), each.user_attrs.get("remark", "")]
            for each in self._list_trials()
        ]  # fmt: skip
        columns = ["trial", "state", "held_out_mAP", *names, "remark"]
        files.write_atomically(self._plan.out / CSV, files.csv_table(columns, rows))

    def _conclude(self) -> int:
        """Logs the best trial as a command; returns the code of a study without any score."""
        trials = self._list_trials()
        if left := sum(not each.state.is_finished() for each in trials):
            self._log(f"{left:,} trials failed, or run in other processes")
        scores = {each.number: each.value for each in trials if each.value is not None}
        if not scores:
            self._log(f"no trial has a score; see {self._plan.out / CSV}")
            return 0 if left else Diverged.exit_code
        best = max(scores, key=lambda number: (scores[number], -number))
        self._log(f"best: trial-{best}, mAP {100 * scores[best]:.1f} on the held-out part")
        words = self._plan.make_cell(trials[best], is_final=True).words
        self._log(shlex.join(["gap_jax", "train", *words]))
        return 0


def _open_study(plan: Study) -> optuna.Study:
    """Opens or creates the study in the folder of a plan."""
    path = (plan.out / JOURNAL).absolute()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # not the default lock, a link to the file, which never breaks where hosts mount it elsewhere
    lock = journal.JournalFileOpenLock(str(path))
    try:
        with files.writing(path):
            backend = journal.JournalFileBackend(str(path), lock)
            return optuna.create_study(
                storage=optuna.storages.JournalStorage(backend),
                study_name=plan.kind,
                direction="maximize",
                load_if_exists=True,
            )
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged; restore it, or choose another --out") from error
