"""A checkpoint of any mesh goes on on any other: parameters bit for bit, losses within tolerance."""

import dataclasses

import jax
import numpy as np
import pytest

from lepjax.run.checkpoint import Checkpoints
from lepjax.run.named import flatten
from lepjax.testing import relative, stepper
from tests.tiny import tiny

MESHES = ("data=1", "data=8", "fsdp=8", "tensor=8", "data=2,fsdp=2,tensor=2", "fsdp=2,sequence=4")
BEFORE, AFTER = 4, 20
META = {"plan": "", "memory": {}, "results": {}}
pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{mesh: (its stepper, its checkpoint after some steps, every leaf of that on the host, the losses that followed)}."""
    found = {}
    for i, mesh in enumerate(MESHES):
        run = stepper(tiny(mesh=mesh), jax.devices()[:1] if mesh == "data=1" else None)
        run.run(BEFORE)
        checkpoints = Checkpoints(tmp_path_factory.mktemp(f"mesh{i}"))
        checkpoints.save(BEFORE, run.state, META)
        checkpoints.wait()
        leaves = {name: np.asarray(x) for name, x in flatten(run.state).items()}
        found[mesh] = run, checkpoints, leaves, run.run(AFTER)
    yield found
    for _, checkpoints, _, _ in found.values():
        checkpoints.close()


@pytest.mark.parametrize("target", MESHES)
@pytest.mark.parametrize("saved", MESHES)
def test_saved_on_one_mesh_restored_on_another(runs, saved, target):
    _, checkpoints, leaves, losses = runs[saved]
    run = runs[target][0]
    state, _ = checkpoints.restore(BEFORE, run.built.abstract)
    for name, leaf in flatten(state).items():
        np.testing.assert_array_equal(np.asarray(leaf), leaves[name], err_msg=name)
    assert state.params["wte"]["embedding"].sharding == run.built.abstract.params["wte"]["embedding"].sharding
    found = dataclasses.replace(run, state=state).run(AFTER)
    assert relative(found, losses) <= (0.0 if saved == target else 1e-5)


def test_sabotage_a_lost_cursor_shows_in_the_losses(runs):
    run, checkpoints, _, losses = runs["data=8"]
    state, _ = checkpoints.restore(BEFORE, run.built.abstract)
    found = dataclasses.replace(run, state=dataclasses.replace(state, cursor=state.cursor + 1)).run(AFTER)
    assert relative(found, losses) > 1e-3
