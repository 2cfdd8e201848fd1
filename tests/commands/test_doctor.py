"""`gap_jax doctor`: programs that hang, drivers and builds, limits, extras, the self-test."""

import os
import re
import sys
import time
from importlib import metadata
from pathlib import Path
from unittest import mock

import pytest

from data_pipelines.core.errors import DataError
from gap_jax import cli
from gap_jax.commands import api, data, doctor
from gap_jax.doctor import devices, host, packages, selftest
from gap_jax.doctor.child import PREALLOCATE, Outcome, run_program
from gap_jax.doctor.devices import Devices
from tests.support.compiling import FAST_COMPILING

CPU = Devices("cpu", "cpu", 2)
CUDA = Devices("gpu", "H200", 1, limit=100 * host.GIB)


def python(code: str, *, seconds: float = 20.0) -> Outcome:
    return run_program([sys.executable, "-c", code], seconds=seconds)


def add_program(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Puts a fake nvidia-smi on the path."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def install_builds(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Fakes the versions of packages; _ stands for - in their names."""
    known = {name.replace("_", "-"): version for name, version in versions.items()}
    monkeypatch.setattr(devices, "version_of", known.get)
    monkeypatch.setattr(devices, "install", lambda *names: f"pip install {' '.join(names)}")


def test_output_of_a_program_is_returned_or_shown(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--old")
    code = f"import os; print('one'); print(os.environ['XLA_FLAGS'], os.environ['{PREALLOCATE}'])"
    command = [sys.executable, "-S", "-c", code]
    expected = ("one", "--old --new false")
    assert run_program(command, seconds=20.0, flags="--new") == (expected, "")
    assert capfd.readouterr().out == ""
    os.set_inheritable(1, False)  # as a file is that took the place of a closed stdout
    assert run_program(command, seconds=20.0, flags="--new", shown=True) == ((), "")
    assert tuple(capfd.readouterr().out.splitlines()) == expected


def test_program_that_hangs_is_killed_with_its_children() -> None:
    """The child of the program keeps the pipe open, and ignores SIGTERM."""
    code = (
        "import os, signal, time; os.fork(); signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "os.write(1, b'%d\\n' % os.getpid()); time.sleep(60)"
    )
    start = time.monotonic()
    lines, fault = python(code, seconds=2.0)
    assert fault == "no answer within 2 s" and time.monotonic() - start < 10
    assert len(lines) == 2
    for _ in range(100):
        if not any(_is_running(int(pid)) for pid in lines):
            return
        time.sleep(0.05)
    raise AssertionError(f"{lines} are still running")


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (
            "import sys; sys.exit('no such driver\\x1b[1m')",
            "it ended with 1: no such driver\\x1b[1m",
        ),
        ("import os; os.kill(os.getpid(), 6)", "it was ended by signal 6, Aborted"),
        ("import os; os.close(1); os.close(2)", ""),
    ],
)
def test_end_of_a_program_is_described(code: str, fault: str) -> None:
    assert python(code).fault == fault


def test_gpus_are_read_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = "580.95.05, NVIDIA H200, 143771 MiB"
    add_program(tmp_path, monkeypatch, f"echo '{gpu}'; echo '{gpu}'; echo 'odd line'")
    assert devices.ask_driver() == ((gpu, gpu), "")
    add_program(tmp_path, monkeypatch, "echo 'No devices were found'")
    assert devices.ask_driver() == ((), "nvidia-smi: no GPU is listed")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert devices.ask_driver() == ((), "")


def test_broken_driver_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_program(tmp_path, monkeypatch, "echo 'Driver/library version mismatch' >&2; exit 18")
    found = devices.ask_driver()
    assert found.fault == "nvidia-smi: it ended with 18: Driver/library version mismatch"
    add_program(tmp_path, monkeypatch, "sleep 60")
    assert devices.ask_driver(seconds=0.5).fault == "nvidia-smi: no answer within 0.5 s"
    row, _ = devices.describe_driver(found, CPU)
    assert "does not work" in row.advice


