"""Arguments that the data sets of `gap_jax data prepare` share, and the call that prepares one."""

import argparse
import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from data_pipelines import prepare
from data_pipelines.core import files
from data_pipelines.example import RawData
from gap_jax.commands.arguments import natural

Read = Callable[[argparse.Namespace, Path], RawData]


def add_max_width(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-width",
        type=natural,
        default=0,
        metavar="PX",
        help="shrink and encode wider images again; 0 (default) keeps the original bytes",
    )


def add_output_options(
    parser: argparse.ArgumentParser, *, folder: str = "", **defaults: object
) -> None:
    """Adds --out, whose default is data/NAME or the given folder, and the options beside it."""
    out = Path(folder or f"data/{parser.prog.rpartition(' ')[2]}")
    parser.add_argument(
        "--out", type=Path, default=out, metavar="DIR", help=f"folder of the records; {out}"
    )
    parser.add_argument(
        "--max-rejects",
        type=natural,
        default=0,
        metavar="N",
        help="number of unusable images to leave out and list in rejects.csv; more end in 65 "
        "(default 0; a tenth of one's own photographs)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a prepared data set")
    parser.set_defaults(**defaults)


def prepare_data(options: argparse.Namespace) -> None:
    prepare.build(
        options.out,
        functools.partial(options.read, options),
        max_rejects=options.max_rejects,
        max_width_px=options.max_width,
        overwrite=options.overwrite,
    )


def prepare_unpacked(options: argparse.Namespace, *, is_resumed: bool = True) -> None:
    """Prepares with a temporary folder, for the files of an archive, as `read`'s first argument.

    A command that is killed leaves the folder to the next one, which compares the files if
    `is_resumed` and else removes them.
    """
    with files.writing(options.out):
        out = Path(os.path.realpath(options.out))
    spool = out.with_name(f".{out.name}.unpacked")
    with files.locked(spool):
        try:
            if not is_resumed:
                shutil.rmtree(spool, ignore_errors=True)
            options.read = functools.partial(options.read, spool)
            prepare_data(options)
        finally:
            shutil.rmtree(spool, ignore_errors=True)
