"""`srun lepjax train ...` and `mpirun lepjax train ...` find their ranks by themselves: real Slurm and OpenMPI, here.

`pytest -m full` where they are installed (Debian: slurm-wlm, munge, openmpi-bin) and the user is root, as Slurm's daemons
want it; skipped elsewhere.
"""

import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

import pytest

from lepjax.testing import Job, hex_losses, in_fresh_processes
from tests.processes.experiments import watched
from tests.processes.test_processes import RECIPE, close

pytestmark = pytest.mark.full
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}
CONFIGURATION = """
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
"""


def run(*command, **environment):
    done = subprocess.run(
        command,
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": str(pathlib.Path.cwd()), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    in_fresh_processes([Job(watched(folder, "gpt"))], devices=4)
    return folder / "gpt"


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "recipe.py").write_text(RECIPE)
    return str(tmp_path / "recipe.py")


@pytest.fixture
def slurm(tmp_path):
    """SLURM_CONF of a cluster of this one machine."""
    if os.getuid() != 0 or not all(map(shutil.which, ("slurmctld", "slurmd", "munged", "srun"))):
        pytest.skip("needs root, slurm-wlm and munge")
    configuration = tmp_path / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(folder=tmp_path, host=socket.gethostname()))
    (tmp_path / "state").mkdir()
    environment = {"SLURM_CONF": str(configuration)}
    if subprocess.run(["pgrep", "munged"], capture_output=True).returncode:
        pathlib.Path("/run/munge").mkdir(exist_ok=True)
        run("munged", "--force")
    daemons = [
        subprocess.Popen(
            [name, "-D"], env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        )
        for name in ("slurmctld", "slurmd")
    ]
    try:
        end = time.monotonic() + 60
        while (
            "idle"
            not in subprocess.run(
                ["sinfo", "-h", "-o", "%T"], env={**os.environ, **environment}, capture_output=True, text=True
            ).stdout
        ):
            assert time.monotonic() < end, (tmp_path / "slurmctld.log").read_text()[-2000:]
            time.sleep(0.5)
        yield environment
    finally:
        for daemon in daemons:
            daemon.terminate()
            daemon.wait()


def train(recipe, folder):
    return (sys.executable, "-m", "lepjax", "train", recipe, "--folder", str(folder))


def test_slurm(recipe, slurm, tmp_path, alone):
    out = run("srun", "-n2", *train(recipe, tmp_path), **slurm)
    assert "devices  4 x cpu, 2 process(es)" in out
    assert close(tmp_path / "run", alone, 8)


def test_a_batch_script_of_slurm(recipe, slurm, tmp_path, alone):
    """The script itself is no rank; its `srun` starts them."""
    command = " ".join(train(recipe, tmp_path))
    (tmp_path / "job.sh").write_text(f"#!/bin/bash\nsrun {command}\n")
    run("sbatch", "--wait", "-n2", "-o", str(tmp_path / "out.txt"), str(tmp_path / "job.sh"), **slurm)
    assert close(tmp_path / "run", alone, 8), (tmp_path / "out.txt").read_text()


def test_open_mpi(recipe, tmp_path, alone):
    if shutil.which("mpirun") is None:
        pytest.skip("needs OpenMPI")
    run("mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2", *train(recipe, tmp_path))
    assert close(tmp_path / "run", alone, 8)
    assert len(hex_losses(alone)) == 8
