"""Rendezvous, exchanged values and agreement of several processes, without starting any."""

import itertools
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import pytest

from data_pipelines.core.errors import ConfigError, DataError, PeerLost, Refusal
from data_pipelines.manifest import Manifest
from gap_jax.config import Config, RuntimeConfig
from gap_jax.runtime.bucket.workdir import open_for_writing
from gap_jax.runtime.processes import agreement, group, initialise
from gap_jax.runtime.processes.group import ALONE, Exit, Processes
from gap_jax.runtime.processes.rendezvous import Rendezvous, find_rendezvous
from tests.support.tiny_run import config, people

T = TypeVar("T")
SLURM = {"SLURM_STEP_NODELIST": "node[0-3]", "SLURM_NTASKS": "4"}
MPI = {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:5000", "OMPI_COMM_WORLD_SIZE": "2"}


class Entries:
    """The key-value store of the coordinator, in this process."""

    def __init__(self) -> None:
        self._entries: dict[str, str] = {}

    def key_value_set(self, key: str, value: str) -> None:
        assert key not in self._entries, "two entries with one key"
        self._entries[key] = value

    def key_value_dir_get(self, folder: str) -> list[tuple[str, str]]:
        return [each for each in self._entries.items() if each[0].startswith(folder + "/")]

    def blocking_key_value_get(self, key: str, timeout_ms: int) -> str:
        until = time.monotonic() + timeout_ms / 1000
        while key not in self._entries:
            if time.monotonic() > until:
                raise RuntimeError(f"DEADLINE_EXCEEDED: {key}\nmore lines")
            time.sleep(0.001)
        return self._entries[key]


def in_each(act: Callable[[Processes], T], count: int = 3) -> list[T | Refusal]:
    """The result of each process, every one in a thread."""
    entries, found = Entries(), dict[int, T | Refusal]()

    def run(index: int) -> None:
        try:
            found[index] = act(Processes(entries, index, count))
        except Refusal as refusal:
            found[index] = refusal

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return [found[index] for index in range(count)]


@pytest.mark.parametrize(
    ("flags", "environment", "rendezvous"),
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
def test_rendezvous_is_found_by_flags_or_environment(
    flags: tuple[str, str, str], environment: dict[str, str], rendezvous: Rendezvous | None
) -> None:
    assert find_rendezvous(*flags, environment) == rendezvous


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("node0:4321", "", "1"), "--processes is missing"),
        (("", "2", ""), "--coordinator and --process is missing"),
        (("node0", "2", "1"), "--coordinator=node0 must be HOST:PORT"),
        (("node0:0", "2", "1"), "--coordinator=node0:0 must be HOST:PORT"),
        (("node0:4321", "two", "1"), "--processes=two must be a whole number, at least 1"),
        (("node0:4321", "2", "-1"), "--process=-1 must be a whole number, at least 0"),
        (("node0:4321", "2", "2"), r"--process=2 must be in 0\.\.1"),
    ],
)
def test_wrong_flags_are_refused(flags: tuple[str, str, str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        find_rendezvous(*flags, {})


def test_single_process_exchanges_nothing() -> None:
    assert ALONE.is_first and ALONE.index_and_count == (0, 1)
    assert ALONE.broadcast("x", lambda: 5) == 5
    assert ALONE.gather("x", "mine") == ["mine"]


def test_broadcast_and_gather_reach_all_processes() -> None:
    """A second call with the same name, too."""

    def act(processes: Processes) -> list[Any]:
        turns = itertools.count()
        broadcast = [
            processes.broadcast("x", lambda: [processes.index, next(turns)]) for _ in range(2)
        ]
        return [*broadcast, processes.gather("y", processes.index * 10)]

    assert in_each(act) == [[[0, 0], [0, 1], [0, 10, 20]]] * 3


def test_refusal_of_the_first_process_is_raised_by_all() -> None:
    def refuse() -> None:
        raise DataError("it is torn")

    found = in_each(lambda processes: processes.broadcast("x", refuse))
    assert [(type(each).__mro__[-4], str(each)) for each in found] == [(Refusal, "it is torn")] * 3
    assert {each.exit_code for each in found if isinstance(each, Refusal)} == {65}


def test_waiting_has_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "TIMEOUT_S", 0.05)
    with pytest.raises(
        PeerLost, match=r"process 1 got no 'x' from process 0 within .*DEADLINE_EXC"
    ) as e:
        Processes(Entries(), 1, 2).broadcast("x", lambda: None)
    assert "\n" not in str(e.value)


def test_exit_is_reported_to_the_others() -> None:
    entries = Entries()
    Processes(entries, 1, 3).report_exit(Exit(1, 65, "record 7 is torn"))
    assert Processes(entries, 1, 3).read_exits() == []
    [ended] = Processes(entries, 2, 3).read_exits()
    assert str(ended) == "process 1 ended with 65: record 7 is torn"


@pytest.mark.parametrize("name", ["the code's SHA-256", "jax", "the data's fingerprint"])
def test_difference_between_processes_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A difference of the third process, which the test recognises by its seed."""
    real = agreement.list_settings

    def list_settings(cfg: Config, data: Manifest) -> dict[str, str]:
        facts = real(cfg, data)
        return {**facts, "train.seed": "", **({name: "another"} if cfg.train.seed == 2 else {})}

    def check(processes: Processes) -> None:
        agreement.check_same_settings(processes, config(train__seed=processes.index), people())

    def check_twice(processes: Processes) -> None:
        agreement.check_same_settings(processes, config(), people())
        check(processes)

    for each in in_each(check):
        assert str(each).startswith("train.seed is 0 in process 0 on ")
    monkeypatch.setattr(agreement, "list_settings", list_settings)
    for each in in_each(check_twice):
        assert isinstance(each, ConfigError) and "and another in process 2 on " in str(each)
        assert str(each).startswith(f"{name} is ")


def test_other_weights_at_the_same_path_are_a_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same path may be another file, or none, on another host."""
    monkeypatch.chdir(tmp_path)
    cfg = config(init__weights="x.safetensors", init__allow_random=True)
    absent = agreement.list_settings(cfg, people())
    Path("x.safetensors").write_bytes(b"weights")
    there = agreement.list_settings(cfg, people())
    assert {name for name in there if there[name] != absent[name]} == {
        "the SHA-256 of init.weights"
    }


def test_long_values_are_cut_to_their_difference() -> None:
    def check(processes: Processes) -> None:
        agreement.check_same_settings(
            processes, config(data__root="/long" * 30 + f"/{processes.index}"), people()
        )

    [first, *_] = in_each(check)
    assert re.search(r"is \.\.\..*/0' in process 0 on .* and \.\.\..*/1' in process 1", str(first))


def test_used_port_is_named() -> None:
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(PeerLost, match=f"port {port} of --coordinator=localhost:{port} cannot"):
            initialise.initialised(
                Rendezvous(f"localhost:{port}", 2, 0), RuntimeConfig(), saves=True
            ).__enter__()


def test_processes_that_jax_does_not_find_need_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    def initialize(*_words: Any, **_limits: Any) -> None:
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(ConfigError, match="JAX finds no other processes here"):
        initialise.initialised(Rendezvous(), RuntimeConfig(), saves=True).__enter__()


def test_open_mpi_without_an_address_is_refused() -> None:
    with pytest.raises(ConfigError, match="Open MPI starts 2 processes and gives no address"):
        find_rendezvous("", "", "", {"OMPI_COMM_WORLD_SIZE": "2"})
    assert find_rendezvous("", "", "", {"OMPI_COMM_WORLD_SIZE": "1"}) is None


def test_workdir_that_is_not_shared_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "VISIBLE_WITHIN_S", 0.1)
    shared = tmp_path / "shared"
    assert in_each(lambda processes: agreement.check_shared_folder(processes, shared)) == [None] * 3
    assert list(shared.iterdir()) == []
    found = in_each(
        lambda processes: agreement.check_shared_folder(processes, tmp_path / str(processes.index))
    )
    for each in found:
        assert isinstance(each, ConfigError) and "in process 1 on " in str(each)
    assert not list((tmp_path / "0").iterdir())


