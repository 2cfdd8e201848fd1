"""Loads pickles that hold only tensors; no global of a pickle is ever imported.

A pickle is scanned before it is loaded. The scan refuses opcodes that a state dict does not need
and numbers that would reserve memory; loading refuses globals that are not allowed.
"""

import io
import pickle
import pickletools
from collections.abc import Callable, Mapping
from typing import Any

LARGEST = 64 * 2**20  # bytes of a pickle: names and shapes, the values are elsewhere
MOST_IN_TUPLE = 2**16
MARK = -1  # among the sizes
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


def scan(content: bytes) -> int:
    """Checks the first pickle in `content` and returns its length."""
    stream, sizes = io.BytesIO(content), _Sizes()
    for opcode, argument, position in pickletools.genops(stream):
        if opcode.name not in OPCODES:
            raise ForbiddenError(f"the pickle opcode {opcode.name}")
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(content):
            raise ForbiddenError(f"the memo {argument}")
        if opcode.name == "STOP":
            return (position or 0) + 1
        sizes.follow(opcode, argument)
    raise ForbiddenError("a pickle without an end")


class _Sizes:
    """Counts the values of each tuple on the pickle's stack, nested tuples included.

    A tuple that holds another one twice, and so on, is a few bytes long and takes hours to hash.
    """

    def __init__(self) -> None:
        self._stack: list[int] = []
        self._memo: dict[int, int] = {}

    def follow(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Updates the sizes as the opcode updates the stack."""
        name, before, after = opcode.name, opcode.stack_before, opcode.stack_after
        if name == "MARK":
            self._stack.append(MARK)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if argument is None else int(argument)] = self._stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self._stack.append(self._memo.get(int(argument), 1))
        elif name == "DUP":
            self._stack.append(self._stack[-1])
        else:
            taken = self._take([each.name for each in before])
            size = 1 + sum(taken) if "TUPLE" in name else 1
            if size > MOST_IN_TUPLE:
                raise ForbiddenError(f"a tuple of more than {MOST_IN_TUPLE} values")
            self._stack.extend([size] * len(after))

    def _take(self, kinds: list[str]) -> list[int]:
        taken: list[int] = []
        for kind in reversed(kinds):
            if kind == "stackslice":
                while self._stack[-1] != MARK:
                    taken.append(self._stack.pop())
            else:
                taken.append(max(self._stack.pop(), 0))
        return taken


def load(
    content: bytes,
    allowed: Mapping[str, Any],
    storage: Callable[[Any], Any] | None = None,
    encoding: str = "ASCII",
    longest: int = LARGEST,
) -> tuple[Any, int]:
    """Loads the first pickle and returns its length too; `allowed` has globals by "module.name".

    `storage` resolves persistent ids, torch's references to data outside the pickle.
    """
    size = scan(content[:longest])
    unpickler = _Unpickler(io.BytesIO(content[:size]), encoding=encoding)
    unpickler.allowed, unpickler.storage = allowed, storage
    return unpickler.load(), size


class _Unpickler(pickle.Unpickler):
    allowed: Mapping[str, Any]
    storage: Callable[[Any], Any] | None

    def find_class(self, module: str, name: str) -> Any:
        """Returns an allowed global."""
        try:
            return self.allowed[f"{module}.{name}"]
        except KeyError:
            raise ForbiddenError(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        """Resolves a reference to data outside the pickle."""
        if self.storage is None:
            raise ForbiddenError("a storage")
        return self.storage(pid)
