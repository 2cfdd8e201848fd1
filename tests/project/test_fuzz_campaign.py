"""The fuzz campaign: its checks find damage, it resumes, and a failure makes it fail."""

import os
import tempfile
from pathlib import Path

import pytest

from data_pipelines.decode import decode
from tests.campaigns import fuzz, mutations

FINE = fuzz.Verdict(0, "PNG RGB", "one bit", "refused", "wrong checksum", "", 0.1, 99.0)


@pytest.mark.parametrize("kind", mutations.ORIGINALS)
def test_every_original_is_valid_and_decodes(kind: str) -> None:
    content = mutations.original(kind)
    assert b"".join(mutations.split(content)) == content
    assert decode(content).shape == (mutations.HEIGHT_PX, mutations.WIDTH_PX, 3)
    if content.startswith(mutations.PNG_START):
        assert fuzz.chunk_damage(content) == ""
        assert fuzz.chunk_damage(content[:-1] + b"x") == "wrong CRC of b'IEND'"
        assert fuzz.chunk_damage(content[:-12]) == "no IEND"


def test_warnings_of_opencvs_libjpeg_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz.shutil, "which", lambda _: None)
    content = mutations.original("JPEG CMYK")
    middle = len(content) * 3 // 4
    kept = os.dup(2)
    with tempfile.TemporaryFile() as stderr:
        os.dup2(stderr.fileno(), 2)
        try:
            whole = fuzz.libjpeg_warning(content, stderr)
            cut = fuzz.libjpeg_warning(content[:middle] + b"\xff\xd9" + content[middle:], stderr)
        finally:
            os.dup2(kept, 2)
            os.close(kept)
    assert (whole, cut) == ("", "Corrupt JPEG data: premature end of data segment")


def test_same_seed_gives_the_same_files() -> None:
    files = [mutations.mutate(3, case) for case in range(40)]
    assert files == [mutations.mutate(3, case) for case in range(40)]
    assert files != [mutations.mutate(4, case) for case in range(40)]


@pytest.mark.parametrize("change", [{}, {"outcome": "crash"}, {"damage": "no IEND"}])
def test_stopped_campaign_resumes_and_a_failure_fails_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- fuzz: begin -->\n<!-- fuzz: end -->\n")
    spans = []

    def run_child(seed: int, start: int, end: int) -> list[fuzz.Verdict]:
        assert seed == 1
        if len(spans) == 1:
            spans.append((start, end))
            raise KeyboardInterrupt
        spans.append((start, end))
        return [FINE._replace(case=case, **change) for case in range(start, end)]

    monkeypatch.setattr(fuzz, "run_child", run_child)
    monkeypatch.setattr(fuzz, "BATCH", 4)
    words = ["--cases=6", "--seed=1", f"--out={tmp_path}", f"--page={page}"]
    with pytest.raises(KeyboardInterrupt):
        fuzz.main(words)
    assert fuzz.main(words) == bool(change)
    assert spans == [(0, 4), (4, 6), (4, 6)]
    assert "| PNG RGB | 6 |" in page.read_text()