def test_bucket_that_is_not_shared_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def open_bucket(processes: Processes, name: str) -> None:
        with open_for_writing(f"memory://bucket/{name}", processes):
            pass

    assert in_each(lambda processes: open_bucket(processes, "shared"), 2) == [None] * 2
    for each in in_each(lambda processes: open_bucket(processes, str(processes.index)), 2):
        assert isinstance(each, ConfigError) and "in process 1 on " in str(each)


PRIVATE = """
import socket
import jax
from gap_jax.runtime.processes.initialise import get_client

assert get_client() is None
with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
jax.distributed.initialize(f"localhost:{port}", 1, 0)
client = get_client()
client.key_value_set("folder/key", "value")
assert client.blocking_key_value_get("folder/key", 1000) == "value"
assert client.key_value_dir_get("folder") == [("folder/key", "value")]
try:
    client.blocking_key_value_get("absent", 10)
except RuntimeError as error:
    assert "DEADLINE_EXCEEDED" in str(error)
else:
    raise AssertionError("no time limit")
jax.distributed.shutdown()
"""


@pytest.mark.processes
def test_private_names_of_jax_are_where_initialise_expects_them() -> None:
    """JAX may move them in any release: jax._src.distributed and the client's key-value methods."""
    subprocess.run([sys.executable, "-c", PRIVATE], check=True, timeout=120)
