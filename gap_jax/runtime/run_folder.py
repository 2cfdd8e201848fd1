"""The paths in a run's folder."""

from pathlib import Path

from etils import epath

CHECKPOINTS = "checkpoints"
ADDRESS = ".address"


class RunFolder:
    """The paths in a run's folder; a writer creates the parent folder first."""

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
        self.first_batch = root / "samples" / "train_batch0.png"
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
