"""What the training loop tells the world, step by step; the loop never waits and never fails by it.

`metrics.jsonl` is the truth: one row for every `train.log_every_steps` steps and every evaluation.
`ledger.jsonl` is the proof: every step's loss to the bit and the digest of its record ids.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import SupportsFloat

import numpy as np
from jaxtyping import Int

from data_pipelines.manifest import Manifest
from gap_jax.config import Config
from gap_jax.runtime.places import RunDir
from gap_jax.runtime.reporting.announcer import Announcer
from gap_jax.runtime.reporting.chance import ChanceWatch, chance_level, remedies
from gap_jax.runtime.reporting.journal import Cut, Journal, count_steps, cut_after, encode_row
from gap_jax.runtime.reporting.progress import Pace, Progress, number
from gap_jax.runtime.reporting.writers import Background, Sink, TensorBoard

LATEST = {"learning_rate", "skipped_in_row", "skipped"}  # a mean of these would say nothing
NAMES = {"learning_rate": "lr"}
NAMED_IDS = 8

Row = Mapping[str, float | int]
Numbers = Mapping[str, SupportsFloat]


class Reporter(AbstractContextManager["Reporter"]):
    """The numbers of a run from `start_step` on; earlier attempts' later rows are dropped.

    `window` is that of `dump_window` at that step: the next row is then as in an unbroken run.
    """

    def __init__(
        self,
        announcer: Announcer,
        run: RunDir,
        cfg: Config,
        data: Manifest,
        *,
        start_step: int = 0,
        devices: int = 1,
        weights_loaded: bool = False,
        window: Mapping[str, Sequence[str]] = {},
        clock: Callable[[], float] = time.monotonic,
        open_board: Callable[[], Sink[Row]] | None = None,
    ) -> None:
        self._announcer = announcer
        self._train = cfg.train
        self._devices = devices
        self._pace = Pace(clock)
        split = data.splits[cfg.data.train_split]
        self._images = split.examples
        self._watch = ChanceWatch(chance_level(split, data.label_kind, cfg.train), cfg.train)
        self._remedies = remedies(cfg, split, weights_loaded=weights_loaded)
        columns = {name: map(float.fromhex, values) for name, values in window.items()}
        self._window = [
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ]
        self._row: Row = {}
        for path in (run.metrics, run.ledger):
            self._describe_cut(path.name, cut_after(path, start_step), start_step)
        kept = count_steps(run.ledger)
        if kept < start_step:
            announcer.warn(
                f"{run.ledger.name} lacks {start_step - kept:,} of the {start_step:,} steps before "
                "this start"
            )
        self._metrics = Journal(run.metrics, announcer.warn)
        self._ledger = Journal(run.ledger, announcer.warn)
        open_board = open_board or (lambda: TensorBoard(run.tensorboard, start_step))
        self._board = Background("TensorBoard writer", open_board, announcer.warn)

    def timing(self, name: str) -> AbstractContextManager[None]:
        """Books the block's time: `data` (waiting for a batch), `compile`, `eval`, `save`."""
        return self._pace.timing(name)

    def step(self, step: int, metrics: Numbers, ids: Int[np.ndarray, "*b"]) -> None:
        """Reports the `step`-th update: the numbers of its Metrics and its record ids."""
        values = {name: float(value) for name, value in metrics.items()}
        self._ledger.append(encode_row({"step": step, **_proof(values["loss"], ids)}))
        if self._window and self._window[0].keys() != values.keys():
            self._window.clear()  # another version of gap_jax saved it
        self._window.append(values)
        self._pace.count_step()
        if not values["finite"]:
            self._announcer.warn(_describe_skip(step, values, ids))
        finding = self._watch.observe(step, values["loss_action"], values["accuracy"])
        if finding:
            self._announcer.warn(f"{finding}; try {', or '.join(self._remedies)}")
        is_due = step % self._train.log_every_steps == 0 or step == self._train.steps
        if is_due:
            self._row = self._end_window(step)
            self._write(self._row)
        eta_s = self._pace.eta_s(self._train.steps - step)
        self._announcer.show(Progress(step, self._train.steps, self._row, eta_s, is_due))

    def evaluated(
        self, step: int, split: str, metrics: Numbers, *, classes: str = "", is_best: bool = False
    ) -> None:
        """Reports an evaluation after `step` updates; `classes` says how many its mAP is over."""
        values = {name: float(value) for name, value in metrics.items()}
        exact = {name: value.hex() for name, value in values.items()}
        self._ledger.append(encode_row({"step": step, split: exact}))
        self._write({"step": step, **{f"{split}/{name}": value for name, value in values.items()}})
        words = [f"{name}={number(value)}" for name, value in values.items()]
        words += [f"classes={classes}"] * bool(classes)
        place = f"{split} step={step}/{self._train.steps}"
        self._announcer.say(" ".join([place, *words, *["best"] * is_best]))

    def dump_window(self) -> dict[str, list[str]]:
        """The exact numbers of the steps since the last row, for a checkpoint."""
        names = self._window[0] if self._window else ()
        return {name: [values[name].hex() for values in self._window] for name in names}

    def close(self) -> None:
        """Says where the time went and ends every writer."""
        self._announcer.say(self._pace.summary())
        self._board.close()
        self._metrics.close()
        self._ledger.close()

    def __exit__(self, *error: object) -> None:
        self.close()

    def _describe_cut(self, name: str, cut: Cut, step: int) -> None:
        if cut.beyond:
            self._announcer.say(f"{name}: dropped {cut.beyond:,} rows beyond step {step:,}")
        if cut.damaged:
            self._announcer.say(f"{name}: dropped {cut.damaged:,} damaged rows")

    def _end_window(self, step: int) -> Row:
        """Means over the steps since the last row, of which there are `steps`."""
        means = {
            name: self._window[-1][name]
            if name in LATEST
            else float(np.mean([each[name] for each in self._window]))
            for name in self._window[-1]
        }
        row = {
            "step": step,
            "steps": len(self._window),
            "train/epoch": step * self._train.batch_size / max(self._images, 1),
            **{f"train/{NAMES.get(name, name)}": value for name, value in means.items()},
            **self._pace.end_lap(self._train.batch_size, self._devices),
        }
        self._window.clear()
        return row

    def _write(self, row: Row) -> None:
        self._metrics.append(encode_row(row))
        self._board.put(row)


def _proof(loss: float, ids: Int[np.ndarray, "*b"]) -> dict[str, str]:
    content = np.ascontiguousarray(ids, "<i8").tobytes()
    return {"loss_hex": loss.hex(), "ids_sha256": hashlib.sha256(content).hexdigest()}


def _describe_skip(step: int, values: Row, ids: Int[np.ndarray, "*b"]) -> str:
    named = ", ".join(str(each) for each in ids.ravel()[:NAMED_IDS])
    return (
        f"step {step:,} changed nothing: its loss {values['loss']:g} or gradient norm "
        f"{values['grad_norm']:g} is not finite ({values['skipped_in_row']:.0f} in a row, "
        f"{values['skipped']:.0f} in all); its records begin with {named}"
    )
