"""The code blocks of README.md and docs/: where they stand, how they are marked, what they run.

A bash or python block says in its first line how it is executed:

    # run          as it is
    # shrink       with `shrink` applied to each command: a few steps on a few small images
    # needs-data   not further than to the missing file or model: it must name it and end in exit
                   code 65 or 66

A console block needs no mark: each `$ command` runs as it is and must print what stands below it,
where `...` stands for any text. A text block, or one without a language, is nothing to execute.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "launch" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
)

MARKS = {"bash": ("run", "shrink", "needs-data"), "python": ("run",), "console": ("run",)}
INERT = ("", "text")
FENCE = re.compile(r"^( *)```(\S*)\s*?\n(.*?)^\1```\s*?$", re.DOTALL | re.MULTILINE)
OPERATORS = re.compile(r"&&|\|\||[|;<>&`]|\$\(")

SHRUNK_FIELDS = {
    "model.backbone": "small",
    "model.norm_group_size": "8",
    "data.image_size_px": "32",
    "data.short_side_px": "36",
    "train.steps": "4",
    "train.batch_size": "16",
    "train.accumulate": "2",
    "train.log_every_steps": "1",
    "eval.every_steps": "2",
    "eval.max_examples": "32",
    "eval.batch_size": "16",
    "checkpoint.every_steps": "2",
}
SHRUNK_SPLITS = {
    "people": {"--train": "48", "--val": "32", "--test": "8"},
    "objects": {"--train": "48", "--val": "32"},
}


class Block(NamedTuple):
    """A fenced block: `line` is that of its fence, `mark` is empty where it has none."""

    page: Path
    line: int
    language: str
    mark: str
    text: str

    @property
    def is_executable(self) -> bool:
        """Whether somebody has to run it."""
        return self.language not in INERT

    @property
    def place(self) -> str:
        """Where to look for it."""
        page = self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page
        return f"{page}:{self.line}"


class Exchange(NamedTuple):
    """A command of a console block, and what it must print."""

    command: str
    output: str


def read_blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    content = page.read_text("utf-8")
    blocks = []
    for found in FENCE.finditer(content):
        language, text = found[2], found[3]
        first = text.partition("\n")[0].strip()
        mark = first.removeprefix("# ") if first.startswith("# ") else ""
        if language == "console":
            mark = "run"
        if mark not in MARKS.get(language, ()):
            mark = ""
        line = content.count("\n", 0, found.start()) + 1
        blocks.append(Block(page, line, language, mark, text))
    return blocks


def objection(block: Block) -> str | None:
    """Why nobody could tell how to execute the block, if so."""
    if not block.is_executable or block.mark:
        return None
    if block.language not in MARKS:
        known = ", ".join([*MARKS, *filter(None, INERT)])
        return f"a block of {block.language!r}; the known languages are {known}"
    marks = ", ".join(f"'# {mark}'" for mark in MARKS[block.language])
    return f"a {block.language} block without a mark in its first line; it takes {marks}"


def read_commands(block: Block) -> Iterator[str]:
    """The commands of a bash or console block, one logical line each, without their comments."""
    if block.language == "console":
        yield from (each.command for each in read_exchanges(block))
        return
    for line in block.text.replace("\\\n", " ").splitlines():
        command = re.sub(r"(^|\s)#.*$", "", line).strip()
        if command:
            yield command


def read_exchanges(block: Block) -> list[Exchange]:
    """The commands of a console block with their expected outputs."""
    parts = re.split(r"^\$ ", block.text.replace("\\\n", " "), flags=re.MULTILINE)
    if parts[0].strip() or len(parts) == 1:
        raise ValueError(f"{block.place}: a console block starts with '$ command'")
    pairs = (part.partition("\n") for part in parts[1:])
    return [Exchange(command.strip(), output) for command, _, output in pairs]


def agrees(printed: str, expected: str) -> bool:
    """Whether a command printed what the page shows; `...` stands for any text."""
    pieces = (re.escape(piece) for piece in expected.rstrip().split("..."))
    return re.fullmatch(".*".join(pieces), printed.rstrip(), re.DOTALL) is not None


def split_words(command: str) -> list[str]:
    """The words of one plain command; refuses what only a shell understands."""
    if OPERATORS.search(command):
        raise ValueError(f"{command!r} is more than one plain command; give each its own line")
    return shlex.split(command)


def shrink(command: str) -> str:
    """The command on a few small images; what it sets itself stays."""
    words = split_words(command)
    given = {word.partition("=")[0] for word in words}
    extra: list[str] = []
    if "--config" in given or words[:2] == ["gap_jax", "demo"]:
        flags = {f"--config.{name}": value for name, value in SHRUNK_FIELDS.items()}
        extra = [f"{flag}={value}" for flag, value in flags.items() if flag not in given]
    elif words[:3] == ["gap_jax", "data", "prepare"] and words[3] in SHRUNK_SPLITS:
        sizes = SHRUNK_SPLITS[words[3]]
        extra = [f"{flag}={value}" for flag, value in sizes.items() if flag not in given]
    return " ".join([command, *extra])
