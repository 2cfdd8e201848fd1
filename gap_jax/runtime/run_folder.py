"""The folder of a run: its paths, its description, and which later start may continue it."""

import dataclasses
import json
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

from etils import epath

from data_pipelines import manifest
from data_pipelines.core import files
from data_pipelines.core.errors import CannotWrite, CheckpointError, ConfigError
from data_pipelines.manifest import Manifest
from gap_jax.config import Config, differences
from gap_jax.model_config import without_ignored
from gap_jax.runtime import checkpoint_folders as checkpoints

CHECKPOINTS = "checkpoints"
LOCK = ".lock"
IN_USE_ADVICE = "wait for that run, end it, or choose another --workdir"
ADDRESS = ".address"
FIRST_BATCH = "samples/train_batch0.png"
FORMAT_VERSION = 1
EMPTY_RECORD: dict[str, Any] = {
    checkpoints.RUN_ID: None, "fingerprint": None, "maps": None, "completed_step": None,
    "attempts": [],
}  # fmt: skip

# These may change between two starts: they decide when a run reports, saves or evaluates, where
# the records are, and how the same arithmetic is spread over devices.
HARMLESS = {
    "data.root", "data.cache", "data.workers", "train.log_every_steps", "eval.every_steps",
    "eval.batch_size", "checkpoint.every_steps", "checkpoint.keep", "mesh.fsdp", "model.remat",
    "runtime.compile_cache", "runtime.profile_start_step", "runtime.profile_steps",
    "train.early_stop_evals", "runtime.start_within_s", "runtime.stuck_after_s",
}  # fmt: skip


class RunFolder:
    """The paths in a run's folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.json"  # every field; a folder with this file is a run
        self.record = root / "run.json"  # run id, environment of each attempt, completed step
        self.classes = root / "classes.json"  # class names in order, with their image counts
        self.preflight = root / "preflight.txt"  # of the latest attempt
        self.log = root / "log.txt"  # the messages of the console
        self.metrics = root / "metrics.jsonl"  # rows of numbers by step
        self.step_log = root / "steps.jsonl"  # exact loss and digest of record ids of every step
        self.tensorboard = root / "tb"  # event files
        self.first_batch = root / FIRST_BATCH
        self.profile = root / "profile"  # recorded by the profiler
        self.evaluation = root / "eval"  # scores and tables by split and step

    @property
    def checkpoints(self) -> Path | epath.Path:
        """The folder of checkpoints; for a run in a bucket, the address in the file ADDRESS."""
        address = self.root / ADDRESS
        return epath.Path(address.read_text()) if address.is_file() else self.root / CHECKPOINTS

    def of_process(self, index: int) -> "RunFolder":
        """Returns the folder for the logs of one of several processes; the first uses the run's."""
        return RunFolder(self.root / "processes" / str(index)) if index else self

    def scores(self, split: str, step: int) -> Path:
        """Returns the folder of one evaluation."""
        return self.evaluation / split / f"step_{step:08}"


class Opening(NamedTuple):
    """The state of a run's folder at a start."""

    is_new: bool
    changes: dict[str, str]  # harmless ones, a line for each field
    run_id: str | None = None
    completed_step: int | None = None  # if nothing is left to do; only `enter` finds it
    metrics: dict[str, Any] | None = None  # of the evaluation at that step
    lost_step: int | None = None  # if the run was complete and its last checkpoint is lost


def acquire_lock(root: Path, warn: Callable[[str], None]) -> AbstractContextManager[None]:
    """Locks a run's folder for one run at a time, or refuses; only the first process calls this."""
    return files.locked(root, root / LOCK, advice=IN_USE_ADVICE, warn=warn)


