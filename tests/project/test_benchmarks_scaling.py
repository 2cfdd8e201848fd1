"""The scaling page: arithmetic by hand, and collectives of compiled steps."""

import functools
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.__main__ import main
from benchmarks.scaling import page
from benchmarks.scaling.collectives import Collective, compile_step, find_collectives
from benchmarks.scaling.page import H100, INFINIBAND, NVLINK, Row, judge, strong_steps
from gap_jax.config import Config
from gap_jax.learning.setup import Setup
from tests.support.tiny_training import ROOT


def test_all_reduce_time_by_hand() -> None:
    """Eight devices send 1.75 GB for 1 GB; two hosts of eight also send an eighth of it."""
    gigabyte = 10**9
    inside = 1750 / 350 + 0.05
    assert NVLINK.all_reduce_ms(gigabyte, 8) == pytest.approx(inside)
    assert NVLINK.all_reduce_ms(gigabyte, 1) == 0
    across = 125 / 45 + 0.1
    assert INFINIBAND.all_reduce_ms(gigabyte, 16) == pytest.approx(inside + across)


def test_efficiencies_by_hand() -> None:
    alone, reduce, bare, hidden = Row(H100, NVLINK, 8, 16).times(10**9)
    assert alone == pytest.approx(22.3) and reduce == pytest.approx(5.05)
    assert bare == pytest.approx(22.3 / 27.35) and hidden == pytest.approx(22.3 / 23.31)
    steps = dict(strong_steps(10**9))
    assert steps[1] == H100.step_ms(128) and steps[8] == pytest.approx(22.3 + 0.2 * 5.05)


@pytest.mark.slow
def test_collectives_of_a_real_step_are_found_counted_and_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With fsdp parameters are gathered; an additional sum over devices is found too."""
    compiled: list[tuple[Setup, list[Collective]]] = []

    def keep(cfg: Config) -> tuple[Setup, list[Collective]]:
        compiled.append(compile_step(cfg))
        return compiled[-1]

    monkeypatch.setattr(page, "compile_step", keep)
    printed, faults = page.measure(full=False)
    assert not faults
    assert "mesh of data 4 x fsdp 2:" in printed and "Simulated, no row was measured" in printed
    assert printed.count("| 8 H100, NVLink in one host |") == 2

    (_, data_parallel), (setup, spread) = compiled
    assert {each.name for each in data_parallel} == {"all-reduce"} and not judge(data_parallel)
    assert {each.name for each in spread} >= {"all-gather", "all-reduce"}
    assert any("all-gather" in fault for fault in judge(spread))

    row = NamedSharding(setup.mesh, PartitionSpec(("data", "fsdp")))
    whole = NamedSharding(setup.mesh, PartitionSpec())

    @functools.partial(jax.jit, out_shardings=whole)
    def total(values: Any) -> Any:
        return jnp.sum(values, 0)

    hlo = total.lower(jax.ShapeDtypeStruct((8, 3), "float32", sharding=row)).compile().as_text()
    [found] = find_collectives(str(hlo))
    assert (found.name, found.shapes, found.bytes) == ("all-reduce", ((3,),), 12)


def test_unmerged_collectives_are_a_fault() -> None:
    one = Collective("all-reduce", ((2,),), 8, "loss")
    assert not judge([one] * 3)
    assert judge([one] * 4) == ["4 collectives where 3 would do"]
    many = one._replace(shapes=((2,),) * 256)
    assert not judge([one, many, many, one])


def test_command_measures_on_eight_devices_and_fails_with_a_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is compiled, as XLA would read its flags again for all later tests."""
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(sys, "argv", ["benchmarks", "scaling"])
    monkeypatch.setattr(page, "measure", lambda *, full: (f"full: {full}", ["too many"]))
    with pytest.raises(SystemExit, match="too many"):
        main()
    assert os.environ["JAX_PLATFORMS"] == "cpu"
    assert os.environ["XLA_FLAGS"] == "--xla_force_host_platform_device_count=8"
    assert capsys.readouterr().out == "full: False\n"


def test_command_line_sets_devices_before_jax_starts() -> None:
    program = "import sys, benchmarks.__main__; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
