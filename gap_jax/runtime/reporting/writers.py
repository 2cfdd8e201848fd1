"""Writers that may fail or hang, such as the console and TensorBoard, each on its own thread."""

import contextlib
import importlib
import io
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Generic, Protocol, TypeVar, cast, runtime_checkable

import rich.progress
from rich.console import Console
from rich.table import Column
from rich.text import Text

from gap_jax.runtime.reporting.progress import Progress

Item = TypeVar("Item", contravariant=True)
Row = Mapping[str, float | int]  # `step`, and numbers under names with a slash

QUEUE_ITEMS = 1000
CLOSE_TIMEOUT_S = 3.0
REDRAW_S = 0.1
BAR_CELLS = 10
FIRST = ("eta", "loss", "images_per_s", "accuracy")  # a narrow terminal cuts the others


@runtime_checkable
class Writer(Protocol[Item]):
    """Writes items in order, rows of metrics for one; `Background` lets it raise and hang."""

    def write(self, item: Item, /) -> None: ...

    def close(self) -> None: ...


class Background(Generic[Item]):
    """Passes items to a writer on a daemon thread; warns once if it raises or hangs.

    It then writes nothing more, or drops items while the queue is full.
    """

    def __init__(
        self, name: str, open_writer: Callable[[], Writer[Item]], warn: Callable[[str], None]
    ) -> None:
        self._name = name
        self._open_writer = open_writer
        self._warn = warn
        self._failure = ""
        self._has_warned = False
        self._queue: queue.Queue[Item | None] = queue.Queue(QUEUE_ITEMS)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def write(self, item: Item, /) -> None:
        if self._failure:
            self._warn_once(self._failure)
            return
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self._warn_once("hangs")

    def offer(self, item: Item, /) -> None:
        """Queues an item if no other is waiting, and drops it otherwise."""
        if self._queue.empty():
            self.write(item)

    def close(self) -> None:
        """Waits for queued items, `CLOSE_TIMEOUT_S` at most; closing twice does nothing."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=CLOSE_TIMEOUT_S if self._thread.is_alive() else 0)
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._failure or self._thread.is_alive():
            self._warn_once(self._failure or "hangs")

    def _run(self) -> None:
        try:
            writer = self._open_writer()
            while (item := self._queue.get()) is not None:
                writer.write(item)
            writer.close()
        except Exception as error:  # a tracker may raise anything; training goes on
            text = " ".join(str(error).split())
            self._failure = f"failed ({type(error).__name__}: {text})"

    def _warn_once(self, problem: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            self._warn(f"the {self._name} {problem}; training goes on without it")


class TensorBoardWriter:
    """Writes rows to an event file; TensorBoard then ignores older events beyond `start_step`."""

    # not tensorboardX's SummaryWriter: its queue can block the caller and Python's exit for ever
    def __init__(self, folder: Path, start_step: int) -> None:
        self._events = importlib.import_module("tensorboardX.proto.event_pb2")
        self._summaries = importlib.import_module("tensorboardX.proto.summary_pb2")
        files = importlib.import_module("tensorboardX.event_file_writer")
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = files.EventsWriter(str(folder / "events"), f".{os.getpid()}")
        if start_step:
            log = self._events.SessionLog
            self._write(start_step + 1, session_log=log(status=log.START))

    def write(self, item: Row, /) -> None:
        value = self._summaries.Summary.Value
        values = [
            value(tag=name, simple_value=number) for name, number in item.items() if "/" in name
        ]
        self._write(int(item["step"]), summary=self._summaries.Summary(value=values))

    def close(self) -> None:
        self._writer.close()

    def _write(self, step: int, **content: Any) -> None:
        event = self._events.Event(wall_time=time.time(), step=step, **content)
        self._writer.write_event(event)
        self._writer.flush()


class LineConsole:
    """A console that programs read: writes text as it is, and progress in one line when due."""

    def __init__(self, stream: io.TextIOBase) -> None:
        self._stream = stream

    def write(self, item: str | Progress, /) -> None:
        if isinstance(item, str) or item.is_due:
            self._stream.write((item if isinstance(item, str) else item.line()) + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Leaves the stream open."""


class Numbers(rich.progress.ProgressColumn):
    """Shows the numbers of a run; a narrow terminal cuts this column."""

    def render(self, task: rich.progress.Task) -> Text:
        return Text(task.description, no_wrap=True, overflow="ellipsis")


class TerminalConsole:
    """A terminal: text scrolls above rich's progress bar."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._drawn_at = -REDRAW_S
        self._progress = rich.progress.Progress(
            rich.progress.MofNCompleteColumn(table_column=Column(no_wrap=True)),
            rich.progress.BarColumn(BAR_CELLS, table_column=Column(no_wrap=True)),
            Numbers(),
            console=console,
            auto_refresh=False,  # its thread would raise outside `Background`
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("", visible=False)

    def write(self, item: str | Progress, /) -> None:
        """Prints the text, or draws the progress unless it was drawn a moment ago."""
        if isinstance(item, str):
            self._console.print(item, markup=False, highlight=False, soft_wrap=True)
        elif item.is_due or self._clock() - self._drawn_at >= REDRAW_S:
            self._drawn_at = self._clock()
            texts = item.texts()
            texts = {name: texts[name] for name in (*FIRST, *texts) if name in texts}
            numbers = "  ".join(f"{name} {text}" for name, text in texts.items())
            self._progress.update(
                self._task, completed=item.step, total=item.steps, description=numbers, visible=True
            )
            if not self._progress.live.is_started:
                self._progress.start()
                self._console.show_cursor()  # a killed process would leave it hidden
            else:
                self._progress.refresh()

    def close(self) -> None:
        """Leaves the last progress on the screen."""
        self._progress.stop()


class NullWriter:
    """Writes nothing."""

    def write(self, item: object, /) -> None:
        pass

    def close(self) -> None:
        pass


def open_console() -> Writer[str | Progress]:
    """Opens a writer for standard output.

    It bypasses the buffer of `sys.stdout`: a thread that hangs inside would abort the interpreter
    at its exit, which would also try to flush there again what a closed pipe refused.
    """
    if sys.stdout is None:
        return NullWriter()
    stream = cast(io.TextIOBase, sys.stdout)
    stream.flush()
    with contextlib.suppress(io.UnsupportedOperation):  # not a file, as in a notebook
        stream = io.TextIOWrapper(
            io.FileIO(stream.fileno(), "w", closefd=False),
            encoding=stream.encoding,
            errors="backslashreplace",
            write_through=True,
        )
    console = Console(file=cast(IO[str], stream))
    if console.is_terminal and not console.is_dumb_terminal:
        return TerminalConsole(console)
    return LineConsole(stream)
