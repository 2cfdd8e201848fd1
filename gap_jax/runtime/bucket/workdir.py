"""The folder a run works in: its own, or a temporary one whose files are uploaded to a bucket.

Checkpoints go straight to the bucket; the small files are uploaded before each of them is
committed, and at the end. A start fetches them.
"""

import contextlib
import functools
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from data_pipelines import faults, files
from gap_jax.errors import CannotWrite, Refusal
from gap_jax.runtime.bucket.heartbeat_lock import HeartbeatLock, read_owner_id, refuse_unless_held
from gap_jax.runtime.bucket.store import LOCAL, Store, is_address
from gap_jax.runtime.processes import agreement
from gap_jax.runtime.processes.group import ALONE, Processes
from gap_jax.runtime.run_folder import ADDRESS, CHECKPOINTS

MARK = "gap_jax-bucket-"
CONFIG, PROCESSES = "config.json", "processes"

Stamp = tuple[int, int, int]


class Workdir:
    """A plain folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = ""

    def display(self, text: str) -> str:
        """Replaces the temporary folder in the text by the address of the run."""
        return text

    def upload(self) -> None:
        """Copies to the bucket what has changed."""


class TemporaryWorkdir(Workdir):
    """The small files of a run in a bucket; process N of several uploads those in processes/N."""

    def __init__(
        self, store: Store, folder: Path, processes: Processes, check: Callable[[], None]
    ) -> None:
        super().__init__(folder)
        self.address = store.address
        self._store = store
        self._processes = processes
        self._check = check
        self._uploaded: dict[str, Stamp] = {}
        self._uploading = threading.Lock()

    def display(self, text: str) -> str:
        """Also another process's folder, which the first one's refusals name."""
        text = text.replace(str(self.folder), self.address)
        folders = rf"\S*/{MARK}\w{{8}}/{re.escape(self.folder.name)}"
        return re.sub(folders, lambda _: self.address, text)

    def fetch(self) -> None:
        """Brings the small files of the run."""
        names = [name for name in self._store.list() if not _is_hidden(name)]
        if CONFIG not in names:
            if any(not name.startswith(f"{PROCESSES}/") for name in names):
                raise CannotWrite(
                    f"{self.address} holds files that are no run (there is no {CONFIG}) and stays "
                    "untouched; choose another address"
                )
            return
        for name in names:
            path = self.folder / name
            if not name.startswith(f"{CHECKPOINTS}/") and self._store.fetch(name, path):
                self._uploaded[name] = _stamp(path)

    def upload(self) -> None:
        """May be called from any thread, while others append to files."""
        with self._uploading:
            self._check()
            if not (self.folder / ADDRESS).exists():  # absent files would be removed there, too
                raise CannotWrite(
                    f"the temporary folder {self.folder} was deleted during the run; set TMPDIR to "
                    f"a folder that nothing cleans, and run again: {self.address} is as it was"
                )
            here = self._survey()
            for name in sorted(here, key=lambda name: (name != CONFIG, name)):
                if self._uploaded.get(name) != here[name]:
                    faults.point("bucket.upload")
                    with contextlib.suppress(FileNotFoundError):
                        self._store.write(name, (self.folder / name).read_bytes())
                        self._uploaded[name] = here[name]
            for name in self._uploaded.keys() - here:
                self._store.remove(name)
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
        if self._processes.is_first:
            return not name.startswith(f"{PROCESSES}/")
        return name.startswith(f"{PROCESSES}/{self._processes.index}/")


@contextlib.contextmanager
def open_for_writing(place: str, processes: Processes = ALONE) -> Iterator[Workdir]:
    """The workdir of a run; in a bucket under its lock, and uploaded however the run ends."""
    if not is_address(place):
        yield Workdir(Path(place))
        return
    store = Store(place)
    lock = HeartbeatLock(store, print)
    owner_id = processes.broadcast("lock acquired", lock.acquire)
    try:
        agreement.refuse_unshared(processes, place, is_visible=read_owner_id(store) == owner_id)
        check = functools.partial(refuse_unless_held, store, owner_id, is_strict=processes.is_first)
        with _open(store, processes, check) as workdir:
            yield workdir
    finally:
        if processes.is_first:
            try:
                lock.release()
            except CannotWrite as failure:
                print(f"warning: {failure}")


@contextlib.contextmanager
def open_for_reading(place: str, processes: Processes = ALONE) -> Iterator[Workdir]:
    """A run without its lock; what is written into its folder is uploaded."""
    if not is_address(place):
        yield Workdir(Path(place))
        return
    with _open(Store(place), processes, lambda: None) as workdir:
        yield workdir


@contextlib.contextmanager
def _open(
    store: Store, processes: Processes, check: Callable[[], None]
) -> Iterator[TemporaryWorkdir]:
    with files.writing(Path(tempfile.gettempdir())):
        home = Path(tempfile.mkdtemp(prefix=MARK))
    workdir = TemporaryWorkdir(store, home / store.address.rpartition("/")[2], processes, check)
    files.write_atomically(workdir.folder / ADDRESS, f"{_name_path(store)}/{CHECKPOINTS}")
    is_uploaded = True
    try:
        workdir.fetch()
        try:
            yield workdir
        except BaseException as error:
            if isinstance(error, Refusal):
                error.args = (workdir.display(str(error)),)
            if failure := _upload_last(workdir):
                is_uploaded = False
                print(f"warning: {failure}")
            raise
        if failure := _upload_last(workdir):
            is_uploaded = False
            raise failure
    finally:
        if is_uploaded:
            shutil.rmtree(home, ignore_errors=True)


def _name_path(store: Store) -> str:
    """The address for Orbax, which takes paths for files on this machine."""
    protocol, _, rest = store.address.partition("://")
    return rest if protocol in LOCAL else store.address


def _upload_last(workdir: TemporaryWorkdir) -> Refusal | None:
    try:
        workdir.upload()
    except Refusal as failure:
        failure.args = (f"{failure}; what was not uploaded lies in {workdir.folder}",)
        return failure
    return None


def _is_hidden(name: str) -> bool:
    """Locks and what is being written; no name of a bucket leads out of the folder, either."""
    return any(part.startswith(".") or not part for part in name.split("/"))


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino
