"""An encoder on a mesh: one device's losses, dropout on; what makes it fast on a CPU costs no collective."""

import dataclasses

import numpy as np
import pytest

from lepjax.data.batching import Packed
from tests.collectives import collectives
from tests.labelled import Labelled, labelled
from tests.tiny import relative, stepper

STEPS = 20
TOLERANCE = 1e-5
MESHES = ["data=8", pytest.param("data=4,tensor=2", marks=pytest.mark.full), "data=2,fsdp=2,tensor=2"]


@pytest.fixture(scope="module")
def one_device():
    return stepper(labelled(), devices=1).run(STEPS)


@pytest.mark.parametrize("mesh", MESHES)
def test_losses_equal_one_device(mesh, one_device):
    run = stepper(labelled(mesh=mesh))
    assert relative(run.run(STEPS), one_device) <= TOLERANCE
    found = collectives(run.compiled, run.built.placement.mesh)
    axes = {part.split("=")[0] for part in mesh.split(",")}
    assert axes <= {axis for _, group in found for axis in group}
    # Merging rows and places for the dense layers, or cutting heads for attention, must not move activations about.
    assert not [kind for kind, _ in found if kind == "all-to-all"]
    assert not [group for kind, group in found if kind == "all-gather" and "data" in group]


def test_packed_rows_equal_one_device():
    data = Labelled(batch_size=8, batching=Packed(length=32, slots=4))
    one = stepper(labelled(data=data), devices=1).run(5)
    assert relative(stepper(labelled(data=data, mesh="data=4,tensor=2")).run(5), one) <= TOLERANCE


def test_scanned_layers_equal_unrolled_ones(one_device):
    model = dataclasses.replace(labelled().model, scan=True)
    assert relative(stepper(labelled(model=model), devices=1).run(STEPS), one_device) <= TOLERANCE


def test_sabotage_a_lost_shard_is_noticed(one_device):
    run = stepper(labelled(mesh="data=8"))
    run.change_batch = lambda rows: {**rows, "weight": np.where(np.arange(8) == 7, 0, rows["weight"])}
    assert relative(run.run(STEPS), one_device) > 100 * TOLERANCE
