"""Checks that commands, flags, fields, files and links named in README.md and docs/ exist.

`make docs-test` executes the code blocks; these tests only read them.
"""

import ast
import dataclasses
import importlib
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from data_pipelines.core.settings import list_choices
from gap_jax import cli
from gap_jax.config import Config, fields
from gap_jax.model_config import ModelConfig, PoseConfig
from gap_jax.runtime.run_folder import HARMLESS
from tests.campaigns import docs
from tests.support.doc_blocks import (
    FENCE,
    PAGES,
    ROOT,
    SHRUNK_FIELDS,
    agrees,
    objection,
    read_blocks,
    read_commands,
    read_exchanges,
    shrink,
)

FIELDS = {name: field for name, field, _ in fields(Config())}
GROUPS = "|".join(field.name for field in dataclasses.fields(Config))
FIELD = re.compile(rf"(?:--(?:no)?config\.)?((?:{GROUPS})\.(\w+))(?:=(\S*))?")
FILE_SUFFIXES = ("py", "md", "json", "svg")
SOURCES = [
    path.relative_to(ROOT).as_posix()
    for top in ("gap_jax", "data_pipelines", "configs", "benchmarks", "launch", "tests", "docs")
    for path in (ROOT / top).rglob("*")
]


def by_page(page: Path) -> str:
    return page.name


def prose(page: Path) -> str:
    """Returns a page without its fenced blocks."""
    return FENCE.sub("", page.read_text("utf-8"))


def spans(page: Path) -> list[str]:
    """Returns the inline code of a page."""
    return [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", prose(page))]


def commands(page: Path) -> Iterator[str]:
    """Yields every command of a page, from its blocks and prose."""
    for block in read_blocks(page):
        if block.language in ("bash", "console"):
            yield from read_commands(block)
    yield from spans(page)


def written_words(page: Path) -> Iterator[str]:
    """Yields the words of a page's commands, without transcripts, which may show mistakes."""
    for block in read_blocks(page):
        if block.language == "bash":
            yield from " ".join(read_commands(block)).split()
    yield from " ".join(spans(page)).split()


@cache
def help_of(words: tuple[str, ...]) -> str:
    """Returns the output of a command's --help; an unknown command fails."""
    printed: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout.write", printed.append)
        try:
            code = cli.main([*words, "--help"])
        except SystemExit as end:
            code = end.code
    assert code == 0, f"gap_jax {' '.join(words)} --help ends in {code}"
    return "".join(printed)


def heading_anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=by_page)
def test_every_block_has_a_mark(page: Path) -> None:
    for block in read_blocks(page):
        assert objection(block) is None, f"{block.place}: {objection(block)}"
        if block.mark == "shrink":
            assert all(map(shrink, read_commands(block)))
        if block.language == "console":
            assert read_exchanges(block)


@pytest.mark.parametrize("page", PAGES, ids=by_page)
def test_every_command_and_flag_exists(page: Path) -> None:
    for command in commands(page):
        found = re.match(r"(?:gap_jax|python -m gap_jax|python -m (gap_jax\.main))(?: |$)", command)
        if not found:
            continue
        words = ["train"] if found[1] else []
        for word in command[found.end() :].split():
            if not re.fullmatch(r"[a-z0-9_]+", word):
                break
            words.append(word)
        shown = help_of(tuple(words))
        for flag in re.findall(r"(?<!\S)--(?!config\b)[a-z][\w-]*", command):
            known = flag in shown or flag in ("--help", "--version")
            assert known, f"{page.name}: {command}: there is no {flag}"


@pytest.mark.parametrize("page", PAGES, ids=by_page)
def test_every_imported_name_exists(page: Path) -> None:
    for block in read_blocks(page):
        tree = ast.parse(block.text) if block.language == "python" else ast.Module([], [])
        for each in ast.walk(tree):
            if isinstance(each, ast.ImportFrom):
                module = importlib.import_module(str(each.module))
                assert all(hasattr(module, name.name) for name in each.names), block.place


