"""Pickles that may hold tensors and nothing else: nothing that they name is ever imported.

A pickle is scanned before it is read: opcodes other than those of a state dict, globals other than
the few below, and numbers that would reserve memory are refused while nothing has run.
"""

import io
import pickle
import pickletools
from collections.abc import Callable, Mapping
from typing import Any

LARGEST = 64 * 2**20  # bytes of a pickle: names and shapes, the values lie elsewhere
OPCODES = {
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "NONE", "NEWTRUE", "NEWFALSE",
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT",
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "EMPTY_LIST", "APPEND", "APPENDS",
    "LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "DICT", "SETITEM",
    "SETITEMS", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "BINPERSID", "PUT", "BINPUT",
    "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET", "MEMOIZE",
}  # fmt: skip


class Unwelcome(ValueError):
    """What a pickle asks for and may not have."""


def scan(content: bytes) -> int:
    """The length of the first pickle in `content`, in which nothing is unwelcome."""
    stream = io.BytesIO(content)
    for opcode, argument, position in pickletools.genops(stream):
        if opcode.name not in OPCODES:
            raise Unwelcome(f"the pickle opcode {opcode.name}")
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(content):
            raise Unwelcome(f"the memo {argument}")
        if opcode.name == "STOP":
            return (position or 0) + 1
    raise Unwelcome("a pickle without an end")


def load(
    content: bytes,
    allowed: Mapping[str, Any],
    storage: Callable[[Any], Any] | None = None,
    encoding: str = "ASCII",
    longest: int = LARGEST,
) -> tuple[Any, int]:
    """What the first pickle holds, and its length; `allowed` gives the globals by "module.name".

    `storage` answers the persistent ids, with which torch names what lies outside the pickle.
    """
    size = scan(content[:longest])
    return _Tensors(content[:size], allowed, storage, encoding).load(), size


class _Tensors(pickle.Unpickler):
    def __init__(
        self,
        content: bytes,
        allowed: Mapping[str, Any],
        storage: Callable[[Any], Any] | None,
        encoding: str,
    ) -> None:
        super().__init__(io.BytesIO(content), encoding=encoding)
        self.allowed = allowed
        self.storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """One of the allowed, by its name alone."""
        try:
            return self.allowed[f"{module}.{name}"]
        except KeyError:
            raise Unwelcome(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        """What lies outside the pickle."""
        if self.storage is None:
            raise Unwelcome("a storage")
        return self.storage(pid)
