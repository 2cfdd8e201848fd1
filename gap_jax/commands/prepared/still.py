"""`gap_jax data prepare hico | stanford40 | voc_action`."""

import argparse
from pathlib import Path
from typing import Any

from data_pipelines.datasets.still import hico, stanford40, voc_action
from data_pipelines.example import RawData
from data_pipelines.joints.openpose import JointFiles
from gap_jax.commands.prepared.options import (
    add_max_width,
    add_output_options,
    prepare_data,
    prepare_unpacked,
)

HICO_HELP = """Reads HICO as published: anno.mat and the folder images/ (train2015, test2015) of
hico_20150920.tar.gz, from https://umich-ywchao-hico.github.io. Labels that are ambiguous (0) or
unknown (NaN) are kept apart from negatives. docs/data.md describes the labels and the metric."""
STANFORD40_HELP = """Reads Stanford40 as published: a folder of ImageSplits/, JPEGImages/ and
XMLAnnotations/, from http://vision.stanford.edu/Datasets/40actions.html."""
VOC_HELP = """Reads the action task of Pascal VOC 2012 (VOCdevkit/VOC2012): each person is
cut out by its box and has labels of ten actions."""


def add_data_sets(names: Any) -> None:
    """Adds the parsers of the data sets."""
    pairs = names.add_parser("hico", help="prepare the published HICO", description=HICO_HELP)
    pairs.add_argument("--anno", type=Path, required=True, metavar="FILE.mat", help="anno.mat")
    pairs.add_argument("--images", type=Path, required=True, metavar="DIR|TAR")
    pairs.add_argument(
        "--joints", type=Path, metavar="FILE.json|DIR",
        help="people's joints: COCO's 17 or our 16, or OpenPose's DIR/NAME/image_00001.json",
    )  # fmt: skip
    add_max_width(pairs)
    add_output_options(pairs, command=prepare_unpacked, read=_read_hico)
    actions = names.add_parser(
        "stanford40", help="prepare the published Stanford40", description=STANFORD40_HELP
    )
    actions.add_argument("--root", type=Path, required=True, metavar="DIR", help="the folder")
    actions.add_argument(
        "--crop-people", action="store_true", help="store the box of the person, not the image"
    )
    add_max_width(actions)
    add_output_options(actions, command=prepare_data, read=_read_stanford40)
    people = names.add_parser(
        "voc_action", help="prepare Pascal VOC's actions", description=VOC_HELP
    )
    people.add_argument("--root", type=Path, required=True, metavar="DIR", help="VOC2012")
    add_max_width(people)
    add_output_options(people, command=prepare_data, read=_read_voc_action)


def _read_hico(spool: Path, options: argparse.Namespace, folder: Path) -> RawData:
    del folder  # keep no raw files, as they are the user's
    if options.joints is None or not options.joints.is_dir():
        return hico.read(options.anno, options.images, options.joints, spool=spool)
    files = JointFiles(options.joints)
    return files.add_notes(hico.read(options.anno, options.images, files.find, spool=spool))


def _read_stanford40(options: argparse.Namespace, folder: Path) -> RawData:
    del folder
    return stanford40.read(options.root, crop_people=options.crop_people)


def _read_voc_action(options: argparse.Namespace, folder: Path) -> RawData:
    del folder
    return voc_action.read(options.root)
