"""Memory that XLA's CPU backend frees stays with the process: steps do not pay for fresh pages."""

import pathlib
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from lepjax.run.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
import jax, jax.numpy as jnp
# 64 MB of scratch in every call: the sort cannot be fused away
step = jax.jit(lambda x: jnp.sort(jnp.sin(x).reshape(64, -1), axis=0).sum())
x = jnp.ones(2**23)
for _ in range(3):
    step(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step(x).block_until_ready()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 10)
"""


def faults_per_step(how):
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or any(pathlib.Path("/dev").glob("nvidia[0-9]*")), reason="for CPU-only Linux"
)
def test_steps_do_not_fault_in_their_scratch_memory():
    # How much is kept depends on which thread asks; without the call every step faults in all of its 8192 pages.
    assert faults_per_step("keep") < 0.7 * faults_per_step("default")


def test_elsewhere_nothing_is_touched(monkeypatch):
    from lepjax.run.memory import keep_freed_memory

    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
