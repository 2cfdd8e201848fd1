"""`gap_jax doctor`: examines the machine and runs a self-test."""

import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from data_pipelines.core import files
from data_pipelines.core.errors import CannotWrite, NotWorking
from gap_jax.commands.arguments import Parser, parse
from gap_jax.doctor import devices, host, packages
from gap_jax.doctor.child import run_program

DESCRIPTION = """Lists devices, driver, memory, disk and packages, says what to install for what is
missing, and tests itself: it draws a few images, trains a step, and loads and evaluates it. Ends
with 69 if JAX does not start or the self-test fails."""
SELF_TEST_TIMEOUT_S = 180.0
FAST_COMPILING = "--xla_backend_optimization_level=0"  # halves the time of the self-test
MARK = "!"  # before a line with advice


def run(words: Sequence[str]) -> None:
    """Runs `gap_jax doctor` with its arguments."""
    parse(Parser(prog="gap_jax doctor", description=DESCRIPTION), words)
    _print_rows(packages.examine_packages())
    try:
        temporary = Path(tempfile.gettempdir())
    except OSError as error:
        raise CannotWrite(f"{error}; make room there, or set TMPDIR") from error
    _print_rows(host.examine_host([Path(), temporary]))
    with files.writing(temporary):
        found = devices.ask_jax()
        _print_rows(devices.describe_driver(devices.ask_driver(), found))
        _print_rows(devices.describe_devices(found))
        if found.fault:
            raise NotWorking(f"JAX does not start: {found.fault}; follow the lines with {MARK}")
        fault = run_self_test(found.number)
    if fault:
        raise NotWorking(f"the self-test failed: {fault}; report it with all lines above")
    print("all is well")


def _print_rows(rows: Iterable[host.Row]) -> None:
    for row in rows:
        print(f"{MARK if row.advice else ' '} {row.name:<11} {row.text}")
        if row.advice:
            print(f"{'':<13} -> {row.advice}")
    sys.stdout.flush()


def run_self_test(number: int, *, seconds: float = SELF_TEST_TIMEOUT_S) -> str:
    """Runs the self-test on a number of devices, which prints its parts; returns its fault."""
    print("\nself-test", flush=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-P", "-m", "gap_jax.doctor.selftest", folder, str(number)]
        return run_program(command, seconds=seconds, flags=FAST_COMPILING, shown=True).fault
