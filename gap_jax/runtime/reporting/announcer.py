"""The words of a run: on the console for whoever watches, and in a log for whoever comes later."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from gap_jax.runtime.places import RunDir
from gap_jax.runtime.reporting.journal import Journal
from gap_jax.runtime.reporting.progress import Progress
from gap_jax.runtime.reporting.writers import Background, Sink, open_console


class Announcer(AbstractContextManager["Announcer"]):
    """Says things on standard output and in log.txt; never fails and never waits."""

    def __init__(
        self,
        run: RunDir,
        open_sink: Callable[[], Sink[str | Progress]] = open_console,
        tell: Callable[[str], str] = str,
    ) -> None:
        self._tell = tell  # how a text is said
        self._log = Journal(run.log, self.warn)
        self._console = Background("console", open_sink, self.warn)

    def say(self, text: str) -> None:
        """Prints one or more lines."""
        text = self._tell(text)
        self._log.append(text)
        self._console.put(text)

    def warn(self, text: str) -> None:
        """Prints a line that nobody should miss."""
        self.say(f"warning: {text}")

    def show(self, progress: Progress) -> None:
        """Shows progress in the way the console does; the log takes it when it is due."""
        if progress.is_due:
            self._log.append(progress.line())
            self._console.put(progress)
        else:
            self._console.offer(progress)

    def close(self) -> None:
        """Ends the console's thread and the log."""
        self._console.close()
        self._log.close()

    def __exit__(self, *error: object) -> None:
        self.close()