@pytest.mark.parametrize(
    ("driver", "builds", "found", "advice"),
    [
        ("580.95", {"jax_cuda13_plugin": "0.10.2"}, CUDA, ""),
        ("580.95", {}, CPU, "JAX uses the CPU only: pip install jax[cuda13]"),
        ("570.1", {}, CPU, "JAX uses the CPU only: pip install jax[cuda12]"),
        ("570.1", {"jax_cuda13_plugin": "0.10.2"}, CPU,
         "CUDA 13 needs driver 580 or later and this is 570.1: pip install jax[cuda12]"),
        ("470.2", {"jax_cuda12_plugin": "0.10.2"}, CPU, "driver 470.2 is older than 525"),
        ("580.95", {"jax_cuda12_plugin": "0.10.2", "jax_cuda13_plugin": "0.10.2"}, CUDA,
         "two CUDA builds"),
        ("580.95", {"jax_cuda13_plugin": "0.10.1"}, CPU,
         "it is not of jaxlib 0.10.2: pip install -U jax[cuda13]"),
        ("580.95", {"jax_cuda13_plugin": "0.10.2"}, CPU, "JAX does not use it: unset LD_LIBRARY"),
    ],
)  # fmt: skip
def test_driver_and_cuda_build_are_compared(
    driver: str, builds: dict[str, str], found: Devices, advice: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    install_builds(monkeypatch, jaxlib="0.10.2", **builds)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/usr/lib")
    row, build = devices.describe_driver(Outcome((f"{driver}, H200",), ""), found)
    assert row == ("driver", f"{driver}, H200", "")
    assert build.advice.startswith(advice) and bool(build.advice) == bool(advice)


def test_memory_that_jax_takes_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.FRACTION, ".10")
    shown, memory = devices.describe_devices(CUDA)
    assert shown.text.startswith("1 x H200 (gpu), with ")
    assert f"{devices.FRACTION}=.10" in shown.text
    assert memory.text.startswith("100.0 GiB on each device, at its start unless")
    assert f"{PREALLOCATE}=false" in memory.text and f"{devices.FRACTION}=.50" in memory.text
    _, memory = devices.describe_devices(Devices("tpu", "v5", 4, limit=2**30))
    assert memory.text == "1.0 GiB on each device"
    _, memory = devices.describe_devices(CPU)
    assert "the host's" in memory.text


def test_limits_of_the_control_group_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "CGROUP", tmp_path)
    cores, memory, *_ = host.examine_host([])
    assert "control group" not in cores.text + memory.text
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text(str(3 * host.GIB))
    (tmp_path / "memory.current").write_text(str(host.GIB))
    cores, memory, *_ = host.examine_host([])
    assert "limited to the time of 0.5 by the control group" in cores.text
    assert memory.text.endswith(", 2.0 of 3.0 GiB in the control group")
    assert "data.workers=0" in memory.advice
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    cores, memory, *_ = host.examine_host([])
    assert "control group" not in cores.text + memory.text


def test_unusable_folders_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    *_, absent, shared = host.examine_host([tmp_path / "absent"])
    assert absent.text.startswith(f"{tmp_path / 'absent'}: No such file or directory")
    assert absent.advice and "--shm-size" not in absent.advice
    assert shared.text.endswith(str(host.SHARED)) or shared.advice
    monkeypatch.setattr(host, "LEAST_DISK", 2**70)
    *_, full, _ = host.examine_host([tmp_path])
    assert "checkpoints" in full.advice and full.text.endswith(f"GiB free in {tmp_path}")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    *_, here, _ = host.examine_host([Path()])
    assert here.advice


def test_missing_extras_are_named_with_their_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """An extra may name another package's extra, as cuda does."""
    wanted = {
        "gap_jax": [
            "numpy>=2", 'jax[cuda13]; extra == "cuda"', 'mediapipe==0.10.14; extra == "joints"',
            'nothing; python_version < "3" and extra == "old"', 'numpy>=2; extra == "there"',
        ],
        "jax": ['jax-cuda13-plugin[with-cuda]<=0.10.2; extra == "cuda13"'],
        "numpy": [],
    }  # fmt: skip
    monkeypatch.setattr(metadata, "requires", wanted.get)
    assert packages.find_missing("gap_jax", "cuda") == ["jax[cuda13]"]
    assert packages.find_missing("gap_jax", "joints") == ["mediapipe==0.10.14"]
    assert packages.find_missing("gap_jax", "there") == []
    assert packages.list_requirements("gap_jax", "old") == []
    assert [str(each) for each in packages.list_requirements("gap_jax")] == ["numpy>=2"]
    wanted["gap_jax"][0] = "nowhere>=2"
    assert packages.find_missing("gap_jax") == ["nowhere>=2"]
    assert packages.install("a", "b>=1").endswith("pip install a 'b>=1'")


