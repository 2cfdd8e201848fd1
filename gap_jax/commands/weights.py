"""`gap_jax weights …`: files of parameters for `init.weights`, listed and made."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from data_pipelines import files
from gap_jax.commands.arguments import Parser, checkpoint, parse
from gap_jax.errors import CannotWrite, CheckpointError, ConfigError
from gap_jax.explain.artefact import open_model
from gap_jax.runtime import rundir
from gap_jax.runtime.places import RunDir
from gap_jax.weights import download, native
from gap_jax.weights.convert import convert
from gap_jax.weights.formats.read import open_arrays
from gap_jax.weights.metadata import describe_backbone
from gap_jax.weights.sources import PUBLISHED, TERMS

CONVERT = """Writes SRC as a file for init.weights: the backbone of a run, or the network in another
library's file (safetensors, torch.save's, TensorFlow's checkpoints, Keras' HDF5, numpy's
dictionaries), told by its content and names. The file holds parameters and running statistics,
and says what they fit and take for granted; a classifier and a pose branch come along for
init.parts=all. An https address, or a name of `gap_jax weights list`, is fetched to the folder of
DST against its SHA-256; where that breaks off, the same command goes on."""


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
    converting.add_argument(
        "source", metavar="SRC", help="a run, a file of weights, or its address or name"
    )
    converting.add_argument("out", metavar="DST", type=Path, help="a new .safetensors file")
    converting.add_argument(
        "--checkpoint", type=checkpoint, metavar="best|latest|STEP",
        help="which step of the run; latest by default",
    )  # fmt: skip
    converting.add_argument(
        "--sha256", type=_digest, metavar="HEX",
        help="what the SHA-256 of the file (or of a bundle's .index with its data files behind it) "
        "has to be; an address needs it",
    )  # fmt: skip
    converting.set_defaults(command=_convert)
    options = parse(parser, words)
    options.command(options)


def _list(options: argparse.Namespace) -> None:
    del options
    for name in native.SHIPPED:
        path = native.shipped_path(name)
        facts = native.read_metadata(path)
        print(f"{name}: {facts.backbone}, {path.stat().st_size / 2**20:.2f} MiB, seed {facts.seed}")
        print(f"  made by   {facts.command}")
        print(f"  SHA-256   {native.SHIPPED[name]}")
    print(f"\nto be fetched and converted ({TERMS}; addresses as published, not tried here):")
    for each in PUBLISHED:
        print(f"{each.name}: {each.holds}\n  {each.address}")
        print(f"  SHA-256   {each.sha256 or each.known}")
        if download.is_archive(each.address):
            print("  an archive; fetch and unpack it yourself")


def _digest(text: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no SHA-256, which has 64 digits of 0-9 a-f")
    return text.lower()


def _convert(options: argparse.Namespace) -> None:
    with files.locked(options.out):
        _convert_alone(options)


def _convert_alone(options: argparse.Namespace) -> None:
    if options.out.exists():
        raise CannotWrite(f"{options.out} exists already and stays untouched; choose another DST")
    source = Path(options.source)
    with files.reading(source, CheckpointError):
        is_run = source.is_dir()
    if is_run and options.sha256:
        raise ConfigError(f"--sha256 is a file's and {source} is a run; leave it out")
    if not is_run and options.checkpoint is not None:
        raise ConfigError(f"--checkpoint is a run's and {options.source} is none; leave it out")
    if is_run:
        _convert_run(source, options)
    else:
        _convert_file(options)


def _convert_file(options: argparse.Namespace) -> None:
    source = _locate(options)
    file = open_arrays(source)
    if options.sha256 not in (None, file.sha256):
        raise CheckpointError(
            f"{source} has SHA-256 {file.sha256} and not {options.sha256}; get it again"
        )
    told = download.without_query(options.source)
    conversion = convert(file, f"gap_jax weights convert {told} {options.out}")
    native.write(options.out, conversion.arrays, conversion.metadata)
    print(f"{source} holds {conversion}")
    facts = conversion.metadata
    of_resnet = f"{facts.strides} strides, max-pool padded {facts.stem_padding}, "
    print(
        f"wrote {options.out}: {of_resnet if facts.strides else ''}eps {facts.norm_eps:g}, "
        f"fed (RGB - {list(facts.input_mean)}) / {list(facts.input_scale)}; "
        f"SHA-256 {files.sha256(options.out)}"
    )


def _locate(options: argparse.Namespace) -> Path:
    """The file that SRC names, fetched where it is an address or the name of one."""
    published = {each.name: each for each in PUBLISHED}.get(options.source)
    if "://" not in options.source and (published is None or Path(options.source).exists()):
        return Path(options.source)
    address = published.address if published else options.source
    name = download.name_file(address)
    digest = options.sha256 or (published.sha256 if published else "")
    if not digest:
        known = f" (known: {published.known})" if published else ""
        raise ConfigError(
            f"{name} is fetched against the whole of its SHA-256 alone{known}; add --sha256=HEX"
        )
    path = download.fetch(address, digest, options.out.parent)
    print(f"{path} has SHA-256 {digest} and came from {download.without_query(address)}")
    return path


def _convert_run(source: Path, options: argparse.Namespace) -> None:
    step = "latest" if options.checkpoint is None else options.checkpoint
    opened = open_model(source, checkpoint=step)
    if opened.is_exported:
        raise CheckpointError(f"{source} is an exported model, folded; name its run")
    facts = describe_backbone(
        opened.cfg.model,
        command=rundir.first_command(RunDir(source)),
        seed=opened.cfg.train.seed,
        fingerprint=opened.origin.fingerprint,
    )
    native.save_backbone(options.out, opened.variables, facts)
    print(
        f"wrote the {facts.backbone} of step {opened.origin.step:,} of {source} to "
        f"{options.out}, SHA-256 {files.sha256(options.out)}"
    )