def examine(workdir: Path, cfg: Config, data: Manifest) -> Opening:
    """Refuses a folder that this config and data cannot continue; writes nothing."""
    run = RunFolder(workdir.absolute())
    with files.writing(run.root):
        is_run = run.config.is_file()
        inside = run.root.iterdir() if run.root.exists() and not is_run else ()
        if any(path.is_dir() or not path.name.startswith(".") for path in inside):
            raise CannotWrite(  # not only a lock and partial files
                f"{run.root} holds files that are no run and stays untouched; "
                "choose another --workdir"
            )
    record = load_record(run) if is_run else {}
    has_begun = run.checkpoints.exists() or (
        run.step_log.exists() and run.step_log.stat().st_size > 0
    )
    if not (is_run and has_begun):  # for example, the first step did not compile
        return Opening(is_new=True, changes={})
    _compare_data(run, record, data)  # first, as train.epochs counts its images
    changes = _compare_configs(run, load_config(run), cfg)
    return Opening(is_new=False, changes=changes, run_id=record[checkpoints.RUN_ID])


def enter(workdir: Path, cfg: Config, data: Manifest, environment: Mapping[str, Any]) -> Opening:
    """Starts a run in the folder, or records another attempt, unless the run is complete.

    The order allows a start after a kill at any point: config.json makes the folder a run, and a
    changed config is written after the run is no longer recorded as complete.
    """
    run, opening = RunFolder(workdir.absolute()), examine(workdir, cfg, data)
    record = EMPTY_RECORD if opening.is_new else load_record(run)
    if opening.is_new:
        for stale in (run.record, run.first_batch):
            stale.unlink(missing_ok=True)
        save(run.config, dataclasses.asdict(cfg))
    elif record["completed_step"] is not None:
        opening = _find_completed(run, record["completed_step"], opening)
        if opening.completed_step is not None:
            return opening
    opening = opening._replace(run_id=opening.run_id or uuid.uuid4().hex)
    counts = {split: each.class_counts for split, each in data.splits.items()}
    classes = [
        {"name": name, **{split: each[k] for split, each in counts.items()}}
        for k, name in enumerate(data.classes)
    ]
    save(run.classes, {"classes": classes})
    attempt = {
        **environment,
        "data": str(cfg.data.directory.absolute()),
        "config_changes": list(opening.changes.values()),
    }
    identity = {checkpoints.RUN_ID: opening.run_id, "fingerprint": data.fingerprint}
    attempts = {"completed_step": None, "attempts": [*record["attempts"], attempt]}
    save(run.record, {**record, **identity, **attempts})
    if opening.changes:
        save(run.config, dataclasses.asdict(cfg))
    return opening


def pin_maps(run: RunFolder, digest: str) -> None:
    """Records the digest of the stored maps that the run is trained on; refuses any other."""
    record = load_record(run)
    if record["maps"] not in (None, digest):
        raise CheckpointError(
            f"{run.root} was trained on stored maps with digest {record['maps']} and these have "
            f"{digest}: they were computed again by other versions or devices; restore the folder "
            "features of its data, or use another --workdir"
        )
    if record["maps"] is None:
        save(run.record, {**record, "maps": digest})


def complete(run: RunFolder, step: int) -> None:
    """Records that the run is complete after `step` steps."""
    save(run.record, {**load_record(run), "completed_step": step})


def load_config(run: RunFolder) -> Config:
    """Reads the run's config; a field that is absent there has its default."""
    content = _load(run.config)
    groups = {field.name: cast(Any, field.type) for field in dataclasses.fields(Config)}
    try:
        filled = {
            name: group(**{key: _as_field(value) for key, value in content.pop(name, {}).items()})
            for name, group in groups.items()
        }
        filled["model"] = without_ignored(filled["model"])
        return Config(**filled, **content).resolved()
    except (ConfigError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{run.config} is not a config of this gap_jax: {error}; choose another --workdir"
        ) from error


def load_classes(run: RunFolder) -> tuple[str, ...]:
    """Reads the names of the run's classes, in order."""
    with suppress(KeyError, TypeError):
        if names := tuple(each["name"] for each in _load(run.classes)["classes"]):
            return names
    raise _damaged(run.classes, "it lists no classes")


