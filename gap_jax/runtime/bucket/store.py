"""Reads and writes files below an address by fsspec: etils.epath cannot create a lock."""

import errno
import time
from collections.abc import Callable
from typing import TypeVar

import fsspec

from data_pipelines.core.errors import CannotWrite, ConfigError

PAUSES_S = (1.0, 5.0)  # between the tries
FINAL = (FileNotFoundError, PermissionError)  # another try would fail, too
LOCAL = ("file", "local")  # the only kind of address whose folders must be created

T = TypeVar("T")


def is_address(text: str) -> bool:
    """Whether the text is the address of a bucket and not a path."""
    return "://" in text


class Store:
    """Whole files by name below an address."""

    def __init__(self, address: str) -> None:
        protocol = address.partition("://")[0]
        options = {"auto_mkdir": True} if protocol in LOCAL else {}
        self.address = address.rstrip("/")
        try:
            self._system, root = fsspec.core.url_to_fs(address, **options)
        except ImportError as error:
            known = protocol in ("gs", "gcs")
            fix = "pip install 'gap_jax[gcs]'" if known else " ".join(str(error).split())
            raise ConfigError(f"{address} needs a package that is not installed: {fix}") from error
        except ValueError as error:
            raise ConfigError(
                f"{address} has an unknown protocol ({error}); use gs://BUCKET/RUN or a path"
            ) from error
        except Exception as error:  # without credentials each library raises its own
            raise CannotWrite(f"cannot open {address}: {_describe(error)}") from error
        self._root = root.rstrip("/")
        if not self._root.strip("/"):
            raise ConfigError(f"{address} names no run; use gs://BUCKET/RUN or a path")

    def list(self) -> list[str]:
        """Lists the names of all files, none if nothing is there."""
        self._system.invalidate_cache()
        found = self._try("read", "", lambda: self._system.find(self._root), or_none=True) or []
        inside = [path for path in found if path.startswith(f"{self._root}/")]
        return sorted(path.removeprefix(f"{self._root}/") for path in inside if path[-1] != "/")

    def read(self, name: str) -> bytes | None:
        """Reads a file; returns None if it does not exist."""
        return self._try("read", name, lambda: self._system.cat_file(self._at(name)), or_none=True)

    def write(self, name: str, content: bytes) -> None:
        """Writes or replaces a file."""
        self._try("write", name, lambda: self._system.pipe_file(self._at(name), content))

    def create(self, name: str, content: bytes) -> bool:
        """Writes a file unless it exists; returns whether this call wrote it."""

        def create() -> bool:
            try:
                self._system.pipe_file(self._at(name), content, mode="create")
            except Exception:  # not every library raises FileExistsError
                if self._system.exists(self._at(name)):
                    # equal if an earlier try wrote it and its answer was lost
                    return self._system.cat_file(self._at(name)) == content
                raise
            return True

        return bool(self._try("write", name, create))

    def remove(self, name: str) -> None:
        """Deletes a file if it exists."""
        self._try("write", name, lambda: self._system.rm_file(self._at(name)), or_none=True)

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _try(
        self, verb: str, name: str, act: Callable[[], T], *, or_none: bool = False
    ) -> T | None:
        """Tries three times; with `or_none`, returns None if the file does not exist."""
        pauses_s = list(PAUSES_S)
        while True:
            try:
                return act()
            except Exception as error:  # each library of buckets has exceptions of its own
                if or_none and isinstance(error, FileNotFoundError):
                    return None
                if not pauses_s or isinstance(error, FINAL):
                    path = f"{self.address}/{name}".rstrip("/")
                    raise CannotWrite(f"cannot {verb} {path}: {_describe(error)}") from error
            time.sleep(pauses_s.pop(0))


def _describe(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"{error.strerror}; free some space, or set TMPDIR to another folder"
    text = getattr(error, "strerror", None) or str(error)
    return (
        f"{' '.join(text.split()) or type(error).__name__}; see that the bucket exists and that "
        "you may write to it, then run the same command again"
    )
