"""Whether this process is one of several: by flags, or by what a scheduler has told it."""

from collections.abc import Mapping
from typing import NamedTuple

from gap_jax.errors import ConfigError

AUTO = "auto"

# What only the starters of SLURM and Open MPI 4 set, and where they say how many they start.
OPEN_MPI_4, OPEN_MPI_SIZE = "OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_SIZE"
STARTERS = {
    "SLURM_STEP_NODELIST": ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"),
    OPEN_MPI_4: (OPEN_MPI_SIZE,),
}
TPU_HOSTS = "TPU_WORKER_HOSTNAMES"


class Rendezvous(NamedTuple):
    """Where the processes meet, how many they are and which one this is; None: JAX finds out."""

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None


def find(
    coordinator: str, processes: str, process: str, environment: Mapping[str, str]
) -> Rendezvous | None:
    """Where to meet by the flags, else by the environment; None for a process alone."""
    given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    if processes == AUTO and not coordinator and not process:
        return Rendezvous()
    if not any(given.values()):
        if OPEN_MPI_4 not in environment and environment.get(OPEN_MPI_SIZE, "1") != "1":
            raise ConfigError(
                f"Open MPI starts {environment[OPEN_MPI_SIZE]} processes and does not say where "
                "they meet, as its version 4 did; give each --coordinator=HOST:PORT --processes=N "
                "--process=I"
            )
        return Rendezvous() if count_processes(environment) > 1 else None
    if missing := [name for name, value in given.items() if not value]:
        raise ConfigError(
            f"{' and '.join(missing)} is missing: several processes take "
            "--coordinator=HOST:PORT --processes=N --process=0..N-1 together, or --processes=auto"
        )
    count, index = _number("--processes", processes, 1), _number("--process", process, 0)
    if index >= count:
        raise ConfigError(f"--process={index} is none of 0..{count - 1} (--processes={count})")
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise ConfigError(f"--coordinator={coordinator} is not HOST:PORT, as in node0:4321")
    return Rendezvous(coordinator, count, index)


def count_processes(environment: Mapping[str, str]) -> int:
    """How many processes the scheduler that started this one says there are."""
    for evidence, sizes in STARTERS.items():
        told = [environment[size] for size in sizes if environment.get(size, "").isdecimal()]
        if evidence in environment and told:
            return int(told[0])
    return len([host for host in environment.get(TPU_HOSTS, "").split(",") if host])


def _number(flag: str, value: str, low: int) -> int:
    if not value.isdecimal() or int(value) < low:
        raise ConfigError(f"{flag}={value} is no whole number from {low} on")
    return int(value)
