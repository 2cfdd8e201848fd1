"""`gap_jax sweep KIND --config=FILE[:parts] --out DIR`: runs a sweep, or goes on with it."""

import argparse
from collections.abc import Sequence
from functools import partial

from data_pipelines import manifest
from data_pipelines.core import files
from data_pipelines.core.errors import ConfigError
from data_pipelines.manifest import Manifest
from gap_jax.commands.arguments import Parser, local_path, parse, positive, share
from gap_jax.commands.train import check_data
from gap_jax.flags import read_config
from gap_jax.runtime import preemption
from gap_jax.sweep import batch, execute, results
from gap_jax.sweep.plan import HELD_OUT, SEEDS, SWEEP, Plan
from gap_jax.sweep.rows import (
    KINDS,
    TUNE,
    check_overrides,
    choose_rows,
    make_rates,
    make_rows,
    parse_over,
)
from gap_jax.weights import named

DESCRIPTION = """Runs the rows of a table or figure of the papers, or a grid, on one data set. The
learning rate of each row is chosen on a held-out part of the training split, with equal steps; then
each row is trained with several seeds and scored on the evaluation split. A command that was
stopped or killed goes on where it stopped. The kind tune searches the values of fields instead, by
runs that are scored on the held-out part."""
log = partial(print, flush=True)  # also into a file, so that a long sweep can be followed
ALL_KINDS = {**KINDS, TUNE: "the best values of chosen fields, searched by Optuna"}
EPILOG = "kinds: " + "; ".join(f"{name}: {text}" for name, text in ALL_KINDS.items())


def run(words: Sequence[str]) -> int:
    """Runs `gap_jax sweep` with its arguments."""
    options = parse(_make_parser(), words)
    _check_kind(options)
    check_overrides(options.overrides, options.rates)
    cfg = read_config(options.config, options.overrides)
    check_data(cfg.data, options.config)
    data = manifest.load(cfg.data.directory)
    if options.kind == TUNE:
        return _tune(options, data)
    over = [parse_over(text) for text in options.over]
    rows = make_rows(options.kind, options.config, options.overrides, data, over)
    chosen, left_out = choose_rows(rows, options.rows)
    rates = {row.name: make_rates(row, options.rates) for row in rows}
    plan = Plan(
        options.kind,
        options.out,
        chosen,
        rates,
        options.seeds or SEEDS,
        options.held_out,
        data,
        left_out,
    )
    for line in plan.describe():
        log(line)
    if not plan.runnable:
        raise ConfigError(f"no row of {options.kind} runs: {chosen[0].reason}")
    slots = execute.choose_slots(options.jobs)
    if options.dry_run:
        plan.check_folder()
        log(execute.estimate(plan.cells, len(slots)))
        return 0
    for row in plan.runnable:
        if row.cfg:
            named.resolve_weights(row.cfg.init)  # absent weights would end every run
    if options.write:
        plan.enter()
        log(f"submit the runs with: {batch.write_jobs(plan, words, options.write)}")
        return 0
    return _run_one(plan, options.only, slots[0]) if options.only else _run(plan, slots)


def _run_one(plan: Plan, name: str, slot: execute.Slot) -> int:
    """Runs one run of a sweep, as a task of a batch job."""
    plan.enter()
    cell = batch.pick_cell(plan, name)
    if cell is None:
        log(f"{name}: its row diverged at every rate, so that there is no final run")
        return 0
    if cell.is_done():
        log(f"{cell.label} is complete")
        return 0
    with preemption.catching_signals() as stop_flag:
        run_cells = partial(execute.run_children, slots=[slot], stop_flag=stop_flag, log=log)
        return execute.run_phase([cell], run_cells, log)


def _run(plan: Plan, slots: Sequence[execute.Slot]) -> int:
    with files.locked(plan.out / SWEEP), preemption.catching_signals() as stop_flag:
        plan.enter()
        run_cells = partial(execute.run_children, slots=slots, stop_flag=stop_flag, log=log)
        code = execute.execute(plan, run_cells, log)
        for line in results.write_results(plan):
            log(line)
    log(f"page: {plan.out / results.PAGE}")
    return code


