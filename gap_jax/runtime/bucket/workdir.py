"""The folder of a run: its own, or a temporary one whose files are uploaded to a bucket.

Checkpoints go straight to the bucket, the small files before each of them and at the end.
"""

import contextlib
import dataclasses
import functools
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from data_pipelines.core import faults, files
from data_pipelines.core.errors import CannotWrite, Refusal
from gap_jax.runtime.bucket.heartbeat_lock import HeartbeatLock
from gap_jax.runtime.bucket.store import LOCAL, Store, is_address
from gap_jax.runtime.processes import agreement
from gap_jax.runtime.processes.group import ALONE, Processes
from gap_jax.runtime.run_folder import ADDRESS, CHECKPOINTS

PREFIX = "gap_jax-bucket-"  # of temporary folders
CONFIG, PROCESSES = "config.json", "processes"

Stamp = tuple[int, int, int]


@dataclasses.dataclass(eq=False)
class Workdir:
    """A folder on this machine."""

    folder: Path

    def display(self, text: str) -> str:
        """Replaces the temporary folder in the text by the address of the run."""
        return text

    def upload(self) -> None:
        """Copies changed files to the bucket."""


@dataclasses.dataclass(eq=False)
class TemporaryWorkdir(Workdir):
    """The small files of a run in a bucket; process N of several uploads those in processes/N."""

    store: Store
    processes: Processes
    check: Callable[[], None]

    def __post_init__(self) -> None:
        self._uploaded: dict[str, Stamp] = {}
        self._uploading = threading.Lock()

    def display(self, text: str) -> str:
        """Replaces other processes' folders, too: they are in the first one's refusals."""
        text = text.replace(str(self.folder), self.store.address)
        folders = rf"\S*/{PREFIX}\w{{8}}/{re.escape(self.folder.name)}"
        return re.sub(folders, lambda _: self.store.address, text)

    def fetch(self) -> None:
        """Downloads the small files of the run."""
        names = [name for name in self.store.list() if not _is_hidden(name)]
        if CONFIG not in names:
            if any(not name.startswith(f"{PROCESSES}/") for name in names):
                raise CannotWrite(
                    f"{self.store.address} holds files that are no run (there is no {CONFIG}) and "
                    "stays untouched; choose another address"
                )
            return
        for name in names:
            if name.startswith(f"{CHECKPOINTS}/") or (content := self.store.read(name)) is None:
                continue
            files.write_atomically(self.folder / name, content)
            if self._is_mine(name):  # an upload removes what it knows and no longer finds
                self._uploaded[name] = _stamp(self.folder / name)

    def upload(self) -> None:
        """Copies changed files to the bucket, from any thread, while others append to files."""
        with self._uploading:
            self.check()
            if not (self.folder / ADDRESS).exists():  # else the files of the run would be removed
                raise CannotWrite(
                    f"the temporary folder {self.folder} was deleted during the run; set TMPDIR to "
                    f"a folder that is not cleaned and run again; {self.store.address} is unchanged"
                )
            here = self._survey()
            for name in sorted(here, key=lambda name: (name != CONFIG, name)):
                if self._uploaded.get(name) != here[name]:
                    faults.point("bucket.upload")
                    with contextlib.suppress(FileNotFoundError):
                        self.store.write(name, (self.folder / name).read_bytes())
                        self._uploaded[name] = here[name]
            for name in self._uploaded.keys() - here:
                self.store.remove(name)
                del self._uploaded[name]

    def _survey(self) -> dict[str, Stamp]:
        found: dict[str, Stamp] = {}
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder).as_posix()
            if self._is_mine(name) and not _is_hidden(name):
                with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
                    if path.is_file():
                        found[name] = _stamp(path)
        return found

    def _is_mine(self, name: str) -> bool:
        if self.processes.is_first:
            return not name.startswith(f"{PROCESSES}/")
        return name.startswith(f"{PROCESSES}/{self.processes.index}/")


@contextlib.contextmanager
def open_for_writing(location: str, processes: Processes = ALONE) -> Iterator[Workdir]:
    """Opens the workdir of a run; in a bucket with its lock, and uploads it at any end."""
    if not is_address(location):
        yield Workdir(Path(location))
        return
    store = Store(location)
    lock = HeartbeatLock(store, print)
    lock.owner["owner_id"] = processes.broadcast("lock acquired", lock.acquire)
    try:
        agreement.refuse_unshared(processes, location, is_visible=lock.is_held())
        # the first process removes the lock before the others have ended
        check = functools.partial(lock.refuse_if_lost, is_strict=processes.is_first)
        with _open(store, processes, check) as workdir:
            yield workdir
    finally:
        if processes.is_first:
            try:
                lock.release()
            except CannotWrite as failure:
                print(f"warning: {failure}")


@contextlib.contextmanager
def open_for_reading(location: str, processes: Processes = ALONE) -> Iterator[Workdir]:
    """Opens a run without its lock; files that are written into its folder are uploaded."""
    if not is_address(location):
        yield Workdir(Path(location))
        return
    with _open(Store(location), processes, lambda: None) as workdir:
        yield workdir


@contextlib.contextmanager
def _open(
    store: Store, processes: Processes, check: Callable[[], None]
) -> Iterator[TemporaryWorkdir]:
    with files.writing(Path(tempfile.gettempdir())):
        home = Path(tempfile.mkdtemp(prefix=PREFIX))
    workdir = TemporaryWorkdir(home / store.address.rpartition("/")[2], store, processes, check)
    protocol, _, path = store.address.partition("://")
    root = path if protocol in LOCAL else store.address  # Orbax takes no file://
    files.write_atomically(workdir.folder / ADDRESS, f"{root}/{CHECKPOINTS}")
    failure = None
    try:
        workdir.fetch()
        try:
            yield workdir
        except Refusal as refusal:
            refusal.args = (workdir.display(str(refusal)),)
            raise
        finally:
            failure = _upload_last(workdir)
            if failure and sys.exception():
                print(f"warning: {failure}")
        if failure:
            raise failure
    finally:
        if failure is None:
            shutil.rmtree(home, ignore_errors=True)


def _upload_last(workdir: TemporaryWorkdir) -> Refusal | None:
    try:
        workdir.upload()
    except Refusal as failure:
        failure.args = (f"{failure}; what was not uploaded lies in {workdir.folder}",)
        return failure
    return None


def _is_hidden(name: str) -> bool:
    """Whether it is a lock, a partial file, or a name that leads out of the folder."""
    return any(part.startswith(".") or not part for part in name.split("/"))


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino
