"""The fault campaigns: they resume after a stop, and a divergence makes them fail."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.campaigns import faults, faults_sweeps
from tests.campaigns.cases import Case, Site, Verdict, draw_cases
from tests.support.tiny_training import Proof

UNBROKEN = faults.Unbroken(Proof({}, (), {}), 1.0)

BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"


class Campaign:
    """A campaign with fake cases; it can stop before a case, and a case can diverge."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.page = folder, folder / "page.md"
        self.page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", "utf-8")
        self.done: list[str] = []
        self.stop_before = self.diverging = ""
        patch.setattr(faults, "train_unbroken", lambda *_: UNBROKEN)
        patch.setattr(faults, "damage_in_place", lambda *_: iter(()))
        patch.setattr(faults, "run_case", self._run_case)

    def run(self, *words: str) -> int:
        return faults.main([f"--out={self.folder}", f"--page={self.page}", *words])

    def _run_case(self, case: Case, site: Site) -> Verdict:
        del site
        if case.name == self.stop_before:
            raise KeyboardInterrupt
        self.done.append(case.name)
        divergence = "a leaf" if case.name == self.diverging else ""
        return Verdict(case.name, case.kind, True, divergence, False, (-9, 0), 1.5)


@pytest.fixture
def campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Campaign:
    return Campaign(tmp_path, monkeypatch)


def test_stopped_campaign_resumes_and_writes_its_table(campaign: Campaign) -> None:
    names = [case.name for case in draw_cases(28, 0, 1.0)]
    campaign.stop_before = names[5]
    with pytest.raises(KeyboardInterrupt):
        campaign.run()
    assert campaign.done == names[:5]
    campaign.stop_before = ""
    assert campaign.run() == 0
    assert campaign.done == names
    text = campaign.page.read_text("utf-8")
    assert text.startswith(
        f"before\n{BEGIN}\n`python -m tests.campaigns.faults --kills 28 --seed 0"
    )
    assert f"| all | {len(names)} | {len(names)} | 0 | 0 |\n{END}\nafter\n" in text
    assert "| kill -9 at checkpoint.prune | 2 | 2 | 0 | 0 |" in text
    assert str(campaign.folder) not in text
    with pytest.raises(SystemExit, match="is of another campaign"):
        campaign.run("--seed=1")


def test_divergence_fails_the_campaign(
    campaign: Campaign, capsys: pytest.CaptureFixture[str]
) -> None:
    campaign.diverging = "0003"
    assert campaign.run() == 1
    assert capsys.readouterr().err == "0003: kill -9 at checkpoint.prune: a leaf\n"
    assert "| kill -9 at checkpoint.prune | 2 | 2 | 1 | 0 |" in campaign.page.read_text("utf-8")


def test_cases_are_drawn_from_the_seed() -> None:
    assert draw_cases(28, 3, 9.0) == draw_cases(28, 3, 9.0) != draw_cases(28, 4, 9.0)
    cases = draw_cases(200, 0, 9.0)
    assert sum(case.kind.startswith("kill -9") for case in cases) == 200
    assert {case.damage for case in cases} == {"", "flipped bit", "truncation", "deletion"}


PROGRAM = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
with (folder / "starts").open("a") as file: file.write("x")
time.sleep(0.4)
(folder / "result").write_text(RESULT)
"""


@pytest.mark.parametrize(
    ("result", "divergence"), [("'done'", ""), ("(folder / 'starts').read_text()", "result")]
)
def test_a_job_that_a_kill_changes_is_a_divergence(
    tmp_path: Path, result: str, divergence: str
) -> None:
    program = [sys.executable, "-S", "-E", "-c", PROGRAM.replace("RESULT", result)]
    job = faults_sweeps.Job(lambda folder: [*program, str(folder)], ("result",), "starts")
    (tmp_path / "data").mkdir()
    content = b"done" if not divergence else b"x"
    end = faults_sweeps.Unbroken({"result": hashlib.sha256(content).hexdigest()}, 0.5, 0.1)
    site = faults_sweeps.Site(tmp_path / "data", tmp_path, {"job": job}, {"job": end})
    kills = (faults_sweeps.Kill(0.0), faults_sweeps.Kill(0.1, from_start=True))
    verdict = faults_sweeps.run_case(faults_sweeps.Case("a", "kind", "job", kills), site)
    assert (verdict.hit, verdict.codes, verdict.divergence) == (True, (-9, -9, 0), divergence)
    assert (tmp_path / "a").exists() == bool(divergence)


def test_half_of_the_sweeps_lose_their_runs_too() -> None:
    ends = {name: faults_sweeps.Unbroken({}, 9.0, 3.0) for name in faults_sweeps.JOBS}
    cases = faults_sweeps.draw_cases(10, 3, ends)
    assert cases == faults_sweeps.draw_cases(10, 3, ends) != faults_sweeps.draw_cases(10, 4, ends)
    assert [case.job for case in cases] == ["extraction"] * 10 + ["sweep"] * 10
    assert sum(kill.with_children for case in cases for kill in case.kills[:1]) == 5
    assert all(kill.delay_s < (9 if kill.from_start else 6) for c in cases for kill in c.kills)


def test_children_of_a_process_are_listed() -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in faults_sweeps.list_children(os.getpid())
