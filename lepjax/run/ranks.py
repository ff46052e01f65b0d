"""Which process of how many this one is: from `lepjax launch`, Slurm or OpenMPI, by their environment variables."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Mapping

from lepjax.core.errors import UserError

COORDINATOR, PROCESSES, PROCESS = "LEPJAX_COORDINATOR", "LEPJAX_PROCESSES", "LEPJAX_PROCESS"
FIRST_PORT, PORTS = 61440, 4096  # jobs on one host get ports apart, by their number, as in `jax.distributed`


@dataclasses.dataclass(frozen=True)
class Rank:
    """One of `count` processes. `coordinator` (host:port) is where the one with index 0 listens."""

    index: int
    count: int
    coordinator: str
    source: str
    """Who started the processes."""
    local_index: int = 0
    """Its place among the `local_count` processes of its host, which share the host's accelerators."""
    local_count: int = 1

    @property
    def host(self) -> str:
        return self.coordinator.rpartition(":")[0]

    @property
    def port(self) -> int:
        return int(self.coordinator.rpartition(":")[2])

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise UserError(f"process {self.index} of {self.count}", where=self.source, fix="Count from 0.")


def detect(environ: Mapping[str, str]) -> Rank | None:
    """This process's rank, or None where it is alone. Raises `UserError` for variables that make no sense."""
    found = (read(environ) for read in (launched, slurm, open_mpi))
    return next((rank for rank in found if rank is not None and rank.count > 1), None)


def launched(environ: Mapping[str, str]) -> Rank | None:
    """`lepjax launch`, or anybody who sets the same three variables."""
    given = [name for name in (COORDINATOR, PROCESSES, PROCESS) if name in environ]
    if not given:
        return None
    if len(given) < 3:
        missing = next(name for name in (COORDINATOR, PROCESSES, PROCESS) if name not in given)
        raise UserError(f"is set, {missing} is not", where=given[0], fix="Set all three or none.")
    if not re.fullmatch(r".+:\d+", environ[COORDINATOR]):
        raise UserError(f"{environ[COORDINATOR]!r}", where=COORDINATOR, fix="Use host:port.")
    index, count = (_number(environ, name) for name in (PROCESS, PROCESSES))
    return Rank(index, count, environ[COORDINATOR], "lepjax launch")


def slurm(environ: Mapping[str, str]) -> Rank | None:
    """A step of `srun`. (A batch script itself has no step of several tasks: there lepjax runs alone.)"""
    if "SLURM_STEP_NUM_TASKS" not in environ or "SLURM_PROCID" not in environ:
        return None
    host = first_host(environ.get("SLURM_STEP_NODELIST", "localhost"))
    port = _port(_number(environ, "SLURM_JOB_ID"))
    index, count = _number(environ, "SLURM_PROCID"), _number(environ, "SLURM_STEP_NUM_TASKS")
    here = tasks_by_node(environ.get("SLURM_STEP_TASKS_PER_NODE", "1"))[int(environ.get("SLURM_NODEID", 0))]
    if "SLURM_GPUS_PER_TASK" in environ:  # then a task sees its own alone
        here = 1
    local = int(environ.get("SLURM_LOCALID", 0)) if here > 1 else 0
    return Rank(index, count, f"{host}:{port}", "Slurm", local, here)


def open_mpi(environ: Mapping[str, str]) -> Rank | None:
    """`mpirun` of OpenMPI 4: its own process, whose address every rank knows, is on the host of rank 0."""
    if "OMPI_COMM_WORLD_SIZE" not in environ or "OMPI_MCA_orte_hnp_uri" not in environ:
        return None
    uri = environ["OMPI_MCA_orte_hnp_uri"]  # 1531576320.0;tcp://10.96.0.1,10.148.0.1:34911
    address = re.search(r"tcp://([^,:]+)|tcp6://\[([^,\]]+)", uri)
    if address is None:
        raise UserError(f"{uri!r} names no address", where="OMPI_MCA_orte_hnp_uri")
    host = address[1] or f"[{address[2]}]"
    port = _port(int(uri.partition(".")[0]) >> 16)  # the upper half numbers the job
    index, count, local, here = (
        _number(environ, f"OMPI_COMM_WORLD_{name}") for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")
    )
    return Rank(index, count, f"{host}:{port}", "OpenMPI", local, here)


def tasks_by_node(text: str) -> list[int]:
    """`2(x3),1` -> [2, 2, 2, 1]."""
    counts = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(tasks) for tasks, nodes in counts for _ in range(int(nodes or 1))]


def first_host(nodes: str) -> str:
    """The first of a Slurm node list: `n[07-09,12],m1` -> `n07`."""
    first = re.match(r"([^\[,]+)(?:\[(\d+)[^\]]*\]([^,]*))?", nodes)
    if first is None:
        raise UserError(f"{nodes!r} names no host", where="SLURM_STEP_NODELIST")
    return first[1] + (first[2] or "") + (first[3] or "")


def own_gpus(rank: Rank, visible: int) -> list[int] | None:
    """Which of the GPUs that a process sees are its own: all of them (None), or its part where its host's processes all
    see the same. JAX assumes one process per GPU under Slurm, whatever the process sees.
    """
    if rank.local_count == 1 or visible <= 1:
        return None
    if visible % rank.local_count:
        found = f"{rank.local_count} processes on a host with {visible} GPUs"
        raise UserError(found, where=rank.source, fix="Start as many as divide the GPUs.")
    share = visible // rank.local_count
    return list(range(rank.local_index * share, (rank.local_index + 1) * share))


def visible_gpus(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; starts no backend."""
    platforms = environ.get("JAX_PLATFORMS") or "cuda"
    if "cuda" not in platforms and "gpu" not in platforms:
        return ()
    chosen = environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        names = [name.strip() for name in chosen.split(",") if name.strip()]
        return tuple(itertools.takewhile(lambda name: name != "-1", names))  # as CUDA reads it
    found = (re.fullmatch(r"nvidia(\d+)", path.name) for path in pathlib.Path("/dev").iterdir())
    return tuple(sorted((match[1] for match in found if match), key=int))


def _port(job: int) -> int:
    return FIRST_PORT + job % PORTS


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    if not text.isdigit():
        raise UserError(f"{text!r} is no number", where=name)
    return int(text)
