"""Proofs for your own experiments, usable in any test suite: each raises an AssertionError that names what differs.

    from lepjax.testing import assert_compiles_once, assert_mesh_equivalent, assert_resumes_bitwise

    def test_mesh():
        assert_mesh_equivalent(experiment(), meshes=["data=8", "data=2,fsdp=2,tensor=2"])

Meshes need devices: simulate eight with `jax.config.update("jax_num_cpu_devices", 8)` before anything is computed.
"""

from lepjax.testing.collectives import Budget, Collective, assert_collective_budget, collectives
from lepjax.testing.compiles import assert_compiles_once
from lepjax.testing.coordinates import assert_width_independent, coordinates
from lepjax.testing.meshes import Stepper, assert_mesh_equivalent, relative, sharded_share, stepper
from lepjax.testing.processes import Job, assert_resumes_bitwise, hex_losses, in_fresh_processes

__all__ = [
    "Budget",
    "Collective",
    "Job",
    "Stepper",
    "assert_collective_budget",
    "assert_compiles_once",
    "assert_mesh_equivalent",
    "assert_resumes_bitwise",
    "assert_width_independent",
    "collectives",
    "coordinates",
    "hex_losses",
    "in_fresh_processes",
    "relative",
    "sharded_share",
    "stepper",
]
