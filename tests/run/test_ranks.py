"""Finding one's rank, and the roll call: who is missing, and what differs, before anything is computed."""

import socket
import threading

import pytest

from lepjax.core.errors import UserError
from lepjax.run.launching import Job, free_port
from lepjax.run.ranks import Rank, detect, first_host, own_gpus, tasks_by_node, visible_gpus
from lepjax.run.rollcall import roll_call

LAUNCHED = {"LEPJAX_COORDINATOR": "host:1234", "LEPJAX_PROCESSES": "4", "LEPJAX_PROCESS": "3"}
SLURM = {  # as `srun -N2 -n3` of Slurm 22.05 sets them
    "SLURM_JOB_ID": "71",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NODELIST": "n[01-02]",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
}
OPEN_MPI = {  # as `mpirun -n 2` of OpenMPI 4.1 sets them
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}


def test_ranks_are_found_by_their_variables():
    assert detect({}) is None
    assert detect(LAUNCHED) == Rank(3, 4, "host:1234", "lepjax launch")
    assert detect(SLURM) == Rank(2, 3, "n01:61511", "Slurm", 0, 1)
    assert detect({**SLURM, "SLURM_PROCID": "1", "SLURM_NODEID": "0", "SLURM_LOCALID": "1"}) == Rank(
        1, 3, "n01:61511", "Slurm", 1, 2
    )
    assert tasks_by_node("2(x3),1") == [2, 2, 2, 1]
    rank = detect(OPEN_MPI)
    assert rank == Rank(1, 2, f"10.96.0.1:{61440 + (1531576320 >> 16) % 4096}", "OpenMPI", 1, 2)
    assert (rank.host, rank.port) == ("10.96.0.1", 61440 + (1531576320 >> 16) % 4096)


def test_one_process_alone_has_no_rank():
    assert detect({**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}) is None
    batch_script = {name: value for name, value in SLURM.items() if name != "SLURM_STEP_NUM_TASKS"}
    assert detect(batch_script) is None


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n1,n2", "n1"), ("n[07-09,12],m1", "n07"), ("gpu-a[3]-x", "gpu-a3-x"), ("a.b,c", "a.b")],
)
def test_the_first_host_of_a_slurm_list(nodes, first):
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"LEPJAX_PROCESS": "4"}, "lepjax launch: process 4 of 4. Count from 0."),
        ({"LEPJAX_PROCESS": "x"}, "LEPJAX_PROCESS: 'x' is no number"),
        ({"LEPJAX_COORDINATOR": "host"}, "LEPJAX_COORDINATOR: 'host'. Use host:port."),
    ],
)
def test_variables_that_make_no_sense(change, found):
    with pytest.raises(UserError, match=found):
        detect({**LAUNCHED, **change})
    with pytest.raises(UserError, match="LEPJAX_PROCESSES: is set, LEPJAX_COORDINATOR is not"):
        detect({"LEPJAX_PROCESSES": "2"})


def test_gpus_of_a_host_are_shared_by_its_processes():
    def rank(local, count):
        return Rank(local, count, "h:1", "Slurm", local, count)

    assert own_gpus(rank(0, 1), 8) is None, "one process takes all"
    assert own_gpus(rank(3, 8), 1) is None, "each sees its own only"
    assert [own_gpus(rank(i, 2), 8) for i in range(2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert own_gpus(rank(5, 8), 8) == [5]
    with pytest.raises(UserError, match="3 processes on a host with 8 GPUs"):
        own_gpus(rank(0, 3), 8)
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "2, 3", "JAX_PLATFORMS": ""}) == ("2", "3")
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "0,-1,3"}) == ("0",)
    for none in ({"CUDA_VISIBLE_DEVICES": ""}, {"CUDA_VISIBLE_DEVICES": "-1"}, {"JAX_PLATFORMS": "cpu"}):
        assert visible_gpus(none) == ()


def test_a_local_job_gives_each_process_its_part():
    gpus = tuple("23457")
    assert Job(2, 4, (), 9).environment(1)["JAX_NUM_CPU_DEVICES"] == "4"
    assert [Job(2, 0, gpus, 9).environment(i)["CUDA_VISIBLE_DEVICES"] for i in range(2)] == ["2,3", "4,5"]
    assert detect(Job(2, 1, (), 9).environment(1)) == Rank(1, 2, "localhost:9", "lepjax launch")
    with pytest.raises(UserError, match="4 processes x 4 devices on 5 GPUs"):
        Job(4, 4, gpus, 9)


# ---- roll call ----


def call(facts, count=None, seconds=10.0):
    """The error of each rank in a roll call of these ranks' facts: {rank: message, or None}."""
    port, errors = free_port(), {}

    def one(index):
        try:
            roll_call(Rank(index, count or len(facts), f"localhost:{port}", "test"), facts[index], seconds)
            errors[index] = None
        except UserError as error:
            errors[index] = str(error)

    threads = [threading.Thread(target=one, args=(index,)) for index in facts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_all_are_there():
    same = {"jax": "0.10.2", "seed": "3"}
    assert call({0: same, 1: same, 2: same}) == {0: None, 1: None, 2: None}


def test_missing_ranks_are_named_everywhere():
    errors = call({0: {}, 2: {}}, count=5, seconds=1.0)
    assert set(errors) == {0, 2}
    for error in errors.values():
        assert "ranks 1, 3, 4 of 5 did not report within 1 s. Start the command on every host" in error


def test_a_missing_rank_0_is_named():
    (error,) = call({1: {}}, count=2, seconds=1.0).values()
    assert error.startswith("rank 1, localhost:")
    assert "rank 0 of 2 does not answer within 1 s" in error


@pytest.mark.parametrize(
    ("theirs", "found"),
    [
        ({"jax": "0.9", "seed": "3"}, "rank 1: jax is 0.9, that of rank 0 is 0.10.2"),
        ({"jax": "0.10.2", "seed": "4"}, "rank 1: seed is 4, that of rank 0 is 3"),
        ({"jax": "0.10.2"}, "rank 1: seed is nothing, that of rank 0 is 3"),
    ],
)
def test_what_differs_is_named_everywhere(theirs, found):
    ours = {"jax": "0.10.2", "seed": "3"}
    errors = call({0: ours, 1: theirs, 2: ours})
    assert all(error.startswith(found) for error in errors.values()), errors


def test_a_stranger_does_not_disturb_the_roll_call():
    port = free_port()
    rank = Rank(0, 2, f"localhost:{port}", "test")
    errors = []

    def listen():
        try:
            roll_call(rank, {}, 10.0)
        except UserError as error:
            errors.append(error)

    thread = threading.Thread(target=listen)
    thread.start()
    while True:
        try:
            with socket.create_connection(("localhost", port)) as stranger:
                stranger.sendall(b"GET / HTTP/1.0\n")
            break
        except OSError:
            continue
    roll_call(Rank(1, 2, rank.coordinator, "test"), {}, 10.0)
    thread.join()
    assert not errors
