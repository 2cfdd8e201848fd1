"""The writers that may fail or hang, console and TensorBoard, each on a thread of its own."""

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

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType
from rich.text import Text

from gap_jax.runtime.reporting.progress import Progress

Item = TypeVar("Item", contravariant=True)

ROOM = 1000  # items that may wait for a slow sink
PATIENCE_S = 3.0  # how long the end of a run waits for one
REDRAW_S = 0.1
BAR_CELLS = 10
FIRST = ("eta", "loss", "images_per_s", "accuracy")  # what a narrow terminal must not cut off
ERASE = Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2))


@runtime_checkable
class Sink(Protocol[Item]):
    """Something that takes items, and may raise or hang at any of them."""

    def write(self, item: Item) -> None: ...

    def close(self) -> None: ...


class Background(Generic[Item]):
    """Hands items to a sink on a daemon thread, so that whoever puts them never waits.

    Trouble is told once, when the next item comes. A sink that raised gets nothing more; what a
    hanging one has no room for is lost.
    """

    def __init__(
        self,
        name: str,
        open_sink: Callable[[], Sink[Item]],
        on_trouble: Callable[[str], None],
    ) -> None:
        self._name = name
        self._open_sink = open_sink
        self._on_trouble = on_trouble
        self._failure = ""
        self._has_told = False
        self._queue: queue.Queue[Item | None] = queue.Queue(ROOM)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: Item) -> None:
        """Passes an item on without waiting for it to be written."""
        if self._failure:
            self._tell(self._failure)
            return
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self._tell("hangs")

    def offer(self, item: Item) -> None:
        """Passes on an item that may be lost, if nothing else is waiting."""
        if self._queue.empty():
            self.put(item)

    def close(self) -> None:
        """Waits a little for what is still to be written; closing twice does nothing."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=PATIENCE_S if self._thread.is_alive() else 0)
        self._thread.join(PATIENCE_S)
        if self._failure or self._thread.is_alive():
            self._tell(self._failure or "hangs")

    def _run(self) -> None:
        try:
            sink = self._open_sink()
            while (item := self._queue.get()) is not None:
                sink.write(item)
            sink.close()
        except Exception as error:  # whatever it is, it must not reach the training
            text = " ".join(str(error).split())
            self._failure = f"failed ({type(error).__name__}: {text})"

    def _tell(self, trouble: str) -> None:
        if not self._has_told:
            self._has_told = True
            self._on_trouble(f"the {self._name} {trouble}; training goes on without it")


class TensorBoard:
    """Rows of scalars as an event file; TensorBoard then ignores older events beyond `start_step`.

    The file is written here and now: tensorboardX's own SummaryWriter adds a process-shared queue
    that can block its caller, and the interpreter's end, for ever.
    """

    def __init__(self, folder: Path, start_step: int) -> None:
        self._events = importlib.import_module("tensorboardX.proto.event_pb2")
        self._summaries = importlib.import_module("tensorboardX.proto.summary_pb2")
        files = importlib.import_module("tensorboardX.event_file_writer")
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = files.EventsWriter(str(folder / "events"), f".{os.getpid()}")
        if start_step:
            log = self._events.SessionLog
            self._write(start_step + 1, session_log=log(status=log.START))

    def write(self, item: Mapping[str, float | int]) -> None:
        """Writes every number of the row at its step."""
        value = self._summaries.Summary.Value
        values = [
            value(tag=name, simple_value=number) for name, number in item.items() if "/" in name
        ]
        self._write(int(item["step"]), summary=self._summaries.Summary(value=values))

    def close(self) -> None:
        """Ends the file."""
        self._writer.close()

    def _write(self, step: int, **content: Any) -> None:
        event = self._events.Event(wall_time=time.time(), step=step, **content)
        self._writer.write_event(event)
        self._writer.flush()


class Lines:
    """A console that is read by programs: text as it is, progress as one line when it is due."""

    def __init__(self, stream: io.TextIOBase) -> None:
        self._stream = stream

    def write(self, item: str | Progress) -> None:
        """Writes a line, or none."""
        text = item if isinstance(item, str) else item.line() if item.is_due else None
        if text is not None:
            self._stream.write(text + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Leaves the stream to its owner."""


class Terminal:
    """A console that somebody watches: text scrolls by above one line of progress."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._status: Text | None = None
        self._drawn_at = -REDRAW_S

    def write(self, item: str | Progress) -> None:
        """Prints the text, or draws the progress anew unless that has just been done."""
        if isinstance(item, str):
            self._erase()
            self._console.print(item, markup=False, highlight=False, soft_wrap=True)
        elif item.is_due or self._clock() - self._drawn_at >= REDRAW_S:
            self._drawn_at = self._clock()
            self._erase()
            self._status = self._draw(item)
        else:
            return
        if self._status is not None:
            self._console.print(self._status, end="", soft_wrap=True)

    def close(self) -> None:
        """Leaves the last progress where it stands."""
        if self._status is not None:
            self._console.print()

    def _erase(self) -> None:
        if self._status is not None:
            self._console.control(ERASE)

    def _draw(self, progress: Progress) -> Text:
        filled = BAR_CELLS * progress.step // progress.steps
        full, empty = "=-" if self._console.options.ascii_only else "━─"
        text = Text(no_wrap=True)
        text.append(f"{progress.step}/{progress.steps} ", "bold")
        text.append(full * filled, "green").append(empty * (BAR_CELLS - filled), "dim")
        words = progress.words()
        for name in [*FIRST, *(name for name in words if name not in FIRST)]:
            if name in words:
                text.append(f"  {name} ", "dim").append(words[name])
        text.truncate(self._console.width - 1, overflow="ellipsis")
        return text


class Silence:
    """The sink of a process that has no standard output, or nothing to say."""

    def write(self, item: object) -> None:
        """Drops it."""

    def close(self) -> None:
        """Ends nothing."""


def open_console() -> Sink[str | Progress]:
    """The sink for this process's standard output.

    It writes past `sys.stdout`'s buffer: a thread that hangs inside it would abort the interpreter
    at its end, and what a closed pipe leaves in it would be tried again there.
    """
    if sys.stdout is None:
        return Silence()
    stream = _unbuffered(cast(io.TextIOBase, sys.stdout))
    console = Console(file=cast(IO[str], stream))
    if console.is_terminal and not console.is_dumb_terminal:
        return Terminal(console)
    return Lines(stream)


def _unbuffered(stream: io.TextIOBase) -> io.TextIOBase:
    stream.flush()
    try:
        number = stream.fileno()
    except io.UnsupportedOperation:  # not a file, as in a notebook
        return stream
    return io.TextIOWrapper(
        io.FileIO(number, "w", closefd=False),
        encoding=stream.encoding,
        errors="backslashreplace",
        write_through=True,
    )
