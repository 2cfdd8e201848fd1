"""`gap_jax doctor`: examines the machine and runs a self-test."""

import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from data_pipelines.core import files
from data_pipelines.core.errors import CannotWrite, NotWorking
from gap_jax.commands.arguments import Parser, parse
from gap_jax.doctor.child import run_program
from gap_jax.doctor.devices import (
    Devices,
    ask_driver,
    ask_jax,
    child_environment,
    describe_devices,
    describe_driver,
    describe_memory,
)
from gap_jax.doctor.host import Row, examine_host
from gap_jax.doctor.packages import examine_packages

DESCRIPTION = """Lists devices, driver, memory, packages and limits, says what to install for what
is missing, and tests itself: it draws a few images, trains a step, and loads and evaluates it. Ends
with 69 if JAX does not start or the self-test fails."""
SELF_TEST_TIMEOUT_S = 180.0
FAST_COMPILING = "--xla_backend_optimization_level=0"  # halves the time of the self-test
MARK = "!"  # before a line with advice


def run(words: Sequence[str]) -> None:
    """Runs `gap_jax doctor` with its arguments."""
    parse(Parser(prog="gap_jax doctor", description=DESCRIPTION), words)
    _print_rows(examine_packages())
    try:
        temporary = Path(tempfile.gettempdir())
    except OSError as error:
        raise CannotWrite(f"{error}; make room there, or set TMPDIR") from error
    _print_rows(examine_host(Path(), temporary))
    with files.writing(temporary):
        _examine_devices()


def _examine_devices() -> None:
    driver, devices = ask_driver(), ask_jax()
    _print_rows([*describe_driver(driver, devices), describe_devices(devices)])
    _print_rows([describe_memory(devices)])
    if devices.fault:
        raise NotWorking(f"JAX does not start: {devices.fault}; follow the lines with {MARK}")
    fault = run_self_test(devices)
    if fault:
        raise NotWorking(f"the self-test failed: {fault}; report it with all lines above")
    print("all is well")


def _print_rows(rows: Iterable[Row]) -> None:
    for row in rows:
        print(f"{MARK if row.advice else ' '} {row.name:<11} {row.text}")
        if row.advice:
            print(f"{'':<13} -> {row.advice}")
    sys.stdout.flush()


def run_self_test(devices: Devices, *, seconds: float = SELF_TEST_TIMEOUT_S) -> str:
    """Runs the self-test in a child process and prints its parts; returns its fault, or ""."""
    print("\nself-test", flush=True)
    faults: list[str] = []
    environment = child_environment()
    flags = f"{environment.get('XLA_FLAGS', '')} {FAST_COMPILING}"

    def show(line: str) -> None:
        try:
            part = json.loads(line)
        except ValueError:  # a library may print while it is imported
            return
        if part["fault"]:
            faults.append(f"{part['name']}: {part['fault']}")
        end = "failed" if part["fault"] else "ok"
        print(f"  {part['name']:<38} {end:<6} {part['seconds']:5.1f} s", flush=True)

    with tempfile.TemporaryDirectory(
        prefix="gap_jax-doctor-", ignore_cleanup_errors=True
    ) as folder:
        command = [sys.executable, "-P", "-m", "gap_jax.doctor.selftest", folder]
        ended = run_program(
            [*command, str(devices.number)],
            seconds=seconds,
            environment={**environment, "XLA_FLAGS": flags},
            on_line=show,
        )
    return next(iter(faults), ended.fault)
