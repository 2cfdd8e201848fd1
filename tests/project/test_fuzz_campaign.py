"""The fuzz campaign: its checks find damage and lost workers, and a failure makes it fail.

A few cases of each group are judged here.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from data_pipelines.core.errors import DataError
from data_pipelines.decode import decode
from tests.campaigns import fuzz
from tests.campaigns.fuzzing import data_files, image_files, images, shards, worker
from tests.campaigns.fuzzing.case import Case, Verdict, judge

FINE = Verdict("images", 0, "PNG RGB", "one bit", "refused", "wrong checksum", "", 0.1, 99.0)
FEW = {"images": 60, "shards": 5, "files": 15, "hostile": 17}  # of a group: each kind at most once
SLOW = ("MPII", "HICO", "COCO", "tar", "special")  # kinds whose parser is a process
WORKER = """import json, os, sys, time
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    group, number = json.loads(line)
    if number == 1:
        os._exit(3)
    if number == 2:
        time.sleep(60)
    verdict = dict(zip(("kind", "mutation", "outcome", "message", "damage"), 5 * [""]))
    verdict |= {"group": group, "number": number, "outcome": "accepted"}
    print(json.dumps(verdict | {"seconds": 0.1, "peak_mib": 9.0}), flush=True)
"""


@contextlib.contextmanager
def stderr_file() -> Iterator[IO[bytes]]:
    """Leads stderr to a file, as in a worker; pytest redirects it after all fixtures."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file, os.fdopen(2, "w", closefd=False) as stream:
        os.dup2(file.fileno(), 2)
        try:
            with contextlib.redirect_stderr(stream):
                yield file
        finally:
            os.dup2(kept, 2)
            os.close(kept)


@pytest.mark.parametrize("kind", image_files.ORIGINALS)
def test_every_original_is_valid_and_decodes(kind: str) -> None:
    content = image_files.original(kind)
    assert b"".join(image_files.split(content)) == content
    assert decode(content).shape == (image_files.HEIGHT_PX, image_files.WIDTH_PX, 3)
    if content.startswith(image_files.PNG_START):
        assert images.chunk_damage(content) == ""
        assert images.chunk_damage(content[:-1] + b"x") == "wrong CRC of b'IEND'"
        assert images.chunk_damage(content[:-12]) == "no IEND"


def test_warnings_of_opencvs_libjpeg_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images.shutil, "which", lambda _: None)
    content = image_files.original("JPEG CMYK")
    middle = len(content) * 3 // 4
    with stderr_file() as stderr:
        whole = images.libjpeg_warning(content, stderr)
        cut = images.libjpeg_warning(content[:middle] + b"\xff\xd9" + content[middle:], stderr)
    assert (whole, cut) == ("", "Corrupt JPEG data: premature end of data segment")


def test_a_case_of_each_kind_keeps_its_promise(tmp_path: Path) -> None:
    cases = [
        (group, number)
        for group, count in FEW.items()
        for number in range(count)
        if not worker.find_kind(group, number).startswith(SLOW)
    ]
    with stderr_file() as stderr:
        verdicts = [worker.judge_case(0, *case, tmp_path, stderr) for case in cases]
    assert [each for each in verdicts if each.fails] == []
    assert {each.outcome for each in verdicts} == {"accepted", "refused"}


@pytest.mark.parametrize(
    ("group", "kind", "broken"),
    [
        ("images", "JPEG baseline", "data_pipelines.decode.simplejpeg.decode_jpeg_header"),
        ("files", "Stanford40 XML", "data_pipelines.datasets.still.voc_xml._person"),
        ("shards", "shard of images", "data_pipelines.records.check_shard_size"),
        ("hostile", "folder of photographs, `predict`", "data_pipelines.decode._check_size"),
    ],
)
def test_a_reader_that_crashes_fails_the_campaign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, kind: str, broken: str
) -> None:
    def crash(*_: object) -> None:
        raise ZeroDivisionError

    number = [*worker.GROUPS[group]].index(kind)
    shards.read_original.cache_clear()
    with stderr_file() as stderr:
        assert not worker.judge_case(0, group, number, tmp_path, stderr).fails
        monkeypatch.setattr(broken, crash)
        verdict = worker.judge_case(0, group, number, tmp_path, stderr)
    assert verdict.outcome == "crash" and "ZeroDivisionError" in verdict.message