def _tune(options: argparse.Namespace, data: Manifest) -> int:
    try:
        from gap_jax.sweep import tune
    except ModuleNotFoundError as error:
        raise ConfigError("sweep tune needs Optuna: pip install 'gap_jax[tune]'") from error
    given = tuple(options.overrides)
    (row,) = make_rows(TUNE, options.config, given, data)
    if row.cfg is None:
        raise ConfigError(f"no trial can run: {row.reason}")
    rates = {row.name: make_rates(row, ())}
    axes = tuple(map(tune.parse_axis, options.over))
    plan = tune.Study(
        TUNE, options.out, (row,), rates, 1, options.held_out, data, axes=axes, overrides=given
    )
    plan.check_values()
    for line in plan.describe():
        log(line)
    if options.dry_run:
        plan.check_folder()
        return 0
    named.resolve_weights(row.cfg.init)
    plan.enter()
    with preemption.catching_signals() as stop_flag:
        slots = execute.choose_slots(options.jobs)
        run_cells = partial(execute.run_children, slots=slots, stop_flag=stop_flag, log=log)
        return tune.Search(plan, options.trials, run_cells, log).run()


def _check_kind(options: argparse.Namespace) -> None:
    """Refuses options that the kind does not take."""
    is_tune = options.kind == TUNE
    if (options.kind in ("grid", TUNE)) != bool(options.over):
        raise ConfigError("grid and tune need --over FIELD=v1,v2, and the other kinds take none")
    if options.rows and options.over:
        raise ConfigError("grid and tune take no --rows; choose by the values of --over")
    if is_tune != bool(options.trials):
        raise ConfigError("tune needs --trials N, and the other kinds take none")
    if is_tune and (options.seeds or options.rates or options.write or options.only):
        raise ConfigError("tune takes no --seeds, --rates, --write and --only; leave them out")
    repeated = [each.partition("=")[0] for each in options.over]
    if len(set(repeated)) < len(repeated):
        raise ConfigError("--over names a field twice; give all its values in one --over")


def _rates(text: str) -> tuple[float, ...]:
    try:
        rates = sorted(map(float, text.split(",")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} must be numbers separated by commas, such as 0.001,0.01"
        ) from error
    if len(set(rates)) < len(rates):
        raise argparse.ArgumentTypeError(f"{text} names a rate twice")
    return tuple(rates)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _make_parser() -> Parser:
    parser = Parser(prog="gap_jax sweep", description=DESCRIPTION, epilog=EPILOG, takes_config=True)
    add = parser.add_argument
    add("kind", choices=tuple(ALL_KINDS), help="what the rows differ in")
    add("--config", metavar="FILE[:parts]", required=True, help="the config of all rows")
    add("--out", type=local_path, metavar="DIR", required=True, help="folder of the sweep")
    add(
        "--rows", type=_names, default=(), metavar="NAME,NAME",
        help="rows of a table or figure to run, by their names; default: all",
    )  # fmt: skip
    add("--seeds", type=positive, metavar="N", help="final runs of a row (5)")
    add(
        "--rates", type=_rates, default=(), metavar="R,R",
        help="learning rates to choose from; default: the config's x 1/3, 1 and 3",
    )  # fmt: skip
    add(
        "--held-out", type=share, default=HELD_OUT, metavar="X",
        help="share of the training split that scores searches (0.2)",
    )  # fmt: skip
    add(
        "--over", action="append", default=[], metavar="FIELD=v1,v2",
        help="of grid and tune: a field and its values; repeat it for other fields; of "
        "tune also FIELD=LOW..HIGH, and FIELD=LOW..HIGH:log on a logarithmic scale",
    )  # fmt: skip
    add("--trials", type=positive, metavar="N", help="of tune: the number of its runs")
    add(
        "--jobs", type=positive, metavar="N",
        help="runs at once; default: one for each GPU, else one",
    )  # fmt: skip
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        batch.WRITE,
        choices=("slurm", "jobset"),
        help="write the jobs of the runs, run nothing; jobset reads the variables "
        f"{', '.join(batch.REQUIRED)}, NAME and MOUNT (docs/sweeps.md)",
    )
    where.add_argument(
        execute.ONLY,
        metavar="PHASE-INDEX",
        help="run one run, as that script does: search-3, final-0",
    )
    add("--dry-run", action="store_true", help="print the rows, runs and cost, and run nothing")
    return parser
