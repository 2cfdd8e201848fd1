"""Writes run messages to the console and to log.txt."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from gap_jax.runtime.reporting.jsonl import LineWriter
from gap_jax.runtime.reporting.progress import Progress
from gap_jax.runtime.reporting.writers import Background, Writer, open_console
from gap_jax.runtime.run_folder import RunFolder


class RunLogger(AbstractContextManager["RunLogger"]):
    """Logs messages, as `display` changes them, and progress; never fails and never waits."""

    def __init__(
        self,
        run: RunFolder,
        open_writer: Callable[[], Writer[str | Progress]] = open_console,
        display: Callable[[str], str] = str,
    ) -> None:
        self._display = display
        self._log = LineWriter(run.log, self.warning)
        self._console = Background("console", open_writer, self.warning)

    def info(self, text: str) -> None:
        """Logs one or more lines."""
        text = self._display(text)
        self._log.write(text)
        self._console.write(text)

    def warning(self, text: str) -> None:
        self.info(f"warning: {text}")

    def progress(self, progress: Progress) -> None:
        """Shows progress on the console; writes it to the log if it has a new row of metrics."""
        if progress.is_due:
            self._log.write(progress.line())
            self._console.write(progress)
        else:
            self._console.offer(progress)

    def __exit__(self, *error: object) -> None:
        self._console.close()
        self._log.close()