@pytest.mark.parametrize("page", PAGES, ids=by_page)
def test_every_shown_refusal_is_printed(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    consoles = [block for block in read_blocks(page) if block.language == "console"]
    for command, shown in (each for block in consoles for each in read_exchanges(block)):
        if shown.startswith("gap_jax: error 64"):
            words = re.sub(r"^python -m gap_jax\.main", "gap_jax train", command).split()
            assert cli.main(words[1:]) == 64
            assert agrees(capsys.readouterr().err, shown)


@pytest.mark.parametrize("page", PAGES, ids=by_page)
def test_every_target_exists(page: Path) -> None:
    rules = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for command in commands(page):
        if re.match(r"make [a-z]", command):
            named = [word for word in command.split()[1:] if "=" not in word]
            assert set(named) <= set(rules), f"{page.name}: {command}: there is no such target"


@pytest.mark.parametrize("page", PAGES, ids=by_page)
def test_every_field_exists_and_accepts_its_value(page: Path) -> None:
    for word in written_words(page):
        found = FIELD.fullmatch(word.strip("(),;:"))
        if not found or found[2] in FILE_SUFFIXES:
            continue
        name, _, value = found.groups()
        assert name in FIELDS, f"{page.name} names {name}, which is no field"
        choices = list_choices(FIELDS[name])
        assert not (choices and value) or value in choices, f"{page.name}: {word}"


@pytest.mark.parametrize("page", PAGES, ids=by_page)
def test_every_link_resolves(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in heading_anchors(linked), f"{page.name}: no {target}"


@pytest.mark.parametrize("page", PAGES, ids=by_page)
def test_every_named_source_file_exists(page: Path) -> None:
    for name in re.findall(r"[\w./]*\w\.py\b", page.read_text("utf-8")):
        stem = name.lstrip("./")
        if stem.endswith("NAME.py"):  # a file that the reader writes
            continue
        assert any(f"/{path}".endswith(f"/{stem}") for path in SOURCES), f"{page.name}: {name}"


@pytest.mark.parametrize("group", [ModelConfig, PoseConfig], ids=lambda group: group.group)
def test_method_page_names_every_field(group: type[ModelConfig | PoseConfig]) -> None:
    named = set(re.findall(r"`(\w+\.\w+)`", (ROOT / "docs/method.md").read_text("utf-8")))
    switches = {f"{group.group}.{field.name}" for field in dataclasses.fields(group)}
    assert switches <= named, f"docs/method.md does not name {sorted(switches - named)}"


def test_faq_names_the_fields_that_a_resumed_run_may_change() -> None:
    text = (ROOT / "docs/faq.md").read_text("utf-8")
    answer = text.partition("## My run does not resume")[2].partition("\n## ")[0]
    named = {name for name in re.findall(r"`(\w+\.\w+)`", answer) if name in FIELDS}
    assert named == HARMLESS | {"train.steps"}


def test_marks_are_read_and_missing_marks_are_reported(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    blocks = {
        "bash\n# shrink\ntrue\n": None,
        "python\n# run\npass\n": None,
        "console\n$ true\n": None,
        "text\nanything\n": None,
        "bash\ntrue\n": "without a mark",
        "bash\n# runs\ntrue\n": "without a mark",
        "python\n# shrink\npass\n": "without a mark",
        "sh\ntrue\n": "known languages",
    }
    page.write_text("\n".join(f"```{text}```\n" for text in blocks))
    found = read_blocks(page)
    assert [block.line for block in found] == [1, 6, 11, 15, 19, 23, 28, 33]
    for block, expected in zip(found, blocks.values(), strict=True):
        assert expected is None or expected in (objection(block) or "")
        assert expected is not None or objection(block) is None


def test_shrinking_keeps_the_options_of_a_command() -> None:
    assert shrink("gap_jax evaluate runs/people") == "gap_jax evaluate runs/people"
    assert shrink("gap_jax data prepare people --train=9").endswith("--train=9 --val=32 --test=8")
    shrunk = shrink("gap_jax train --config=x.py:demo --config.train.steps=7").split()
    assert shrunk.count("--config.train.steps=7") == 1
    assert "--config.train.steps=4" not in shrunk
    assert "--config.train.batch_size=16" in shrunk
    assert "--config.train.steps=4" in shrink("gap_jax demo --quick")
    assert set(SHRUNK_FIELDS) <= set(FIELDS)
    with pytest.raises(ValueError, match="more than one plain command"):
        shrink("true && gap_jax train --config=x.py")


def test_dots_in_transcripts_match_any_text() -> None:
    assert agrees("step 7 of 9\nend\n", "step ... of 9\nend\n")
    assert agrees("a\nb\nc\n", "a\n...\nc")
    assert not agrees("a\nc\nd", "a\n...\nc")


def stage_in(folder: Path, *, is_checkout: bool = True) -> docs.Stage:
    return docs.Stage(folder, Path(sys.prefix), is_checkout)


def page_of(folder: Path, *blocks: str) -> Path:
    page = folder / "page.md"
    page.write_text("\n".join(f"```{text}\n```\n" for text in blocks))
    return page


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("bash\n# run\necho seen > file  # kept for the next\n", ""),
        ("bash\n# run\nfalse\ntrue", "exit code 1"),
        ("bash\n# run\nmake nothing-of-that-name", "exit code 2"),
        ("bash\n# run\npip install nothing-of-that-name", ""),
        ("bash\ntrue", "without a mark"),
        ("python\n# run\nassert True", ""),
        ("python\n# run\nassert False", "AssertionError"),
        ("console\n$ echo a b c\na ... c", ""),
        ("console\n$ echo a b c\na ... d", "and not"),
        ("bash\n# needs-data\nbash -c 'echo error 65: no a.mat; exit 65' a.mat", "more than one"),
        ("bash\n# needs-data\n./refuse 65 a.mat", ""),
        ("bash\n# needs-data\n./refuse 66 a.mat", ""),
        ("bash\n# needs-data\n./refuse 64 a.mat", "ends in 64"),
        ("bash\n# needs-data\n./refuse 65 refuse.md", "ends in 65 and not in 65 or 66 with the"),
    ],
)
def test_blocks_are_executed_by_their_marks(text: str, problem: str, tmp_path: Path) -> None:
    refuse = tmp_path / "refuse"
    refuse.write_text("#!/bin/sh\necho cannot read a.mat >&2\nexit $1\n")
    refuse.chmod(0o755)
    (verdict,) = docs.check_page(page_of(tmp_path, text), stage_in(tmp_path))
    assert problem in verdict.problem
    assert bool(problem) == bool(verdict.problem)


def test_blocks_of_a_page_run_in_order_in_one_folder(tmp_path: Path) -> None:
    page = page_of(tmp_path, "bash\n# run\necho 1 > a", "python\n# run\nassert open('a').read()")
    assert [verdict.problem for verdict in docs.check_page(page, stage_in(tmp_path))] == ["", ""]


def test_installed_package_needs_no_make_and_no_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    page = page_of(tmp_path, 'bash\n# run\nmake demo\ntest -z "${PYTHONPATH-}"')
    (verdict,) = docs.check_page(page, stage_in(tmp_path, is_checkout=False))
    assert verdict == docs.Verdict("", ("not run: make demo (it needs the checkout)",))


def test_copy_holds_the_checkout_and_an_environment(tmp_path: Path) -> None:
    docs.copy_checkout(tmp_path / "copy")
    assert (tmp_path / "copy/.venv/bin/python").exists()
    assert (tmp_path / "copy/gap_jax/cli.py").exists()
    assert not (tmp_path / "copy/data").exists()
