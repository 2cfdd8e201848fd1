"""`gap_jax serve MODEL...`: a page on which photographs are dropped and models answer."""

import dataclasses
import sys
from collections.abc import Sequence

import numpy as np

from data_pipelines.core.errors import ConfigError
from gap_jax.commands.arguments import Parser, checkpoint, parse
from gap_jax.prediction.predictor import Predictor, find_model
from gap_jax.saved.model import Which
from gap_jax.serve.application import Application, Model
from gap_jax.serve.server import Server

DESCRIPTION = """Serves a page to browsers on this machine: drop or choose a photograph, or take one
with the camera, and each model answers with its classes and its maps over the photograph. The page
loads nothing from elsewhere, and photographs are kept in memory only. Ctrl-C ends it."""
END_S = 15.0  # for the computation that Ctrl-C interrupts
HIGHEST_PORT = 65535


def run(words: Sequence[str]) -> None:
    """Runs `gap_jax serve` with its arguments."""
    parser = Parser(prog="gap_jax serve", description=DESCRIPTION)
    parser.add_argument(
        "models", metavar="MODEL", nargs="+",
        help="a run or an exported model, by its folder or its address in a bucket, or the name of "
        "a published classifier; several answer side by side",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint", type=checkpoint, default="best", metavar="best|latest|STEP",
        help="which step of a run; best (default) has the highest mAP, then accuracy",
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS",
        help="address to listen on; default: 127.0.0.1, which only this machine reaches",
    )  # fmt: skip
    options = parse(parser, words)
    if not 0 <= options.port <= HIGHEST_PORT:
        raise ConfigError(f"--port={options.port} must be in 0..{HIGHEST_PORT}")
    for source in options.models:
        if options.models.count(source) > 1:
            raise ConfigError(f"{source} is named twice; name it once")
    with Server(options.host, options.port) as server:  # a taken port is known before models load
        if not server.names.is_local:
            print(
                f"warning: --host={options.host} lets everybody in its network send photographs "
                "and read answers, without a password or encryption",
                file=sys.stderr,
            )
        models = [_open(each, options.checkpoint) for each in options.models]
        application = Application(models, server.limits.upload_bytes)
        print(f"open {server.names.url} in a browser; Ctrl-C ends", flush=True)
        try:
            server.serve(application)
        except KeyboardInterrupt:
            application.close(END_S)


def _open(source: str, which: Which) -> Model:
    """Opens a model for one photograph at a time, and compiles it by answering once."""
    opened = find_model(source, checkpoint=which)
    one = dataclasses.replace(opened.cfg.eval, batch_size=1)  # others would be padding
    cfg = dataclasses.replace(opened.cfg, eval=one)
    predictor = Predictor(dataclasses.replace(opened, cfg=cfg))
    predictor.predict(np.zeros((8, 8, 3), np.uint8)).maps()
    about = f"{cfg.model.pooling} on {cfg.model.backbone}, {len(predictor.classes):,} classes"
    return Model(source, about, predictor.note, predictor.predict)
