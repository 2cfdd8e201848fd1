"""How processes find each other and what they tell each other, without starting any."""

import itertools
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import pytest

from data_pipelines.manifest import Manifest
from gap_jax.config import Config, RuntimeConfig
from gap_jax.errors import ConfigError, DataError, PeerLost, Refusal
from gap_jax.runtime.bucket.workdir import open_for_writing
from gap_jax.runtime.processes import agreement, members, start
from gap_jax.runtime.processes.group import ALONE, Cause, Processes
from gap_jax.runtime.processes.rendezvous import Rendezvous, find
from tests.support.tiny_run import config, people

T = TypeVar("T")
SLURM = {"SLURM_STEP_NODELIST": "node[0-3]", "SLURM_NTASKS": "4"}
MPI = {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:5000", "OMPI_COMM_WORLD_SIZE": "2"}


class Notes:
    """The coordinator's notes, in this process."""

    def __init__(self) -> None:
        self._notes: dict[str, str] = {}

    def key_value_set(self, key: str, value: str) -> None:
        assert key not in self._notes, "two notes of one name"
        self._notes[key] = value

    def key_value_dir_get(self, folder: str) -> list[tuple[str, str]]:
        return [each for each in self._notes.items() if each[0].startswith(folder + "/")]

    def blocking_key_value_get(self, key: str, timeout_ms: int) -> str:
        until = time.monotonic() + timeout_ms / 1000
        while key not in self._notes:
            if time.monotonic() > until:
                raise RuntimeError(f"DEADLINE_EXCEEDED: {key}\nmore lines")
            time.sleep(0.001)
        return self._notes[key]


def in_each(act: Callable[[Processes], T], count: int = 3) -> list[T | Refusal]:
    """What each process of a processes comes to, every one in a thread."""
    notes, found = Notes(), dict[int, T | Refusal]()

    def be(index: int) -> None:
        try:
            found[index] = act(Processes(notes, index, count))
        except Refusal as refusal:
            found[index] = refusal

    threads = [threading.Thread(target=be, args=(index,)) for index in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return [found[index] for index in range(count)]


@pytest.mark.parametrize(
    ("flags", "environment", "meeting"),
    [
        (("", "", ""), {}, None),
        (("", "", ""), SLURM, Rendezvous()),
        (("", "", ""), {**SLURM, "SLURM_NTASKS": "1"}, None),
        (("", "", ""), {**SLURM, "SLURM_STEP_NUM_TASKS": "1"}, None),  # a shell of salloc's
        (("", "", ""), {"SLURM_NTASKS": "4"}, None),  # in a batch script, outside srun
        (("", "", ""), MPI, Rendezvous()),
        (("", "", ""), {"TPU_WORKER_HOSTNAMES": "a,b"}, Rendezvous()),
        (("", "", ""), {"TPU_WORKER_HOSTNAMES": "a"}, None),
        (("", "auto", ""), {}, Rendezvous()),
        (("node0:4321", "2", "1"), SLURM, Rendezvous("node0:4321", 2, 1)),
        (("[::1]:4321", "1", "0"), {}, Rendezvous("[::1]:4321", 1, 0)),
    ],
)
def test_where_processes_meet(
    flags: tuple[str, str, str], environment: dict[str, str], meeting: Rendezvous | None
) -> None:
    assert find(*flags, environment) == meeting


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("node0:4321", "", "1"), "--processes is missing"),
        (("", "2", ""), "--coordinator and --process is missing"),
        (("node0", "2", "1"), "--coordinator=node0 is not HOST:PORT"),
        (("node0:0", "2", "1"), "--coordinator=node0:0 is not HOST:PORT"),
        (("node0:4321", "two", "1"), "--processes=two is no whole number from 1 on"),
        (("node0:4321", "2", "-1"), "--process=-1 is no whole number from 0 on"),
        (("node0:4321", "2", "2"), r"--process=2 is none of 0\.\.1"),
    ],
)
def test_flags_that_cannot_be_meant(flags: tuple[str, str, str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        find(*flags, {})


def test_one_process_answers_itself() -> None:
    assert ALONE.is_first and ALONE.place == (0, 1)
    assert ALONE.share("x", lambda: 5) == 5
    assert ALONE.gather("x", "mine") == ["mine"]


def test_all_hear_what_the_first_makes_and_what_each_says() -> None:
    """Again under the same name, too."""

    def act(processes: Processes) -> list[Any]:
        turns = itertools.count()
        shared = [
            processes.broadcast("x", lambda: [processes.index, next(turns)]) for _ in range(2)
        ]
        return [*shared, processes.gather("y", processes.index * 10)]

    assert in_each(act) == [[[0, 0], [0, 1], [0, 10, 20]]] * 3


def test_all_refuse_what_the_first_refuses() -> None:
    def refuse() -> None:
        raise DataError("it is torn")

    found = in_each(lambda processes: processes.broadcast("x", refuse))
    assert [(type(each).__mro__[-4], str(each)) for each in found] == [(Refusal, "it is torn")] * 3
    assert {each.exit_code for each in found if isinstance(each, Refusal)} == {65}


def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "WAIT_S", 0.05)
    with pytest.raises(PeerLost, match=r"process 1 waited in vain, .* for 'x' .*DEADLINE_EXC") as e:
        Processes(Notes(), 1, 2).share("x", lambda: None)
    assert "\n" not in str(e.value)


def test_a_cause_is_left_for_the_others() -> None:
    notes = Notes()
    Processes(notes, 1, 3).tell_cause(Cause(1, 65, "record 7 is torn"))
    assert Processes(notes, 1, 3).read_causes() == []
    [cause] = Processes(notes, 2, 3).read_causes()
    assert str(cause) == "process 1 ended with 65: record 7 is torn"


@pytest.mark.parametrize("name", ["the code's SHA-256", "jax", "the data's fingerprint"])
def test_a_difference_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the third process, which is told from the others by its seed."""
    real = agreement.list_facts

    def list_facts(cfg: Config, data: Manifest) -> dict[str, str]:
        facts = real(cfg, data)
        return {**facts, "train.seed": "", **({name: "another"} if cfg.train.seed == 2 else {})}

    def agree(processes: Processes) -> None:
        agreement.agree(processes, config(train__seed=processes.index), people())

    def agree_twice(processes: Processes) -> None:
        agreement.agree(processes, config(), people())
        agree(processes)

    for each in in_each(agree):
        assert str(each).startswith("train.seed is 0 in process 0 on ")
    monkeypatch.setattr(agreement, "list_facts", list_facts)
    for each in in_each(agree_twice):
        assert isinstance(each, ConfigError) and "and another in process 2 on " in str(each)
        assert str(each).startswith(f"{name} is ")


def test_weights_that_lie_elsewhere_are_a_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same words name another file, or none, on another host."""
    monkeypatch.chdir(tmp_path)
    cfg = config(init__weights="x.safetensors", init__allow_random=True)
    absent = agreement.list_facts(cfg, people())
    Path("x.safetensors").write_bytes(b"weights")
    there = agreement.list_facts(cfg, people())
    assert {name for name in there if there[name] != absent[name]} == {
        "the SHA-256 of init.weights"
    }


def test_long_values_are_shown_where_they_differ() -> None:
    def agree(processes: Processes) -> None:
        agreement.agree(
            processes, config(data__root="/long" * 30 + f"/{processes.index}"), people()
        )

    [first, *_] = in_each(agree)
    assert re.search(r"is \.\.\..*/0' in process 0 on .* and \.\.\..*/1' in process 1", str(first))


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(PeerLost, match=f"port {port} of --coordinator=localhost:{port} cannot"):
            start.joined(
                Rendezvous(f"localhost:{port}", 2, 0), RuntimeConfig(), saves=True
            ).__enter__()


def test_jax_that_finds_no_others_is_told_how(monkeypatch: pytest.MonkeyPatch) -> None:
    def initialize(*_words: Any, **_limits: Any) -> None:
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(ConfigError, match="JAX finds no other processes here"):
        start.joined(Rendezvous(), RuntimeConfig(), saves=True).__enter__()


def test_an_open_mpi_that_says_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="Open MPI starts 2 processes and does not say where"):
        find("", "", "", {"OMPI_COMM_WORLD_SIZE": "2"})
    assert find("", "", "", {"OMPI_COMM_WORLD_SIZE": "1"}) is None


def test_a_workdir_of_its_own_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "SEEN_WITHIN_S", 0.1)
    shared = tmp_path / "shared"
    assert in_each(lambda processes: agreement.prove_shared(processes, shared)) == [None] * 3
    assert list(shared.iterdir()) == []
    found = in_each(
        lambda processes: agreement.prove_shared(processes, tmp_path / str(processes.index))
    )
    for each in found:
        assert isinstance(each, ConfigError) and "in process 1 on " in str(each)
    assert not list((tmp_path / "0").iterdir())


def test_a_bucket_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def open_bucket(processes: Processes, name: str) -> None:
        with open_for_writing(f"memory://bucket/{name}", processes):
            pass

    assert in_each(lambda processes: open_bucket(processes, "shared"), 2) == [None] * 2
    for each in in_each(lambda processes: open_bucket(processes, str(processes.index)), 2):
        assert isinstance(each, ConfigError) and "in process 1 on " in str(each)
