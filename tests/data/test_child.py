"""A parser in a child process returns its result or a one-line refusal."""

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipelines.core.errors import DataError
from data_pipelines.datasets import child
from data_pipelines.datasets.child import parse_in_child

Write = Callable[[str], str]


@pytest.fixture
def write_parser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.syspath_prepend(tmp_path)

    def write(body: str) -> str:
        lines = "import os, signal, time", "from data_pipelines.core.errors import DataError", body
        (tmp_path / "some_parser.py").write_text("\n".join(lines), "utf-8")
        return "some_parser"

    return write


def test_the_result_is_returned_in_any_folder_and_locale(
    write_parser: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name, value in (("LC_ALL", "C"), ("PYTHONCOERCECLOCALE", "0"), ("PYTHONUTF8", "0")):
        monkeypatch.setenv(name, value)
    (folder / "json.py").write_text("raise ImportError('a module of the current folder')")
    (folder / "файл").write_text("внутри", "utf-8")
    module = write_parser("def parse(path): print('noise'); return [path.read_text(), {'a': 'ü'}]")
    assert parse_in_child(module, Path("файл")) == ["внутри", {"a": "ü"}]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "def parse(path): raise DataError(f'{path} is odd:\\n get another')",
            "a.mat is odd:  get",
        ),
        ("def parse(path): return len(bytearray(2**30))", "a.mat needs more than 0.5 GiB"),
        ("def parse(path): os.kill(os.getpid(), signal.SIGSEGV)", "a.mat was ended by signal 11"),
        ("def parse(path): return {}['key']", "a.mat failed with exit code 1 (KeyError: 'key')"),
        ("def parse(path): return float('nan')", "a.mat failed with exit code 1"),
        ("def parse(path): os._exit(0)", "a.mat gave no JSON"),
    ],
)
def test_a_failure_is_a_one_line_refusal(write_parser: Write, body: str, message: str) -> None:
    module = write_parser(body)
    with pytest.raises(DataError) as refusal:
        parse_in_child(module, Path("a.mat"), memory_bytes=2**29)
    line = str(refusal.value)
    assert message in line and " get " in line and "\n" not in line


def test_a_parser_that_hangs_is_stopped(write_parser: Write) -> None:
    module = write_parser("def parse(path): time.sleep(60)")
    with pytest.raises(DataError, match=r"a\.mat was not parsed within 0\.5 s; .* get it again"):
        parse_in_child(module, Path("a.mat"), seconds=0.5)


def test_processor_time_is_limited_too(write_parser: Write) -> None:
    module = write_parser(
        "import resource\ndef parse(path): return resource.getrlimit(resource.RLIMIT_CPU)[0]"
    )
    assert parse_in_child(module, Path("a.mat"), seconds=7.5) == 8


def test_the_parser_of_mpii_imports_no_heavy_module() -> None:
    program = (
        "import sys; from data_pipelines.datasets import child, mpii_mat; "
        "print(sorted({'tensorflow_datasets', 'jax', 'grain', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("hard", "allowed"), [(resource.RLIM_INFINITY, 100), (60, 60), (200, 100)])
def test_no_limit_is_set_above_the_hard_one(
    hard: int, allowed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (hard, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: found.append(limits))
    child.set_limit(resource.RLIMIT_AS, 100)
    assert found == [(allowed, hard)]
