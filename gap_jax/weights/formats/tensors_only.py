"""Loads pickles that hold only tensors; no global of a pickle is ever imported.

A pickle is scanned before it is loaded. The scan refuses opcodes that a state dict does not need
and numbers that would reserve memory; loading refuses globals that are not allowed.
"""

import io
import pickle
import pickletools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

LARGEST = 64 * 2**20  # bytes of a pickle: names and shapes, the values are elsewhere
MOST_IN_TUPLE = 2**16
MARK = -1  # among the sizes
PUTS = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
OPCODES = {
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "NONE", "NEWTRUE", "NEWFALSE",
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT",
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "EMPTY_LIST", "APPEND", "APPENDS",
    "LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "DICT", "SETITEM",
    "SETITEMS", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "BINPERSID", "PUT", "BINPUT",
    "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET", "MEMOIZE",
}  # fmt: skip


class ForbiddenError(ValueError):
    """Content that is not allowed in a file of weights."""


def _scan(content: bytes) -> int:
    """Checks the first pickle in `content` and returns its length.

    It counts the values of each tuple on the pickle's stack, nested tuples included: a tuple that
    holds another one twice, and so on, is a few bytes long and takes hours to hash.
    """
    sizes: list[int] = []  # of the values on the stack
    memo: dict[int, int] = {}
    for opcode, argument, position in pickletools.genops(content):
        name = opcode.name
        if name not in OPCODES:
            raise ForbiddenError(f"the pickle opcode {name}")
        if name == "STOP":
            return (position or 0) + 1
        if name == "MARK":
            sizes.append(MARK)
        elif name in PUTS:
            slot = len(memo) if argument is None else int(argument)
            if slot > len(content):
                raise ForbiddenError(f"the memo {argument}")
            memo[slot] = sizes[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            sizes.append(memo.get(int(argument or 0), 1))
        elif name == "DUP":
            sizes.append(sizes[-1])
        else:
            taken = _take(sizes, opcode.stack_before)
            size = 1 + sum(taken) if "TUPLE" in name else 1
            if size > MOST_IN_TUPLE:
                raise ForbiddenError(f"a tuple of more than {MOST_IN_TUPLE} values")
            sizes.extend([size] * len(opcode.stack_after))
    raise ForbiddenError("a pickle without an end")


def _take(sizes: list[int], kinds: Sequence[pickletools.StackObject]) -> list[int]:
    taken: list[int] = []
    for kind in reversed(kinds):
        if kind.name == "stackslice":
            while sizes[-1] != MARK:
                taken.append(sizes.pop())
        else:
            taken.append(max(sizes.pop(), 0))
    return taken


def load(
    stream: io.BytesIO,
    allowed: Mapping[str, Any],
    storage: Callable[[Any], Any] | None = None,
    encoding: str = "ASCII",
    longest: int = LARGEST,
) -> Any:
    """Loads the stream's next pickle; `allowed` has globals by "module.name".

    `storage` resolves persistent ids, torch's references to data outside the pickle.
    """
    start = stream.tell()
    content = stream.read(longest)
    size = _scan(content)
    stream.seek(start + size)
    unpickler = _Unpickler(io.BytesIO(content[:size]), encoding=encoding)
    unpickler.allowed, unpickler.storage = allowed, storage
    return unpickler.load()


class _Unpickler(pickle.Unpickler):
    allowed: Mapping[str, Any]
    storage: Callable[[Any], Any] | None

    def find_class(self, module: str, name: str) -> Any:
        """Returns an allowed global."""
        if f"{module}.{name}" not in self.allowed:
            raise ForbiddenError(f"{module}.{name}")
        return self.allowed[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> Any:
        """Resolves a reference to data outside the pickle."""
        if self.storage is None:
            raise ForbiddenError("a storage")
        return self.storage(pid)
