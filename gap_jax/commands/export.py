"""`gap_jax export RUN --out DIR`: a trained model as a folder that needs its run no more."""

from collections.abc import Sequence

from gap_jax.commands.arguments import Parser, checkpoint, local_path, parse
from gap_jax.explain.export import FORMATS, export
from gap_jax.runtime.bucket.workdir import open_for_reading

DESCRIPTION = """Writes the parameters with batch norm folded into them, the classes, the config and
the preprocessing, each with its digest, and verifies by loading them again that they give the run's
logits."""


def run(words: Sequence[str]) -> None:
    """Runs `gap_jax export` with the words behind it."""
    parser = Parser(prog="gap_jax export", description=DESCRIPTION, allow_abbrev=False)
    parser.set_defaults(takes_config=False)
    parser.add_argument(
        "run", metavar="RUN", help="the folder of a run, or its address in a bucket"
    )
    parser.add_argument("--out", type=local_path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--format", default="orbax", metavar=",".join(FORMATS), help="formats, separated by commas"
    )
    parser.add_argument(
        "--weights",
        choices=("ema", "raw"),
        default="ema",
        help="the average of the parameters where the run keeps one (default), or they themselves",
    )
    parser.add_argument(
        "--checkpoint", type=checkpoint, default="best", metavar="best|latest|STEP",
        help="which step of the run; best (default) is the one of highest mAP",
    )  # fmt: skip
    options = parse(parser, words)
    formats = options.format.split(",")
    with open_for_reading(options.run) as place:
        exported = export(place.folder, options.out, formats, options.weights, options.checkpoint)
    origin = exported.origin
    print(
        f"exported step {origin.step:,} of {options.run} ({origin.weights} weights, "
        f"{len(exported.classes):,} classes) to {options.out}; it gives the run's logits"
    )
