"""`gap_jax data prepare hmdb51`."""

import argparse
from pathlib import Path
from typing import Any

from data_pipelines.core.errors import ConfigError
from data_pipelines.datasets.videos import hmdb51
from data_pipelines.example import RawData
from data_pipelines.joints.openpose import JointFiles
from data_pipelines.manifest import MOST_FRAMES
from gap_jax.commands.arguments import positive
from gap_jax.commands.prepared.options import add_output_options, prepare_unpacked

HMDB51_HELP = """Reads HMDB51: the split lists of testTrainMulti_7030_splits and the unpacked videos
(hmdb51_org.rar), or folders of frames. One of the three splits becomes splits train and test; the
videos with tag 0 are in neither. Videos are decoded by PyAV if it is installed, else by OpenCV."""
FOLDER = "data/hmdb51_split"  # and the number of the split


def add_data_sets(names: Any) -> None:
    """Adds the parser of HMDB51."""
    videos = names.add_parser("hmdb51", help="prepare a split of HMDB51", description=HMDB51_HELP)
    videos.add_argument("--splits", type=Path, required=True, metavar="DIR", help="its split lists")
    source = videos.add_mutually_exclusive_group(required=True)
    source.add_argument("--videos", type=Path, metavar="DIR", help="DIR/CLASS/VIDEO.avi")
    source.add_argument(
        "--frames", type=Path, metavar="DIR", help="DIR/CLASS/VIDEO/image_00001.jpg and so on"
    )
    videos.add_argument("--split", type=int, choices=hmdb51.SPLITS, required=True)
    videos.add_argument(
        "--frames-per-video",
        type=positive,
        default=hmdb51.FRAMES,
        metavar="N",
        help=f"frames to store of each video, 2 to {MOST_FRAMES}; {hmdb51.FRAMES}",
    )
    videos.add_argument(
        "--joints", type=Path, metavar="DIR", help="OpenPose's DIR/CLASS/VIDEO/image_00001.json"
    )
    add_output_options(
        videos, folder=FOLDER + "N", command=_prepare_hmdb51, read=_read_hmdb51, max_width=0
    )
    videos.set_defaults(out=None)


def _prepare_hmdb51(options: argparse.Namespace) -> None:
    options.out = options.out or Path(f"{FOLDER}{options.split}")
    prepare_unpacked(options, is_resumed=False)


def _read_hmdb51(spool: Path, options: argparse.Namespace, folder: Path) -> RawData:
    del folder  # keep no raw files, as they are the user's
    count = options.frames_per_video
    if not 2 <= count <= MOST_FRAMES:
        raise ConfigError(f"--frames-per-video {count} must be in 2..{MOST_FRAMES}")
    joints = options.joints and JointFiles(options.joints)
    find = joints and joints.find
    chosen = hmdb51.Options(options.split, options.videos, options.frames, count, find_joints=find)
    raw = hmdb51.read(options.splits, chosen, spool)
    return joints.add_notes(raw) if joints else raw
