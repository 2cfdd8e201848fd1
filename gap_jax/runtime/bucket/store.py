"""The files below one address, through fsspec; what fails is tried again, then refused.

Not through etils.epath, which cannot create a file only if there is none: the lock needs that.
"""

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from gap_jax.errors import CannotWrite, ConfigError

PAUSES_S = (1.0, 5.0)  # between three tries
FINAL = (FileNotFoundError, PermissionError)  # another try would say the same
LOCAL = ("file", "local")  # the one kind with folders, which somebody must make

T = TypeVar("T")


def is_address(place: str) -> bool:
    """Whether this is the address of a bucket, and no path."""
    return "://" in place


class Store:
    """Whole files by their names below an address."""

    def __init__(self, address: str) -> None:
        protocol = address.partition("://")[0]
        self.address = address.rstrip("/")
        try:
            self._system, root = _connect(protocol, address)
        except ImportError as error:
            packages = {"gs": "'gap_jax[gcs]'", "gcs": "'gap_jax[gcs]'"}
            named = packages.get(protocol)
            fix = f"pip install {named}" if named else " ".join(str(error).split())
            raise ConfigError(f"{address} needs a package that is not installed: {fix}") from error
        except ValueError as error:
            raise ConfigError(
                f"{address} is of an unknown kind ({error}); use gs://BUCKET/RUN or a path"
            ) from error
        except Exception as error:  # of whatever a bucket's library raises without credentials
            raise CannotWrite(f"cannot open {address}: {_tell(error)}") from error
        self._root = root.rstrip("/")
        if not self._root.strip("/"):
            raise ConfigError(f"{address} names no run; use gs://BUCKET/RUN or a path")

    def list(self) -> list[str]:
        """Every file's name; none where nothing is there."""
        self._system.invalidate_cache()
        found = self._try("read", "", lambda: self._system.find(self._root)) or []
        inside = [path for path in found if path.startswith(f"{self._root}/")]
        return sorted(path.removeprefix(f"{self._root}/") for path in inside if path[-1] != "/")

    def read(self, name: str) -> bytes | None:
        """A file's content, None where there is none."""
        return self._try("read", name, lambda: self._system.cat_file(self._at(name)))

    def fetch(self, name: str, path: Path) -> bool:
        """Copies a file here; False where it has gone."""
        path.parent.mkdir(parents=True, exist_ok=True)

        def get() -> bool:
            self._system.get_file(self._at(name), str(path))
            return True

        return self._try("read", name, get) or False

    def write(self, name: str, content: bytes) -> None:
        """Writes a whole file, or another content of it."""
        self._must("write", name, lambda: self._system.pipe_file(self._at(name), content))

    def send(self, name: str, path: Path) -> None:
        """Copies a file there that nobody changes meanwhile."""
        self._must("write", name, lambda: self._system.put_file(str(path), self._at(name)))

    def create(self, name: str, content: bytes) -> bool:
        """Writes a file that is not there yet, and whether it was this call that did."""

        def create() -> bool:
            try:
                self._system.pipe_file(self._at(name), content, mode="create")
            except Exception:  # not every kind says that it exists by FileExistsError
                if self._system.exists(self._at(name)):
                    return self._system.cat_file(self._at(name)) == content  # an answer got lost
                raise
            return True

        return self._must("write", name, create)

    def remove(self, name: str) -> None:
        """Deletes a file, which may have gone already."""
        self._try("write", name, lambda: self._system.rm_file(self._at(name)))

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _try(self, verb: str, name: str, act: Callable[[], T]) -> T | None:
        """None where the file is not there."""
        try:
            return self._must(verb, name, act)
        except CannotWrite as refusal:
            if isinstance(refusal.__cause__, FileNotFoundError):
                return None
            raise

    def _must(self, verb: str, name: str, act: Callable[[], T]) -> T:
        for pause_s in (*PAUSES_S, None):
            try:
                return act()
            except Exception as error:  # each library of buckets has exceptions of its own
                if pause_s is None or isinstance(error, FINAL):
                    place = f"{self.address}/{name}" if name else self.address
                    raise CannotWrite(f"cannot {verb} {place}: {_tell(error)}") from error
            time.sleep(pause_s)
        raise AssertionError("the last try ends it")


def _connect(protocol: str, address: str) -> tuple[Any, str]:
    options = {"auto_mkdir": True} if protocol in LOCAL else {}
    return fsspec.core.url_to_fs(address, **options)


def _tell(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"{error.strerror}; free some space, or name another place here in TMPDIR"
    text = getattr(error, "strerror", None) or str(error)
    return (
        f"{' '.join(text.split()) or type(error).__name__}; see that the bucket exists and that "
        "you may write to it, then run the same command again"
    )
