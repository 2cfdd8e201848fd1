"""`gap_jax data`: parses the command line and calls data_pipelines."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipelines import check
from data_pipelines.core import files
from data_pipelines.core.errors import ConfigError
from data_pipelines.datasets import crowd, folder, mpii, objects, people, photo_list
from data_pipelines.datasets.own_photos import Options
from data_pipelines.example import RawData
from data_pipelines.joints.detect import detect, list_images, refuse_existing
from data_pipelines.joints.detector import PACKAGE, SETUP, open_detector
from data_pipelines.pictures.show import show
from gap_jax.commands.arguments import Parser, natural, parse, positive, share
from gap_jax.commands.prepared import still, videos
from gap_jax.commands.prepared.options import (
    Read,
    add_max_width,
    add_output_options,
    prepare_data,
    prepare_unpacked,
)
from gap_jax.flags import read_config

MPII_HELP = """Reads MPII Human Pose as published: mpii_human_pose_v1_u12_1.mat from
mpii_human_pose_v1_u12_2.zip and the folder or archive of images (12.9 GB), both from
http://human-pose.mpi-inf.mpg.de, and the lists images_mpii_{train,val,test}.txt of the Attentional
Pooling release (src/data/mpii/lists). The images are for research only, not for commercial use."""

JOINTS_HELP = f"""Finds the sixteen joints of MPII of one person in each photograph with BlazePose
({PACKAGE}; no model is downloaded) and writes them as COCO keypoints with scores. Pelvis, thorax,
upper neck and head top are derived from other landmarks. The detector needs an older protobuf than
gap_jax, so install it apart: {SETUP}."""

FOLDER_HELP = """Reads photographs from ROOT/CLASS/* or ROOT/{train,val,test}/CLASS/* (also valid,
validation). Without a folder for it, val is drawn from train: a share of each class, with
near-duplicates kept together. docs/photos.md describes layouts, formats and joints."""
PEOPLE_HELP = """Draws people doing 8 actions, one of them in each picture among distractors and
bystanders, in MPII's format: a .mat of annotations, lists, and a test split without labels."""
OBJECTS_HELP = """Draws scenes whose labels name their objects, to pre-train a backbone."""
CROWD_HELP = """Draws pictures of 2 to 4 people, each doing another of 8 actions; the label names
all of them, and raw/people.json in --out has the box and the action of each person."""
CSV_HELP = """Reads the photographs that a CSV file lists, with a header or without; each line is
path,label[;label...][,split]. docs/photos.md describes the file."""


def run(words: Sequence[str]) -> None:
    """Runs `gap_jax data` with its arguments."""
    parser = Parser(prog="gap_jax data", description="Prepare, check and show data sets.")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _add_data_sets(actions.add_parser("prepare", help="raw files to records and a manifest"))
    checking = actions.add_parser("check", help="verify records and write a contact sheet")
    checking.add_argument("directory", metavar="DIR", type=Path, help="a prepared data set")
    checking.add_argument("--html", type=Path, help="contact sheet; default DIR/contact_sheet.html")
    checking.set_defaults(command=_check)
    showing = actions.add_parser(
        "show", help="draw the first augmented batch of a config", takes_config=True
    )
    showing.add_argument("directory", metavar="DIR", type=Path, help="a prepared data set")
    showing.add_argument("--config", metavar="FILE[:parts]", required=True, help="the config")
    showing.add_argument("--html", type=Path, help="the page; default DIR/batch.html")
    showing.set_defaults(command=_show)
    _add_joints(actions)
    options = parse(parser, words)
    options.command(options)


def _add_joints(actions: Any) -> None:
    finding = actions.add_parser(
        "joints", help="find joints in photographs with a detector", description=JOINTS_HELP
    )
    finding.add_argument("root", metavar="ROOT", type=Path, help="folder of photographs")
    finding.add_argument("--out", type=Path, required=True, metavar="FILE.json", help="a new file")
    finding.add_argument(
        "--python", default=sys.executable, metavar="PATH",
        help=f"the Python that has {PACKAGE}; default: this one",
    )  # fmt: skip
    finding.set_defaults(command=_find_joints)


def _find_joints(options: argparse.Namespace) -> None:
    with files.locked(options.out):
        refuse_existing(options.out)
        list_images(options.root)  # refuses a wrong folder before the detector starts
        with open_detector(options.python) as found:
            name = f"mediapipe {found.version}, BlazePose"
            detect(options.root, options.out, found.find, detector=name)


def _add_data_sets(preparing: argparse.ArgumentParser) -> None:
    names = preparing.add_subparsers(metavar="NAME", required=True)
    drawn = names.add_parser(
        "people", help="draw people doing 8 actions, in MPII's format", description=PEOPLE_HELP
    )
    _add_drawing_options(drawn, people.SIZES, _draw_people)
    drawn.add_argument("--difficulty", choices=tuple(people.DIFFICULTIES), default="default")
    scenes = names.add_parser(
        "objects", help="draw scenes labelled with their objects", description=OBJECTS_HELP
    )
    _add_drawing_options(scenes, objects.SIZES, _draw_objects)
    crowd_parser = names.add_parser(
        "crowd", help="draw pictures of 2 to 4 people doing 8 actions", description=CROWD_HELP
    )
    _add_drawing_options(crowd_parser, crowd.SIZES, _draw_crowd)
    real = names.add_parser("mpii", help="prepare the published MPII", description=MPII_HELP)
    real.add_argument("--annotations", type=Path, required=True, metavar="FILE.mat")
    real.add_argument("--images", type=Path, required=True, metavar="DIR|TAR")
    real.add_argument(
        "--splits",
        required=True,
        metavar="DIR|derive",
        help="folder of the official lists; derive draws another split, not comparable with them",
    )
    add_max_width(real)
    add_output_options(real, command=prepare_unpacked, read=_read_mpii)
    own = names.add_parser(
        "folder", help="prepare a folder of photographs", description=FOLDER_HELP
    )
    own.add_argument("--root", type=Path, required=True, metavar="DIR", help="the folder")
    _add_photo_options(own, _read_folder)
    listed = names.add_parser("csv", help="prepare a list of photographs", description=CSV_HELP)
    listed.add_argument("--csv", type=Path, required=True, metavar="FILE", help="the list")
    listed.add_argument(
        "--root", type=Path, metavar="DIR", help="where its paths begin; default: the list's folder"
    )
    _add_photo_options(listed, _read_csv)
    still.add_data_sets(names)
    videos.add_data_sets(names)


def _add_photo_options(parser: argparse.ArgumentParser, read: Read) -> None:
    parser.add_argument(
        "--val-fraction",
        type=share,
        default=0.2,
        metavar="X",
        help="share of each class for val, unless it is given; 0.2",
    )
    parser.add_argument("--seed", type=natural, default=0, help="seed that draws val; 0")
    parser.add_argument(
        "--joints", type=Path, metavar="FILE.json", help="people's joints, COCO's 17 or our 16"
    )
    add_max_width(parser)
    add_output_options(parser, command=prepare_data, read=read)
    parser.set_defaults(max_rejects=None)


def _add_drawing_options(
    parser: argparse.ArgumentParser, sizes: dict[str, int], read: Read
) -> None:
    parser.add_argument("--seed", type=natural, default=0, help="seed of all random numbers")
    for split, size in sizes.items():
        kind = natural if split == "test" else positive
        parser.add_argument(f"--{split}", type=kind, default=size, help=f"images; {size}")
    add_output_options(
        parser, command=prepare_data, read=read, split_names=tuple(sizes), max_width=0
    )


def _draw_people(options: argparse.Namespace, folder: Path) -> RawData:
    raw = folder / "raw"
    people.draw(raw, difficulty=options.difficulty, **_drawing(options))
    return mpii.read(raw / "annotations.mat", raw / "images", raw / "splits", name="people")


def _draw_objects(options: argparse.Namespace, folder: Path) -> RawData:
    return objects.draw(folder / "raw", **_drawing(options))


def _draw_crowd(options: argparse.Namespace, folder: Path) -> RawData:
    return crowd.draw(folder / "raw", **_drawing(options))


def _drawing(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments for drawing all splits, after a line about them."""
    sizes = {name: getattr(options, name) for name in options.split_names}
    print(f"drawing {sum(sizes.values()):,} images from seed {options.seed}", flush=True)
    return {"seed": options.seed, "sizes": sizes}


def _read_mpii(spool: Path, options: argparse.Namespace, folder: Path) -> RawData:
    del folder  # keep no raw files, as they are the user's
    splits = None if options.splits == "derive" else Path(options.splits)
    return mpii.read(options.annotations, options.images, splits, spool=spool)


def _read_folder(options: argparse.Namespace, out: Path) -> RawData:
    if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(options.root)):
        raise ConfigError(
            f"--out {options.out} lies in --root {options.root}; choose another --out"
        )
    return folder.read(options.root, _photo_options(options))


def _read_csv(options: argparse.Namespace, out: Path) -> RawData:
    del out
    return photo_list.read(options.csv, options.root or options.csv.parent, _photo_options(options))


def _photo_options(options: argparse.Namespace) -> Options:
    return Options(options.joints, options.val_fraction, options.seed)


def _check(options: argparse.Namespace) -> None:
    check.check(options.directory, html=options.html or options.directory / "contact_sheet.html")


def _show(options: argparse.Namespace) -> None:
    root = f"--config.data.root={options.directory}"
    cfg = read_config(options.config, [*options.overrides, root])
    show(
        cfg.data,
        seed=cfg.train.seed,
        batch_size=cfg.train.batch_size,
        html=options.html or options.directory / "batch.html",
    )
