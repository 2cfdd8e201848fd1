"""Where in a run's folder each thing lies."""

import dataclasses
from pathlib import Path

from etils import epath

CHECKPOINTS = "checkpoints"
ADDRESS = ".address"


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The places in a run's folder; whoever writes there makes the place first."""

    root: Path

    @property
    def config(self) -> Path:
        """Every field of the config; a folder with it is a run."""
        return self.root / "config.json"

    @property
    def record(self) -> Path:
        """The run's id, the environment of each attempt, and the step at which it was complete."""
        return self.root / "run.json"

    @property
    def classes(self) -> Path:
        """The names of the classes in order, with their images in each split."""
        return self.root / "classes.json"

    @property
    def preflight(self) -> Path:
        """What was said before the first step of the latest attempt."""
        return self.root / "preflight.txt"

    @property
    def log(self) -> Path:
        """What the console showed."""
        return self.root / "log.txt"

    @property
    def metrics(self) -> Path:
        """Rows of numbers by step."""
        return self.root / "metrics.jsonl"

    @property
    def step_log(self) -> Path:
        """Every step's exact loss and the digest of its records."""
        return self.root / "steps.jsonl"

    @property
    def tensorboard(self) -> Path:
        """Event files."""
        return self.root / "tb"

    @property
    def first_batch(self) -> Path:
        """A picture of the first training batch."""
        return self.root / "samples" / "train_batch0.png"

    @property
    def profile(self) -> Path:
        """What a profiler recorded."""
        return self.root / "profile"

    @property
    def checkpoints(self) -> Path | epath.Path:
        """Saved states by step; those of a run in a bucket are there, at the address in ADDRESS."""
        address = self.root / ADDRESS
        return epath.Path(address.read_text()) if address.is_file() else self.root / CHECKPOINTS

    def of_process(self, index: int) -> "RunFolder":
        """Where one of several processes keeps its own log and numbers; the first has the run's."""
        return RunFolder(self.root / "processes" / str(index)) if index else self

    @property
    def evaluation(self) -> Path:
        """Scores and tables by split and step."""
        return self.root / "eval"

    def scores(self, split: str, step: int) -> Path:
        """The folder of one evaluation."""
        return self.evaluation / split / f"step_{step:08}"
