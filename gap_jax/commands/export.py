"""`gap_jax export RUN --out DIR`: writes a trained model as a folder without its run."""

from collections.abc import Sequence

from gap_jax.commands.arguments import Parser, checkpoint, local_path, parse
from gap_jax.runtime.bucket.workdir import open_for_reading
from gap_jax.saved.export import FORMATS, export

DESCRIPTION = """Writes the parameters with batch norm folded into them, the classes, the config and
the preprocessing, each with its digest. Loads them again and checks that the logits equal the
run's."""


def run(words: Sequence[str]) -> None:
    """Runs `gap_jax export` with its arguments."""
    parser = Parser(prog="gap_jax export", description=DESCRIPTION)
    parser.add_argument("run", metavar="RUN", help="the folder of a run, or its address")
    parser.add_argument("--out", type=local_path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--format", default="orbax", metavar=",".join(FORMATS), help="formats, separated by commas"
    )
    parser.add_argument(
        "--weights",
        choices=("ema", "raw"),
        default="ema",
        help="the average of the parameters if the run keeps one (default), or the parameters",
    )
    parser.add_argument(
        "--checkpoint", type=checkpoint, default="best", metavar="best|latest|STEP",
        help="checkpoint of the run; best (default) has the highest mAP, then accuracy",
    )  # fmt: skip
    options = parse(parser, words)
    formats = options.format.split(",")
    with open_for_reading(options.run) as place:
        exported = export(place.folder, options.out, formats, options.weights, options.checkpoint)
    origin = exported.origin
    print(
        f"exported step {origin.step:,} of {options.run} ({origin.weights} weights, "
        f"{len(exported.classes):,} classes) to {options.out}; its logits equal the run's"
    )
