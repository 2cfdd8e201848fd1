"""`gap_jax sweep KIND --config=FILE[:parts] --out DIR`: runs a sweep, or goes on with it."""

import argparse
from collections.abc import Sequence
from functools import partial

from data_pipelines import manifest
from data_pipelines.core import files
from data_pipelines.core.errors import ConfigError
from gap_jax.commands.arguments import Parser, local_path, parse, positive, share
from gap_jax.commands.train import check_data
from gap_jax.flags import read_config
from gap_jax.runtime import preemption
from gap_jax.sweep import batch, execute, results
from gap_jax.sweep.plan import HELD_OUT, SEEDS, SWEEP, Plan
from gap_jax.sweep.rows import KINDS, check_overrides, make_rates, make_rows, parse_over
from gap_jax.weights import named

DESCRIPTION = """Runs the rows of a table or figure of the papers, or a grid, on one data set. The
learning rate of each row is chosen on a held-out part of the training split, with equal steps; then
each row is trained with several seeds and scored on the evaluation split. A command that was
stopped or killed goes on where it stopped."""
log = partial(print, flush=True)  # also into a file, so that a long sweep can be followed
EPILOG = "kinds: " + "; ".join(f"{name}: {text}" for name, text in KINDS.items())


def run(words: Sequence[str]) -> int:
    """Runs `gap_jax sweep` with its arguments."""
    options = parse(_make_parser(), words)
    _check_over(options)
    check_overrides(options.overrides, options.rates)
    cfg = read_config(options.config, options.overrides)
    check_data(cfg.data, options.config)
    data = manifest.load(cfg.data.directory)
    rows = make_rows(options.kind, options.config, options.overrides, data, options.over)
    rates = {row.name: make_rates(row, options.rates) for row in rows}
    plan = Plan(
        options.kind, options.out, tuple(rows), rates, options.seeds, options.held_out, data
    )
    for line in plan.describe():
        log(line)
    if not plan.runnable:
        raise ConfigError(f"no row of {options.kind} runs: {rows[0].reason}")
    slots = execute.choose_slots(options.jobs)
    if options.dry_run:
        log(execute.estimate(plan.cells, len(slots)))
        return 0
    for row in plan.runnable:
        if row.cfg:
            named.resolve_weights(row.cfg.init)  # absent weights would end every run
    if options.write:
        plan.enter()
        log(f"submit the runs with: bash {batch.write_script(plan, words)}")
        return 0
    return _run_one(plan, options.only, slots[0]) if options.only else _run(plan, slots)


def _run_one(plan: Plan, name: str, slot: execute.Slot) -> int:
    """Runs one run of a sweep, as a task of a batch job."""
    plan.enter()
    cell = batch.pick_cell(plan, name)
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


def _check_over(options: argparse.Namespace) -> None:
    if (options.kind == "grid") != bool(options.over):
        raise ConfigError("grid needs --over FIELD=v1,v2, and the other kinds take none")
    repeated = [name for name, _ in options.over]
    if len(set(repeated)) < len(repeated):
        raise ConfigError("--over names a field twice; give all its values in one --over")


def _rates(text: str) -> tuple[float, ...]:
    rates = sorted(float(each) for each in text.split(","))
    if len(set(rates)) < len(rates):
        raise argparse.ArgumentTypeError(f"{text} names a rate twice")
    return tuple(rates)


def _make_parser() -> Parser:
    parser = Parser(prog="gap_jax sweep", description=DESCRIPTION, epilog=EPILOG, takes_config=True)
    add = parser.add_argument
    add("kind", choices=tuple(KINDS), help="what the rows differ in")
    add("--config", metavar="FILE[:parts]", required=True, help="the config of all rows")
    add("--out", type=local_path, metavar="DIR", required=True, help="folder of the sweep")
    add("--seeds", type=positive, default=SEEDS, metavar="N", help="final runs of a row (5)")
    add(
        "--rates", type=_rates, default=(), metavar="R,R",
        help="learning rates to choose from; default: the config's x 1/3, 1 and 3",
    )  # fmt: skip
    add(
        "--held-out", type=share, default=HELD_OUT, metavar="X",
        help="share of the training split that chooses the rate (0.2)",
    )  # fmt: skip
    add(
        "--over", type=parse_over, action="append", default=[], metavar="FIELD=v1,v2",
        help="of grid: a field and its values; repeat it for other fields",
    )  # fmt: skip
    add(
        "--jobs", type=positive, metavar="N",
        help="runs at once; default: one for each GPU, else one",
    )  # fmt: skip
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        batch.WRITE, choices=("slurm",), help="write the script that submits the runs, run nothing"
    )
    where.add_argument(
        execute.ONLY,
        metavar="PHASE-INDEX",
        help="run one run, as that script does: search-3, final-0",
    )
    add("--dry-run", action="store_true", help="print the rows, runs and cost, and run nothing")
    return parser
