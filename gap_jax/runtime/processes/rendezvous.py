"""Finds out by flags, or by a scheduler's variables, whether this process is one of several."""

from collections.abc import Mapping
from typing import NamedTuple

from data_pipelines.core.errors import ConfigError

AUTO = "auto"

# Variables that only srun and Open MPI 4 set, and the variables that hold the number of processes.
OPEN_MPI_4, OPEN_MPI_SIZE = "OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_SIZE"
STARTERS = {
    "SLURM_STEP_NODELIST": ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"),
    OPEN_MPI_4: (OPEN_MPI_SIZE,),
}


class Rendezvous(NamedTuple):
    """The coordinator's address, the number of processes and this one's index; JAX finds Nones."""

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None


def find_rendezvous(
    coordinator: str, processes: str, process: str, environment: Mapping[str, str]
) -> Rendezvous | None:
    """Reads the flags, else the environment; returns None for a single process."""
    given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    if processes == AUTO and not coordinator and not process:
        return Rendezvous()
    if not any(given.values()):
        if OPEN_MPI_4 not in environment and environment.get(OPEN_MPI_SIZE, "1") != "1":
            raise ConfigError(
                f"Open MPI starts {environment[OPEN_MPI_SIZE]} processes and gives no address, "
                "as its version 4 did; set --coordinator=HOST:PORT --processes=N --process=I"
            )
        return Rendezvous() if _count_processes(environment) > 1 else None
    if missing := [name for name, value in given.items() if not value]:
        raise ConfigError(
            f"{' and '.join(missing)} is missing: several processes need "
            "--coordinator=HOST:PORT --processes=N --process=0..N-1 together, or --processes=auto"
        )
    count, index = _number("--processes", processes, 1), _number("--process", process, 0)
    if index >= count:
        raise ConfigError(f"--process={index} must be in 0..{count - 1} (--processes={count})")
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise ConfigError(f"--coordinator={coordinator} must be HOST:PORT, such as node0:4321")
    return Rendezvous(coordinator, count, index)


def _count_processes(environment: Mapping[str, str]) -> int:
    """Returns the scheduler's number of processes, 0 without a scheduler."""
    for evidence, sizes in STARTERS.items():
        counts = [environment[size] for size in sizes if environment.get(size, "").isdecimal()]
        if evidence in environment and counts:
            return int(counts[0])
    return len([host for host in environment.get("TPU_WORKER_HOSTNAMES", "").split(",") if host])


def _number(flag: str, value: str, low: int) -> int:
    if not value.isdecimal() or int(value) < low:
        raise ConfigError(f"{flag}={value} must be a whole number, at least {low}")
    return int(value)