def test_a_warning_a_second_line_and_damage_fail_a_case() -> None:
    def refuse_twice() -> None:
        print("beside", file=sys.stderr)
        raise DataError("damaged")

    def refuse() -> None:
        raise DataError("damaged")

    for read, damage, outcome, fails in (
        (refuse, "", "refused", False),
        (refuse_twice, "", "crash", True),
        (lambda: os.write(2, b"warning\n"), "", "crash", True),
        (lambda: 7, "", "accepted", False),
        (lambda: 7, "seven", "accepted", True),
    ):
        case = Case("", read, lambda found, damage=damage: damage and f"{damage} is {found}")
        with stderr_file() as stderr:
            verdict = judge("files", 0, "", case, stderr)
        assert (verdict.outcome, verdict.fails) == (outcome, fails), verdict
        assert verdict.damage == (damage and "seven is 7")


def test_judges_of_files_find_other_records_and_wrong_checksums(tmp_path: Path) -> None:
    shards.write_images(tmp_path)
    originals = data_files.describe_records(tmp_path)
    lines = "".join(f"{name}\n" for name in originals).encode()
    find = data_files.find_other_record
    assert find(tmp_path, originals, lines, lines) == ""
    other = {**originals, "train_003.jpg": ("val", "jumping")}
    assert "train_003.jpg is ('train', " in find(tmp_path, other, lines, lines)
    assert find(tmp_path, other, lines, lines.replace(b"train_003", b"train_00x")) == ""
    (tmp_path / "mpii").mkdir()
    data_files.write_mpii(tmp_path / "mpii")
    content = (tmp_path / "mpii" / "anno.mat").read_bytes()
    assert data_files.find_zlib_damage(content) == ""
    assert "zlib" in data_files.find_zlib_damage(content[:-1] + bytes([content[-1] ^ 1]))


def test_lost_and_slow_workers_are_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "COMMAND", [sys.executable, "-c", WORKER])
    monkeypatch.setattr(fuzz, "LONGEST_S", 1.0)
    with fuzz.open_pool(0, 1) as judge_one:
        verdicts = [judge_one(("images", number)) for number in range(4)]
    assert [each.outcome for each in verdicts] == ["accepted", "crash", "crash", "accepted"]
    assert [each.number for each in verdicts] == [0, 1, 2, 3]
    assert "no answer in 1 s" in verdicts[2].message


def test_same_seed_gives_the_same_files() -> None:
    def mutate(seed: int) -> list[tuple[str, bytes]]:
        rng = np.random.default_rng(seed)
        return [image_files.mutate(kind, rng) for kind in image_files.ORIGINALS]

    assert mutate(3) == mutate(3) != mutate(4)


@pytest.mark.parametrize("change", [{}, {"outcome": "crash"}, {"damage": "no IEND"}])
def test_stopped_campaign_resumes_and_a_failure_fails_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- fuzz: begin -->\n<!-- fuzz: end -->\n")
    judged = []

    def judge_one(key: fuzz.Key) -> Verdict:
        judged.append(key)
        if len(judged) == 6:
            raise KeyboardInterrupt
        return FINE._replace(group=key[0], number=key[1], **change)

    monkeypatch.setattr(fuzz, "open_pool", lambda *_: contextlib.nullcontext(judge_one))
    monkeypatch.setattr(fuzz, "BATCH", 4)
    words = ["--images=5", "--shards=1", "--files=0", "--hostile=0", "--seed=1"]
    words += [f"--out={tmp_path}", f"--page={page}"]
    with pytest.raises(KeyboardInterrupt):
        fuzz.main(words)
    assert fuzz.main(words) == bool(change)
    first, second = judged[:6], judged[6:]
    assert first == [("shards", 0), *(("images", number) for number in range(5))]
    assert second == first[4:]
    assert "| PNG RGB | 5 |" in page.read_text()
