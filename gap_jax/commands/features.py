"""`gap_jax features --config=FILE[:parts]`: computes and stores the maps of a frozen backbone."""

from collections.abc import Sequence

from data_pipelines import manifest
from data_pipelines.core.errors import ConfigError
from gap_jax.commands.arguments import Parser, parse
from gap_jax.commands.train import check_data
from gap_jax.flags import read_config

DESCRIPTION = """Computes the backbone's map of each stored view of each training and evaluation
image, as `gap_jax train` does before its first step with data.cache=features, and stores them with
the records. A stopped command goes on where it stopped."""


def run(words: Sequence[str]) -> None:
    """Runs `gap_jax features` with its arguments."""
    parser = Parser(prog="gap_jax features", description=DESCRIPTION, takes_config=True)
    parser.add_argument("--config", metavar="FILE[:parts]", required=True, help="the config")
    parser.add_argument(
        "--repair", action="store_true", help="compute damaged and missing files again"
    )
    options = parse(parser, words)
    cfg = read_config(options.config, options.overrides)
    if cfg.data.cache != "features":
        raise ConfigError(
            f"data.cache={cfg.data.cache} stores no maps; add --config.data.cache=features"
        )
    check_data(cfg.data, options.config)
    from gap_jax.learning.setup import assemble  # imports jax; errors above need not wait for it
    from gap_jax.runtime import extraction, preemption
    from gap_jax.weights import named

    setup = assemble(cfg, manifest.load(cfg.data.directory))
    named.resolve_weights(cfg.init)
    variables, _ = named.load_start(cfg.init, setup.initial_variables(), cfg.model)
    with preemption.catching_signals() as stop_flag:
        stored = extraction.store_maps(
            setup, variables, is_stopping=stop_flag.is_stopping, repair=options.repair
        )
    for maps in stored:
        print(f"{maps.origin['split']}: {maps.rows:,} images in {maps.folder}")
