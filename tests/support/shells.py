"""Types command lines into real shells and returns what they complete."""

import os
import pty
import re
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

LONGEST_S = 20
PROMPT = "READY>"
END = "== end =="
START = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}
PRINT = "gap_jax() { printf '<%s>' \"$@\"; echo; }; PS1=REA''DY\\>; "
SETUP = {
    "bash": f"bind 'set bell-style none'; {PRINT}",
    "zsh": f"unsetopt prompt_sp; unset zle_bracketed_paste; {PRINT} autoload -U compinit; "
    "compinit -u -D; ",
}


def require(shell: str) -> None:
    """Skips a test where the shell is not installed."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")


def offer_bash(script: Path, folder: Path, *lines: str) -> list[list[str]]:
    """Returns the replies of the function in bash for each line, with the cursor at its end."""
    calls = "\n".join(
        f"COMP_LINE={_quote(line)} COMP_POINT={len(line)}; _gap_jax; "
        f'for each in "${{COMPREPLY[@]}}"; do echo "$each"; done; echo {END}'
        for line in lines
    )
    return _blocks(["bash", "-u", "-c", f"source {script}; {calls}"], folder)


def offer_fish(script: Path, folder: Path, *lines: str) -> list[list[str]]:
    """Returns what fish offers for each line, without descriptions."""
    calls = "; ".join(f"complete -C {_quote(line)}; echo {END}" for line in lines)
    found = _blocks(["fish", "--no-config", "-c", f"source {script}; {calls}"], folder)
    return [[each.partition("\t")[0] for each in block] for block in found]


def _quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\") + "'"


def _environment(folder: Path) -> dict[str, str]:
    home = str(folder.parent)  # shells write their own folders there
    return {"PATH": os.environ["PATH"], "HOME": home, "TERM": "dumb", "LC_ALL": "C.UTF-8"}


def _blocks(command: list[str], folder: Path) -> list[list[str]]:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=LONGEST_S, check=False,
        env=_environment(folder),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return [block.splitlines() for block in done.stdout.split(f"{END}\n")[:-1]]


def type_lines(shell: str, script: Path, folder: Path, *lines: str) -> list[list[str]]:
    """Types each line and Tab into an interactive shell; returns the words the command then gets.

    Of several completions the shell inserts what they have in common.
    """
    terminal, other = pty.openpty()
    process = subprocess.Popen(
        START[shell], stdin=other, stdout=other, stderr=other, cwd=folder,
        env=_environment(folder), start_new_session=True,
    )  # fmt: skip
    os.close(other)
    try:
        os.write(terminal, f"{SETUP[shell]}source {script}\n".encode())
        _read(terminal)
        found = []
        for line in lines:
            os.write(terminal, f"{line}\t\n".encode())
            (words,) = re.findall(r"(?m)^<(.*)>\r*$", _read(terminal))
            found.append(words.split("><"))
        return found
    finally:
        os.close(terminal)
        process.kill()
        process.wait()


def _read(terminal: int) -> str:
    """Reads from the terminal up to the prompt that follows a line break."""
    text, stop_at = "", time.monotonic() + LONGEST_S
    while not re.search(rf"\n\r?{PROMPT}$", text):
        assert time.monotonic() < stop_at, text
        if select.select([terminal], [], [], 0.1)[0]:
            text += os.read(terminal, 4096).decode("utf-8", "replace")
    return text
