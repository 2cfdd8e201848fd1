"""Where a run is worked on: its own folder, or a temporary one that mirrors a bucket.

The bucket is the truth: a start brings all of it and keeps nothing that was here. What a step needs
comes before it: the rows of its numbers and its arrays are copied before its facts, without which
nothing takes it for a checkpoint.
"""

import contextlib
import functools
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

from data_pipelines import faults, files
from gap_jax.errors import CannotWrite, Refusal
from gap_jax.runtime.bucket.lease import Lease, read_token, refuse_unless_held
from gap_jax.runtime.bucket.store import Store, is_address
from gap_jax.runtime.gang import agreement
from gap_jax.runtime.gang.members import ALONE, Gang

FACTS = "metadata/metadata"

MARK = "gap_jax-bucket-"
CONFIG, CHECKPOINTS, PROCESSES = "config.json", "checkpoints", "processes"

ARRAYS, LAST = 2, 3  # ranks

Stamp = tuple[int, int, int]


class Workdir:
    """A plain folder, which needs nothing of all this."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = ""

    def tell(self, text: str) -> str:
        """The text as it helps a user: with the address, not the folder that mirrors it."""
        return text

    def push(self) -> None:
        """Copies to the bucket what has changed."""


class Mirror(Workdir):
    """A folder that holds what a bucket does; process N of several answers for processes/N."""

    def __init__(self, store: Store, folder: Path, gang: Gang, check: Callable[[], None]) -> None:
        super().__init__(folder)
        self.address = store.address
        self._store = store
        self._gang = gang
        self._check = check
        self._known: dict[str, Stamp] = {}  # what the bucket has from this folder, or it from there
        self._pushing = threading.Lock()

    def tell(self, text: str) -> str:
        """Another process's folder is named by its first one's refusals."""
        text = text.replace(str(self.folder), self.address)
        folders = rf"\S*/{MARK}\w{{8}}/{re.escape(self.folder.name)}"
        return re.sub(folders, lambda _: self.address, text)

    def pull(self) -> list[str]:
        """Brings everything but steps that were not copied whole, whose names it gives."""
        names = [name for name in self._store.list() if not _is_hidden(name)]
        if CONFIG not in names:
            if any(not name.startswith(f"{PROCESSES}/") for name in names):
                raise CannotWrite(
                    f"{self.address} holds files that are no run (there is no {CONFIG}) and stays "
                    "untouched; choose another address"
                )
            return names
        partial = [name for name in names if _is_partial(name, names)]
        for name in sorted(set(names).difference(partial), key=_rank):
            if self._store.fetch(name, self.folder / name):
                self._known[name] = _stamp(self.folder / name)
        return partial

    def discard(self, names: Iterable[str]) -> None:
        """Deletes what an attempt left that was killed while it copied."""
        for name in names:
            self._store.remove(name)

    def push(self) -> None:
        """May be called from any thread, while others append to files."""
        with self._pushing:
            self._check()
            here = self._survey()
            anew = {_facts_of(name) for name in self._changed(here) if _rank(name)[0] == ARRAYS}
            for name in anew & self._known.keys():  # facts of other arrays under the same name
                self._remove(name)
            for name in sorted(self._changed(here), key=_rank):
                faults.point("bucket.facts" if _rank(name)[0] == LAST else "bucket.send")
                self._send(name, here[name])
            gone = [name for name in self._known if name not in here]
            for name in sorted(gone, key=_rank, reverse=True):
                self._remove(name)

    def _changed(self, here: Mapping[str, Stamp]) -> list[str]:
        return [name for name, stamp in here.items() if self._known.get(name) != stamp]

    def _survey(self) -> dict[str, Stamp]:
        found: dict[str, Stamp] = {}
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder).as_posix()
            if self._answers_for(name) and not _is_hidden(name):
                with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
                    if path.is_file():
                        found[name] = _stamp(path)
        return found

    def _answers_for(self, name: str) -> bool:
        if self._gang.is_first:
            return not name.startswith(f"{PROCESSES}/")
        return name.startswith(f"{PROCESSES}/{self._gang.index}/")

    def _send(self, name: str, stamp: Stamp) -> None:
        path = self.folder / name
        with contextlib.suppress(FileNotFoundError):
            if name.startswith(f"{CHECKPOINTS}/"):
                self._store.send(name, path)
            else:
                self._store.write(name, path.read_bytes())  # as it is now, for it may grow
            self._known[name] = stamp

    def _remove(self, name: str) -> None:
        self._store.remove(name)
        del self._known[name]


@contextlib.contextmanager
def taken(place: str, gang: Gang = ALONE) -> Iterator[Workdir]:
    """The workdir of a run, of a bucket under its lock and copied there at every end."""
    if not is_address(place):
        yield Workdir(Path(place))
        return
    store = Store(place)
    lease = Lease(store, print)
    token = gang.share("taken", lease.take)
    try:
        agreement.refuse_unshared(gang, place, is_seen=read_token(store) == token)
        check = functools.partial(refuse_unless_held, store, token, is_strict=gang.is_first)
        with _mirrored(store, gang, check) as (mirror, partial):
            if gang.is_first:
                mirror.discard(partial)
            yield mirror
    finally:
        if gang.is_first:
            try:
                lease.release()
            except CannotWrite as failure:
                print(f"warning: {failure}")


@contextlib.contextmanager
def borrowed(place: str, gang: Gang = ALONE) -> Iterator[Workdir]:
    """A run to be looked at, without its lock; what is written into its folder is kept."""
    if not is_address(place):
        yield Workdir(Path(place))
        return
    with _mirrored(Store(place), gang, lambda: None) as (mirror, _):
        yield mirror


@contextlib.contextmanager
def _mirrored(
    store: Store, gang: Gang, check: Callable[[], None]
) -> Iterator[tuple[Mirror, list[str]]]:
    with files.writing(Path(tempfile.gettempdir())):
        home = Path(tempfile.mkdtemp(prefix=MARK))
    mirror = Mirror(store, home / store.address.rpartition("/")[2], gang, check)
    is_copied = True
    try:
        partial = mirror.pull()
        try:
            yield mirror, partial
        except BaseException as error:
            if isinstance(error, Refusal):
                error.args = (mirror.tell(str(error)),)
            if failure := _push_last(mirror):
                is_copied = False
                print(f"warning: {failure}")
            raise
        if failure := _push_last(mirror):
            is_copied = False
            raise failure
    finally:
        if is_copied:
            shutil.rmtree(home, ignore_errors=True)


def _push_last(mirror: Mirror) -> Refusal | None:
    try:
        mirror.push()
    except Refusal as failure:
        failure.args = (f"{failure}; what was not copied lies in {mirror.folder}",)
        return failure
    return None


def _is_hidden(name: str) -> bool:
    """Locks and what is being written; no name of a bucket leads out of the folder, either."""
    return any(part.startswith(".") or not part for part in name.split("/"))


def _facts_of(name: str) -> str:
    """Where the facts of the step are that a file belongs to."""
    return "/".join([*name.split("/")[:2], FACTS])


def _is_partial(name: str, names: Collection[str]) -> bool:
    """Whether the file is of a step without facts, as a killed copy leaves it."""
    parts = name.split("/")
    return (
        name.startswith(f"{CHECKPOINTS}/") and parts[1].isdecimal() and _facts_of(name) not in names
    )


def _rank(name: str) -> tuple[int, str]:
    """What has to be there first: the config makes a run, and a step's facts make a checkpoint."""
    is_step = name.startswith(f"{CHECKPOINTS}/")
    if is_step:
        return (LAST if name == _facts_of(name) else ARRAYS), name
    return int(name != CONFIG), name


def _stamp(path: Path) -> Stamp:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns, facts.st_ino
