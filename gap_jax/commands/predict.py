"""`gap_jax predict PATH... --model RUN`: classes, probabilities and attention of images."""

import argparse
import contextlib
import dataclasses
import itertools
import math
import re
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data_pipelines.core import files
from data_pipelines.core.errors import CannotWrite, DataError, name_some
from data_pipelines.core.parallel import map_ahead
from gap_jax.commands.arguments import (
    Parser,
    checkpoint,
    local_path,
    parse,
    path_ending,
    positive,
)
from gap_jax.prediction import rows as table
from gap_jax.prediction.answer import Answer, find_class
from gap_jax.prediction.people import find_people
from gap_jax.prediction.predictor import Predictor, load
from gap_jax.prediction.rows import Row
from gap_jax.prediction.sources import Refused, find_sources

DESCRIPTION = """Prints the most probable classes of each image, and with --overlay draws where the
model looks. Images are JPEG, PNG, WebP, BMP or GIF (first frame); other inputs are answered and the
exit code is 65 if one of them cannot be read."""
SUFFIX = "-attention.png"
LONGEST_STEM = 100
DRAWN_AHEAD = 4  # overlays that wait in memory
PROGRESS_EVERY_S = 0.5


def run(words: Sequence[str]) -> None:
    """Runs `gap_jax predict` with its arguments."""
    parser = Parser(prog="gap_jax predict", description=DESCRIPTION)
    parser.add_argument(
        "paths", metavar="PATH", nargs="+",
        help="images, folders with their subfolders, quoted globs, videos, - for a list of paths "
        "on stdin, or 0 for a photograph from the first camera",
    )  # fmt: skip
    parser.add_argument(
        "--model", required=True, metavar="MODEL",
        help="a run or an exported model, by its folder or its address in a bucket, or the name of "
        "a published classifier",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint", type=checkpoint, default="best", metavar="best|latest|STEP",
        help="which step of a run; best (default) has the highest mAP, then accuracy",
    )  # fmt: skip
    parser.add_argument("--top", type=positive, default=5, metavar="K", help="classes; default: 5")
    parser.add_argument(
        "--class", dest="named", metavar="NAME",
        help="class whose maps are drawn; default: the most probable one of each image",
    )  # fmt: skip
    parser.add_argument(
        "--json",
        type=path_ending(".json"),
        metavar="FILE.json",
        help="write the answers, replacing it",
    )
    parser.add_argument(
        "--csv", type=path_ending(".csv"), metavar="FILE.csv", help="write a table, replacing it"
    )
    parser.add_argument(
        "--overlay", type=local_path, metavar="DIR",
        help=f"write a picture NAME{SUFFIX} of the maps and joints of each image",
    )  # fmt: skip
    parser.add_argument(
        "--people", type=Path, metavar="FILE.json",
        help="answer for each person in this file of boxes or joints in COCO's form, such as "
        "`gap_jax data joints` writes; the model must read boxes",
    )  # fmt: skip
    parser.add_argument(
        "--every", type=_seconds, default=1.0, metavar="SECONDS",
        help="time between the frames of a video; default: 1",
    )  # fmt: skip
    options = parse(parser, words)
    with contextlib.ExitStack() as held:  # refuses what cannot be written before the work
        for path in filter(None, (options.json, options.csv)):
            held.enter_context(files.locked(path))
            if path.is_dir():
                raise CannotWrite(f"{path} is a folder; name a file")
        if options.overlay:
            held.enter_context(files.locked(options.overlay / "predict"))
        _predict(options, load(options.model, checkpoint=options.checkpoint))


def _seconds(text: str) -> float:
    """Parses a time above 0."""
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} must be above 0")
    return seconds


def _predict(options: argparse.Namespace, model: Predictor) -> None:
    if options.named is not None:
        find_class(options.named, model.classes)
    if model.note:
        print(f"note: {model.note}")
    left_out: list[str] = []
    listed = sys.stdin.buffer if "-" in options.paths and sys.stdin else ()
    sources = find_sources(
        options.paths, listed=listed, every_s=options.every, left_out=left_out.append
    )
    if options.people:
        model.check_reads_boxes()
        sources = find_people(sources, options.people)
    count = min(options.top, len(model.classes))
    found: list[Row] = []
    width = 0
    for row in _show_progress(_describe_all(model.predict_each(sources), options, count)):
        found.append(row)
        name = files.escape_control(row.shown_name)
        width = max(width, min(len(name), LONGEST_STEM))
        print(f"{name:<{width}}  {files.escape_control(str(row))}")
    if options.json:
        files.write_atomically(options.json, table.to_json(found, model.opened))
    if options.csv:
        files.write_atomically(options.csv, table.to_csv(found, count))
    if left_out:
        named = name_some([files.quote(path) for path in left_out])
        print(f"left out, by their names no images: {named}")
    refused = [row for row in found if row.error]
    if refused:
        first = refused[0]
        raise DataError(
            f"no answer for {len(refused):,} of {len(found):,} inputs; the first is "
            f"{files.quote(first.name)}: {first.error}"
        )


def _describe_all(
    answers: Iterable[Answer | Refused], options: argparse.Namespace, count: int
) -> Iterator[Row]:
    """Describes the answers; with --overlay draws them in threads."""
    if options.overlay is None:
        yield from (table.describe(answer, count) for answer in answers)
        return
    taken: set[str] = set()

    def name_all() -> Iterator[tuple[Answer | Refused, Path]]:
        for answer in answers:
            if isinstance(answer, Answer):
                answer.maps(options.named)  # here, as threads would compile it several times
            yield answer, options.overlay / name_picture(answer.name, taken, answer.person)

    def draw(named: tuple[Answer | Refused, Path]) -> Row:
        answer, path = named
        row = table.describe(answer, count)
        if isinstance(answer, Refused) or row.error:
            return row
        try:
            answer.save(path, options.named)
        except DataError as refusal:  # the file was removed since
            return Row(answer.name, error=str(refusal), person=answer.person)
        return dataclasses.replace(row, overlay=path.name)

    yield from map_ahead(draw, name_all(), DRAWN_AHEAD)


def name_picture(name: str, taken: set[str], person: int | None = None) -> str:
    """Returns a safe file name for the picture of an image, and adds it to `taken`.

    Names differ even where a file system ignores case.
    """
    stem = re.sub(r"[^\w.-]+", "_", Path(name).with_suffix("").as_posix()).strip("._-")
    stem = unicodedata.normalize("NFC", stem)[-LONGEST_STEM:] or "image"
    stem += f"-person-{person}" if person else ""
    for number in itertools.count(1):
        picture = f"{stem}{f'-{number}' if number > 1 else ''}{SUFFIX}"
        if picture.casefold() not in taken:
            taken.add(picture.casefold())
            return picture
    raise AssertionError("numbers do not end")


def _show_progress(found: Iterable[Row]) -> Iterator[Row]:
    """Counts the images on a terminal whose standard output goes elsewhere."""
    shown_at, is_shown = time.monotonic(), sys.stderr.isatty() and not sys.stdout.isatty()
    for number, row in enumerate(found, 1):
        if is_shown and time.monotonic() > shown_at + PROGRESS_EVERY_S:
            shown_at = time.monotonic()
            print(f"\r{number:,} images", end="", file=sys.stderr, flush=True)
        yield row
    if is_shown:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
