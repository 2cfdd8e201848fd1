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


class Unwelcome(ValueError):
    """What a pickle asks for and may not have."""


def scan(content: bytes) -> int:
    """The length of the first pickle in `content`, in which nothing is unwelcome."""
    stream, sizes = io.BytesIO(content), _Sizes()
    for opcode, argument, position in pickletools.genops(stream):
        if opcode.name not in OPCODES:
            raise Unwelcome(f"the pickle opcode {opcode.name}")
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(content):
            raise Unwelcome(f"the memo {argument}")
        if opcode.name == "STOP":
            return (position or 0) + 1
        sizes.follow(opcode, argument)
    raise Unwelcome("a pickle without an end")


class _Sizes:
    """How many values each tuple on the pickle's stack holds, those of tuples in it included.

    A tuple that holds another one twice, and so on, is short to write and takes ages to hash.
    """

    def __init__(self) -> None:
        self._stack: list[int] = []
        self._memo: dict[int, int] = {}

    def follow(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Does to the sizes what the opcode does to the values."""
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
                raise Unwelcome(f"a tuple of more than {MOST_IN_TUPLE} values")
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
