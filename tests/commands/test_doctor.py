"""`gap_jax doctor`: programs that hang, drivers and builds, limits, extras, the self-test."""

import os
import resource
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

from data_pipelines import transforms
from data_pipelines.core.errors import DataError
from gap_jax import cli
from gap_jax.commands import doctor
from gap_jax.doctor import devices, host, packages
from gap_jax.doctor.child import Outcome, run_program
from gap_jax.doctor.devices import Devices, Driver, Gpu
from gap_jax.doctor.selftest import SelfTest
from tests.support.compiling import FAST_COMPILING

CPU = Devices("cpu", ("cpu",), 2)
CUDA = Devices("gpu", ("H200",), 1, limit=100 * host.GIB)


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


def test_output_of_a_program_arrives_as_it_is_printed() -> None:
    seen: list[str] = []
    code = "import sys; print('one', flush=True); print('two'); print('three', end='')"
    found = run_program([sys.executable, "-c", code], seconds=20.0, on_line=seen.append)
    assert found == (("one", "two", "three"), "") and seen == ["one", "two", "three"]


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


def test_absent_program_and_endless_output() -> None:
    assert run_program(["/nowhere/nvidia-smi"], seconds=5.0).fault.startswith(
        "it cannot be started"
    )
    lines, _ = python("while True: print('x' * 1000)", seconds=2.0)
    assert 900 < len(lines) < 1100


def test_gpus_are_read_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_program(tmp_path, monkeypatch, "echo 'NVIDIA H200, 580.95.05, 143771, 4'; echo 'odd line'")
    gpu = Gpu("NVIDIA H200", "580.95.05", 143771 * 2**20, 4 * 2**20)
    assert devices.ask_driver() == Driver((gpu,))


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
    gpus = Driver((Gpu("H200", driver, 2**30, 0),))
    *_, build = devices.describe_driver(gpus, found)
    assert build.advice.startswith(advice) and bool(build.advice) == bool(advice)


def test_memory_that_jax_takes_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(devices.PREALLOCATE, raising=False)
    text = devices.describe_memory(CUDA).text
    assert text.startswith("100.0 GiB on each device at its start") and devices.FRACTION in text
    monkeypatch.setenv(devices.PREALLOCATE, "false")
    assert "at most, as needed" in devices.describe_memory(CUDA).text
    assert "the host's" in devices.describe_memory(CPU).text


def test_limits_of_the_control_group_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "CGROUP", tmp_path)
    cores, memory, *_ = host.examine_host()
    assert "control group" not in cores.text + memory.text
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text(str(3 * host.GIB))
    (tmp_path / "memory.current").write_text(str(host.GIB))
    cores, memory, *_ = host.examine_host()
    assert "limited to the time of 0.5" in cores.text and cores.advice
    assert "limited to 3.0 GiB by the control group (1.0 used)" in memory.text
    assert "data.workers=0" in memory.advice
    (tmp_path / "memory.max").write_text("max\n")
    assert host.read_memory_limit() == (None, 0)


def test_limits_of_the_process_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    soft = {resource.RLIMIT_NOFILE: 256, resource.RLIMIT_AS: 2 * host.GIB}
    monkeypatch.setattr(
        resource, "getrlimit", lambda kind: (soft.get(kind, resource.RLIM_INFINITY),) * 2
    )
    row = host.examine_host()[-1]
    assert row.text == "open files 256, address space 2,048 MiB"
    assert "ulimit -n 4096" in row.advice and "ulimit -v unlimited" in row.advice


def test_unusable_folders_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = host.examine_host(tmp_path / "absent")
    assert f"{tmp_path / 'absent'}: No such file or directory" in [row.text for row in rows]
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert any(row.name == "disk" and row.advice for row in host.examine_host(Path()))


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
    assert packages.install("a", "b>=1").endswith("pip install a 'b>=1'")


def test_every_extra_of_the_project_has_a_purpose() -> None:
    extras = metadata.metadata("gap_jax").get_all("Provides-Extra") or []
    assert extras and set(extras) <= set(packages.PURPOSES)
    shown = {row.name: row for row in packages.examine_packages()}
    assert f"jax {metadata.version('jax')}" in shown["packages"].text
    assert "simplejpeg" in shown["decoder"].text and "webp" in shown["decoder"].text


def test_parent_imports_nothing_that_may_hang() -> None:
    code = "import sys, gap_jax.commands.doctor; print(sorted({'jax', 'cv2'} & set(sys.modules)))"
    assert python(code) == (("[]",), "")


def test_jax_that_does_not_start_ends_in_69(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(devices, "_LISTING", "import time; time.sleep(60)")
    asked = devices.ask_jax(seconds=0.5)
    assert asked == Devices(fault="no answer within 0.5 s")
    monkeypatch.setattr(doctor, "ask_jax", lambda: asked)
    assert cli.main(["doctor"]) == 69
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and "JAX does not start: no answer" in printed.err
    assert "JAX_PLATFORMS=cpu works without it" in printed.out


def test_hanging_self_test_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAP_JAX_FAULTS", "files.before_rename:hang@1")
    assert doctor.run_self_test(CPU, seconds=2.0) == "no answer within 2 s"


def test_unusable_temporary_folder_ends_in_73(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(doctor.tempfile, "gettempdir", refuse)
    assert cli.main(["doctor"]) == 73
    assert "set TMPDIR" in capsys.readouterr().err


def test_self_test_finds_joints_on_the_wrong_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = SelfTest(tmp_path, devices=3)
    assert test.images == 9
    test.draw()
    test.mirror()
    monkeypatch.setattr(transforms, "MIRRORED_JOINTS", tuple(range(16)))
    with pytest.raises(DataError, match="a joint left its pixel"):
        test.mirror()


@pytest.mark.slow
def test_all_is_well(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    flags = f"{FAST_COMPILING} --xla_force_host_platform_device_count=2"
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr()
    assert "2 x cpu (cpu)" in printed.out and printed.out.endswith("all is well\n")
    assert printed.out.count(" ok ") == len(SelfTest(Path()).parts()) and printed.err == ""