def load_record(run: RunFolder) -> dict[str, Any]:
    """Reads run.json; if it is lost, the checkpoints give the run's id."""
    if not run.record.exists():
        return {**EMPTY_RECORD, checkpoints.RUN_ID: _recover_id(run)}
    content = {"maps": None, **_load(run.record)}  # earlier runs have none
    if content.keys() != EMPTY_RECORD.keys():
        raise _damaged(run.record, f"it must hold exactly {', '.join(EMPTY_RECORD)}")
    return content


def _find_completed(run: RunFolder, done: int, opening: Opening) -> Opening:
    """Adds whether the run is still complete, which only its whole last checkpoint proves."""
    newest = checkpoints.find_newest_whole(run.checkpoints, opening.run_id)
    if newest is None:  # it would start again at step 0
        raise CheckpointError(
            f"{run.root} was complete at step {done:,} and holds no usable checkpoint of its own; "
            "restore a copy of one, or choose another --workdir"
        )
    if newest.step != done:
        return opening._replace(lost_step=done)
    if opening.changes.keys() & {"train.steps", "train.early_stop_evals"}:
        return opening
    return opening._replace(completed_step=done, metrics=newest.run["metrics"])


def _recover_id(run: RunFolder) -> str | None:
    """Returns the id in the run's checkpoints; None if there is no checkpoint yet."""
    good, unusable = checkpoints.survey(run.checkpoints)
    ids = {metadata.run_id for metadata in good.values()}
    is_lost = unusable or checkpoints.list_set_aside(run.checkpoints)
    if len(ids) > 1 or (not ids and is_lost):
        raise CheckpointError(
            f"{run.record} is lost, and the checkpoints beside it are of {len(ids)} runs, not of "
            "one; restore it or a copy of a checkpoint, or move the checkpoints of other runs away"
        )
    return next(iter(ids), None)


def _as_field(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _compare_configs(run: RunFolder, before: Config, after: Config) -> dict[str, str]:
    """Returns one line for each field with a harmless change; refuses any other."""
    changes = differences(before, after)
    refused = [
        line + why
        for name, line in changes.items()
        if (why := _objection(name, before, after)) is not None
    ]
    if refused:
        raise ConfigError(
            f"{run.root} holds a run of another config, {'; '.join(refused)}; "
            "use its values or another --workdir"
        )
    return changes


def _objection(name: str, before: Config, after: Config) -> str | None:
    """Returns why the field may not change, maybe without a reason; None if it may."""
    if name == "eval.every_steps" and before.train.early_stop_evals:
        return " (train.early_stop_evals counts evaluations)"
    if name == "data.cache" and "features" in (before.data.cache, after.data.cache):
        return " (stored maps show other crops)"
    if name != "train.steps":
        return None if name in HARMLESS else ""
    if after.train.steps < before.train.steps:
        return " (it may only grow)"
    return " (the cosine depends on it)" if before.optim.schedule == "cosine" else None


def _compare_data(run: RunFolder, record: Mapping[str, Any], data: Manifest) -> None:
    moves = manifest.list_moves(load_classes(run), data.classes) if run.classes.exists() else ""
    if moves:
        raise CheckpointError(
            f"{run.root} was trained on other classes: {moves}; use its data or another --workdir"
        )
    fingerprint = record["fingerprint"]
    if fingerprint not in (None, data.fingerprint):
        raise CheckpointError(
            f"{run.root} was trained on data with fingerprint {fingerprint} and these have "
            f"{data.fingerprint}: the same classes, other images, labels or order; "
            "use its data or another --workdir"
        )


def save(path: Path, content: Mapping[str, Any], version: int = FORMAT_VERSION) -> None:
    """Writes a JSON object with the version of its format."""
    content = {"format_version": version, **content}
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    files.write_atomically(path, text + "\n")


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(content, dict) or content.pop("format_version", None) != FORMAT_VERSION:
        raise _damaged(path, f"it is not of format {FORMAT_VERSION}")
    return content


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} cannot be used: {reason}; restore it or choose another --workdir"
    )
