"""Checks the layers and the limits of files, functions and folders."""

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("data_pipelines", "gap_jax", "configs", "benchmarks", "launch", "tests")
FILES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
PRODUCT = [
    path for path in FILES if path.relative_to(ROOT).parts[0] in ("gap_jax", "data_pipelines")
]

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60
MAX_FILES_IN_FOLDER = 13
MAX_SUPPRESSIONS = 10
FORBIDDEN_NAMES = {"utils", "common", "helpers", "lib", "base", "misc"}

# A module imports only from layers above its own; modules of one layer may import each other.
LAYERS = (
    ("data_pipelines",),
    (
        "gap_jax.model_config",
        "gap_jax.config",
        "gap_jax.batch",
        "gap_jax.hardware",
        "gap_jax.process",
        "gap_jax.variants",
        "gap_jax.flags",
    ),
    ("gap_jax.models",),
    ("gap_jax.learning",),
    ("gap_jax.weights",),
    ("gap_jax.evaluation",),
    ("gap_jax.runtime",),
    ("gap_jax.saved",),
    ("gap_jax.prediction",),
    ("gap_jax.report",),
    ("gap_jax.serve",),
    ("gap_jax.train",),
    ("gap_jax.sweep", "gap_jax.demo", "gap_jax.doctor", "gap_jax.commands"),
    ("gap_jax.cli", "gap_jax.completion"),
    ("gap_jax.main", "gap_jax.__main__"),
)
SHARED_MODULES = {"core", "example"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


def project_imports(path: Path) -> set[str]:
    return {name for name in imported(path) if name in MODULES and name != "gap_jax"}


def layer_of(module: str) -> int:
    for rank, prefixes in enumerate(LAYERS):
        if any(module == prefix or module.startswith(prefix + ".") for prefix in prefixes):
            return rank
    raise AssertionError(f"{module} is in no layer; add it to LAYERS")


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


LAYERED = [
    path for path in PRODUCT if module_name(path) != "gap_jax"
]  # gap_jax itself imports lazily, see below


@pytest.mark.parametrize("path", LAYERED, ids=module_name)
def test_imports_point_upwards(path: Path) -> None:
    module = module_name(path)
    for name in project_imports(path):
        assert layer_of(name) <= layer_of(module), f"{module} imports {name} from a lower layer"


def test_data_pipelines_imports_neither_jax_nor_gap_jax() -> None:
    for path in PRODUCT:
        if module_name(path).startswith("data_pipelines"):
            roots = {name.partition(".")[0] for name in imported(path)}
            assert not roots & {"jax", "jaxlib", "flax", "gap_jax", "tensorflow", "torch"}, path


def test_data_sets_import_only_shared_modules() -> None:
    for path in PRODUCT:
        module = module_name(path)
        if module.startswith("data_pipelines.datasets"):
            for name in project_imports(path):
                inside = name.startswith("data_pipelines.datasets")
                assert inside or name.split(".")[1] in SHARED_MODULES, f"{module} imports {name}"


def test_configs_import_config_modules_only() -> None:
    for path in (ROOT / "configs").glob("*.py"):
        assert project_imports(path) <= {"gap_jax.config", "gap_jax.variants"}, path


def test_product_imports_neither_tests_nor_benchmarks_nor_configs() -> None:
    for path in PRODUCT:
        roots = {name.partition(".")[0] for name in imported(path)}
        assert not roots & {"tests", "benchmarks", "configs", "launch"}, path


@pytest.mark.slow
def test_no_import_cycles() -> None:
    graph = {name: project_imports(path) - {name} for name, path in MODULES.items()}
    while leaves := {name for name, needed in graph.items() if not needed & graph.keys()}:
        graph = {name: needed for name, needed in graph.items() if name not in leaves}
    assert not graph, f"import cycle among {sorted(graph)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small_and_typed(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    assert path.stem not in FORBIDDEN_NAMES
    assert not text or ast.get_docstring(ast.parse(text)), "the module has no docstring"
    for function in functions(path):
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        assert lines <= MAX_FUNCTION_LINES, f"{function.name} has {lines} lines"
        arguments = function.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        extra = [each for each in (arguments.vararg, arguments.kwarg) if each]
        for argument in [*named, *extra]:
            typed = argument.annotation or argument.arg in ("self", "cls")
            assert typed, f"{function.name}({argument.arg}) has no type"
        assert function.returns, f"{function.name} has no return type"


def test_folders_stay_small() -> None:
    for folder in {path.parent for path in FILES if path.relative_to(ROOT).parts[0] != "tests"}:
        files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= MAX_FILES_IN_FOLDER, f"{folder} holds {len(files)} modules"


def test_suppressions_are_few_and_give_reasons() -> None:
    mark = re.compile(r"#\s*(noqa|type:\s*ignore|pyright:\s*ignore|pragma:)(.*)")
    found = [
        (path.name, match)
        for path in FILES
        if path != Path(__file__)
        for match in mark.finditer(path.read_text("utf-8"))
    ]
    assert len(found) <= MAX_SUPPRESSIONS
    for name, match in found:
        assert re.search(r"\]?\s+#?\s*\w+ \w+", match.group(2)), (
            f"{name}: {match.group(0)} has no reason"
        )


def test_configs_are_read_by_field() -> None:
    for path in PRODUCT:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value
                of_config = isinstance(owner, ast.Name) and owner.id in ("cfg", "config")
                assert not (of_config and node.func.attr == "get"), f"{path}:{node.lineno}"


def test_flax_orbax_and_clu_are_imported_only_in_their_modules() -> None:
    homes = {
        "flax": (
            "gap_jax.models",
            "gap_jax.batch",
            "gap_jax.hardware",
            "gap_jax.learning.state",
            "gap_jax.evaluation.metrics",
        ),
        "orbax": ("gap_jax.runtime.arrays", "gap_jax.runtime.checkpoint"),
        "clu": ("gap_jax.",),
    }
    for path in PRODUCT:
        module = module_name(path)
        for name in imported(path):
            home = homes.get(name.partition(".")[0])
            assert home is None or module.startswith(home), f"{module} imports {name}"
            assert not name.startswith("clu.") or name in ("clu.metrics", "clu.parameter_overview")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_top_folder_holds_nothing_else() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    top = {line.split("/")[0] for line in listed.splitlines()}
    assert top <= {
        *PACKAGES, ".ci", ".github", ".gitignore", ".pre-commit-config.yaml", "CHANGELOG.md",
        "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "docs",
        "pyproject.toml", "requirements.txt",
    }  # fmt: skip


def test_importing_gap_jax_loads_nothing() -> None:
    script = "import sys, gap_jax; print(sorted({'jax','numpy','flax','cv2'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    assert importlib.util.find_spec("gap_jax") is not None
