"""An encoder on a mesh: one device's losses, dropout on; what makes it fast on a CPU costs no collective."""

import dataclasses

import jax
import numpy as np
import pytest

from lepjax.data.batching import Packed
from lepjax.testing import relative, stepper
from tests.labelled import Labelled, labelled

STEPS = 20
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def one_device():
    return on_one(labelled()).run(STEPS)


def on_one(experiment):
    return stepper(experiment, jax.devices()[:1])


def test_no_activation_is_moved():
    """Merging rows and places for the dense layers, or cutting heads for attention, tells nothing."""
    found = stepper(labelled(mesh="data=2,fsdp=2,tensor=2")).collectives()
    assert not [c for c in found if c.kind == "all-to-all"]
    assert not [c for c in found if c.kind == "all-gather" and "data" in c.axes]


def test_packed_rows_equal_one_device():
    data = Labelled(batch_size=8, batching=Packed(length=32, slots=4))
    one = on_one(labelled(data=data)).run(5)
    assert relative(stepper(labelled(data=data, mesh="data=4,tensor=2")).run(5), one) <= TOLERANCE


def test_scanned_layers_equal_unrolled_ones(one_device):
    model = dataclasses.replace(labelled().model, scan=True)
    assert relative(on_one(labelled(model=model)).run(STEPS), one_device) <= TOLERANCE


@pytest.mark.full  # the fast tier has that of GPT
def test_sabotage_a_lost_shard_is_noticed(one_device):
    run = stepper(labelled(mesh="data=8"))
    run.change_batch = lambda rows: {**rows, "weight": np.where(np.arange(8) == 7, 0, rows["weight"])}
    assert relative(run.run(STEPS), one_device) > 100 * TOLERANCE
