"""Reads Pascal VOC's XML annotations, which Stanford40 uses too: the boxes of people."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

from data_pipelines.core.errors import DataError
from data_pipelines.core.files import read_bounded
from data_pipelines.example import Box

MAX_BYTES = 2**20
MAX_DEPTH = 16
MAX_POSITION_PX = 2**24
_SIDES = ("xmin", "ymin", "xmax", "ymax")


class Person(NamedTuple):
    """An `object` of an annotation: its box in pixels from 0, and the texts of its elements."""

    box: Box
    texts: Mapping[str, str]


def read_people(path: Path) -> list[Person]:
    """Reads the objects of an annotation in their order; a position in the file counts from 1."""
    try:
        content = read_bounded(path, MAX_BYTES)
    except DataError as error:
        raise DataError(f"cannot read {path} ({error}); get it again") from error
    try:
        return [_person(texts) for texts in _Reader().read(content)]
    except (ValueError, expat.ExpatError) as error:
        raise DataError(f"{path} is no annotation of Pascal VOC's form: {error}") from error


def _person(texts: Mapping[str, str]) -> Person:
    numbers = []
    for side in _SIDES:
        text = texts.get(f"bndbox/{side}", "")
        number = float(text[:40]) if text else float("nan")
        if not abs(number) < MAX_POSITION_PX:
            raise ValueError(f"the {side} of a box is {text[:40]!r}")
        numbers.append(number)
    left, top, right, bottom = map(round, numbers)
    return Person((left - 1, top - 1, right, bottom), texts)


class _Reader:
    """Collects the texts of each `object` by their path below it, without declared entities."""

    def __init__(self) -> None:
        self._path: list[str] = []
        self._text: list[str] = []
        self._objects: list[dict[str, str]] = []
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text.append
        self._parser.StartDoctypeDeclHandler = self._refuse_doctype

    def read(self, content: bytes) -> list[dict[str, str]]:
        self._parser.Parse(content, True)
        return self._objects

    def _start(self, name: str, attributes: Mapping[str, str]) -> None:
        del attributes
        self._path.append(name)
        self._text.clear()
        if len(self._path) > MAX_DEPTH:
            raise ValueError(f"its elements are more than {MAX_DEPTH} deep")
        if self._path[1:] == ["object"]:
            self._objects.append({})

    def _end(self, name: str) -> None:
        del name
        if len(self._path) > 2 and self._path[1] == "object" and self._objects:
            self._objects[-1].setdefault("/".join(self._path[2:]), "".join(self._text).strip())
        self._path.pop()
        self._text.clear()

    def _refuse_doctype(self, *declared: object) -> None:
        del declared
        raise ValueError("it declares a document type, which could define entities")