def test_every_extra_of_the_project_has_a_purpose() -> None:
    extras = metadata.metadata("gap_jax").get_all("Provides-Extra") or []
    assert extras and set(extras) <= set(packages.PURPOSES)
    shown = {row.name: row for row in packages.examine_packages()}
    assert f"jax {metadata.version('jax')}" in shown["packages"].text
    assert "simplejpeg" in shown["packages"].text and not shown["packages"].advice
    assert f"[{extras[0]}]" in shown


def test_parent_imports_nothing_that_may_hang() -> None:
    code = "import sys, gap_jax.commands.doctor; print(sorted({'jax', 'cv2'} & set(sys.modules)))"
    assert python(code) == (("[]",), "")


def test_jax_that_does_not_start_ends_in_69(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(devices, "_LISTING", "import time; time.sleep(60)")
    asked = devices.ask_jax(seconds=0.5)
    assert asked == Devices(fault="no answer within 0.5 s")
    monkeypatch.setattr(devices, "ask_jax", lambda: asked)
    assert cli.main(["doctor"]) == 69
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and "JAX does not start: no answer" in printed.err
    assert "JAX_PLATFORMS=cpu works without it" in printed.out


def test_hanging_self_test_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAP_JAX_FAULTS", "files.before_rename:hang@1")
    assert doctor.run_self_test(1, seconds=2.0) == "no answer within 2 s"


def test_unusable_temporary_folder_ends_in_73(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(doctor.tempfile, "gettempdir", refuse)
    assert cli.main(["doctor"]) == 73
    assert "set TMPDIR" in capsys.readouterr().err


@pytest.mark.parametrize("loaded", [{"mAP": 1.0}, {"mAP": 0.5}, {}])
def test_self_test_compares_the_scores_of_the_loaded_model(
    loaded: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its config is accepted, and a batch has as many images on each of three devices."""
    train = mock.Mock(return_value={"mAP": 1.0})
    monkeypatch.setattr(data, "run", draw := mock.Mock())
    monkeypatch.setattr(api, "train_config", train)
    monkeypatch.setattr(api, "evaluate_run", mock.Mock(return_value=loaded))
    parts = selftest.run_parts(tmp_path, devices=3)
    if loaded.get("mAP") == 1.0:
        assert len([*parts]) == 4
    else:
        with pytest.raises(DataError, match="the loaded model has other scores: mAP"):
            list(parts)
    cfg = train.call_args.args[0]
    assert {"--train=9", "--val=9"} < {*draw.call_args.args[0]}
    assert (cfg.train.batch_size, cfg.eval.batch_size, cfg.train.steps) == (9, 9, 1)


def test_failing_part_ends_the_self_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One line names the part and its fault, the code is 69."""
    (tmp_path / "jax.py").write_text("raise ImportError('no such library')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(devices, "ask_jax", lambda: CPU)
    assert cli.main(["doctor"]) == 69
    printed = capfd.readouterr()
    assert re.search(r"  import the packages +failed\n", printed.out)
    (line,) = printed.err.splitlines()
    assert "the self-test failed: it ended with 1: import the packages: " in line
    assert "no such library" in line


@pytest.mark.slow
def test_all_is_well(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    flags = f"{FAST_COMPILING} --xla_force_host_platform_device_count=2"
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert cli.main(["doctor"]) == 0
    printed = capfd.readouterr()
    assert "2 x cpu (cpu)" in printed.out and printed.out.endswith("all is well\n")
    assert printed.out.count(" ok ") == 4 and printed.err == ""
