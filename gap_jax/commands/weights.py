"""`gap_jax weights …`: files of parameters for `init.weights`, listed and made."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from data_pipelines import files
from gap_jax.commands.arguments import Parser, checkpoint, parse
from gap_jax.errors import CannotWrite, CheckpointError
from gap_jax.explain.artefact import open_model
from gap_jax.runtime import rundir
from gap_jax.runtime.places import RunDir
from gap_jax.weights import native
from gap_jax.weights.convert import convert
from gap_jax.weights.facts import describe_backbone
from gap_jax.weights.formats.read import open_arrays
from gap_jax.weights.sources import PUBLISHED, TERMS

CONVERT = """Writes SRC as a file for init.weights: the backbone of a run, or the network in another
library's file (safetensors, torch.save's, TensorFlow's checkpoints, Keras' HDF5, numpy's
dictionaries), told by its content and names. The file holds parameters and running statistics,
and says what they fit and take for granted; a classifier and a pose branch come along for
init.parts=all."""


def run(words: Sequence[str]) -> None:
    """Runs `gap_jax weights` with the words behind it."""
    parser = Parser(
        prog="gap_jax weights", description="List and make files of weights.", allow_abbrev=False
    )
    parser.set_defaults(takes_config=False)
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser(
        "list", help="weights that come with gap_jax, and where others are", allow_abbrev=False
    )
    listing.set_defaults(command=_list)
    converting = actions.add_parser(
        "convert", help="weights for init.weights", description=CONVERT, allow_abbrev=False
    )
    converting.add_argument("source", metavar="SRC", type=Path, help="a run, or a file of weights")
    converting.add_argument("out", metavar="DST", type=Path, help="a new .safetensors file")
    converting.add_argument(
        "--checkpoint", type=checkpoint, default="latest", metavar="best|latest|STEP",
        help="which step of the run; latest by default",
    )  # fmt: skip
    converting.set_defaults(command=_convert)
    options = parse(parser, words)
    options.command(options)


def _list(options: argparse.Namespace) -> None:
    del options
    for name in native.SHIPPED:
        path = native.shipped_path(name)
        facts = native.read_facts(path)
        print(f"{name}: {facts.backbone}, {path.stat().st_size / 2**20:.2f} MiB, seed {facts.seed}")
        print(f"  made by   {facts.command}")
        print(f"  SHA-256   {native.SHIPPED[name]}")
    print(f"\nto fetch yourself and convert ({TERMS}; addresses as published, not tried here):")
    for each in PUBLISHED:
        print(f"{each.name}\n  {each.address}\n  {each.digest}")


def _convert(options: argparse.Namespace) -> None:
    if options.out.exists():
        raise CannotWrite(f"{options.out} exists already and stays untouched; choose another DST")
    if options.source.is_dir():
        _convert_run(options)
    else:
        _convert_file(options)


def _convert_file(options: argparse.Namespace) -> None:
    command = f"gap_jax weights convert {options.source} {options.out}"
    conversion = convert(open_arrays(options.source), command)
    native.write(options.out, conversion.arrays, conversion.facts)
    print(f"{options.source} holds {conversion}")
    facts = conversion.facts
    of_resnet = f"{facts.strides} strides, max-pool padded {facts.stem_padding}, "
    print(
        f"wrote {options.out}: {of_resnet if facts.strides else ''}eps {facts.norm_eps:g}, "
        f"fed (RGB - {list(facts.input_mean)}) / {list(facts.input_scale)}; "
        f"SHA-256 {files.sha256(options.out)}"
    )


def _convert_run(options: argparse.Namespace) -> None:
    opened = open_model(options.source, checkpoint=options.checkpoint)
    if opened.is_exported:
        raise CheckpointError(f"{options.source} is an exported model, folded; name its run")
    facts = describe_backbone(
        opened.cfg.model,
        command=rundir.first_command(RunDir(options.source)),
        seed=opened.cfg.train.seed,
        fingerprint=opened.origin.fingerprint,
    )
    native.save_backbone(options.out, opened.variables, facts)
    print(
        f"wrote the {facts.backbone} of step {opened.origin.step:,} of {options.source} to "
        f"{options.out}, SHA-256 {files.sha256(options.out)}"
    )
