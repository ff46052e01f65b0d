"""Sharding is a placement, never part of the maths: every mesh gives one device's losses and gradients."""

import dataclasses

import jax
import numpy as np
import pytest

from lepjax.core import rng
from lepjax.core.optimizers import Adafactor, AdamW, Muon
from lepjax.data.loader import place
from lepjax.tasks.task import make_loss
from tests.collectives import collectives
from tests.tiny import CI_MESHES, MESHES, relative, stepper, tiny

STEPS = 20
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def one_device():
    return stepper(tiny(), devices=1).run(STEPS)


def meshes():
    return [pytest.param(m, marks=[] if m in CI_MESHES else [pytest.mark.full]) for m in MESHES]


def gradients(experiment, devices):
    """Step-1 gradients by leaf, gathered."""
    run = stepper(experiment, devices)
    built = run.built
    rows = built.batches(1)[0]
    batch = place(rows, {name: built.placement.batch(array, name) for name, array in rows.items()})
    loss = make_loss(experiment.task, built.model)

    def mean(params, state, batch):
        keys = rng.row_keys(jax.random.fold_in(state.key, state.step), batch["weight"].shape[0])
        (term,) = loss(params, state.model_state, batch, state.hparams, keys, True)[0].values()
        return term.sum / term.weight

    with built.placement.scope():
        grads = jax.jit(jax.grad(mean))(run.state.params, run.state, batch)
    return jax.tree.map(np.asarray, grads)


@pytest.mark.parametrize("mesh", meshes())
def test_losses_equal_one_device(mesh, one_device):
    run = stepper(tiny(mesh=mesh))
    losses = run.run(STEPS)
    assert relative(losses, one_device) <= TOLERANCE
    assert losses[-1] < losses[0]

    axes = dict(part.split("=") for part in mesh.split(","))
    found = collectives(run.compiled, run.built.placement.mesh)
    touched = {axis for _, group in found for axis in group}
    assert set(axes) <= touched, f"no collective along {set(axes) - touched}: {found}"
    if "fsdp" in axes:
        assert any(kind == "all-gather" and "fsdp" in group for kind, group in found)
    for axis in {"fsdp", "tensor"} & set(axes):
        assert sharded_share(run.state.params, axis) >= 0.9


@pytest.mark.parametrize("mesh", CI_MESHES[1:])
def test_first_gradients_equal_one_device(mesh):
    ours, theirs = gradients(tiny(mesh=mesh), 8), gradients(tiny(), 1)

    def close(a, b):
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b)

    jax.tree.map(close, ours, theirs)


def test_bfloat16_losses_equal_one_device_loosely():
    one = stepper(tiny(precision="bfloat16"), devices=1).run(5)
    mesh = stepper(tiny(precision="bfloat16", mesh="data=2,fsdp=2,tensor=2")).run(5)
    assert relative(mesh, one) <= 5e-3


def test_accumulation_with_dropout_equals_the_whole_batch(one_device):
    assert relative(stepper(tiny(accumulate=2, mesh="data=4")).run(STEPS), one_device) <= TOLERANCE


def test_sabotage_a_lost_shard_is_noticed(one_device):
    """What a dropped reduction does: one device's rows no longer count."""
    run = stepper(tiny(mesh="data=8"))
    run.change_batch = lambda rows: {**rows, "weight": np.where(np.arange(8) == 7, 0, rows["weight"])}
    assert relative(run.run(STEPS), one_device) > 100 * TOLERANCE


def test_sabotage_noise_that_depends_on_the_cut_is_noticed(one_device, monkeypatch):
    """What per-microbatch keys do: dropout changes with the way a batch is cut."""
    rows = rng.row_keys
    monkeypatch.setattr("lepjax.core.rng.row_keys", lambda key, n: rows(key, n)[::-1])
    assert relative(stepper(tiny(), devices=1).run(STEPS), one_device) > 100 * TOLERANCE


def test_sabotage_replicated_parameters_are_noticed():
    run = stepper(tiny(mesh="fsdp=4,tensor=2"))
    whole = jax.device_put(run.state.params, run.built.placement.replicated)
    assert sharded_share(whole, "fsdp") == 0.0


OPTIMIZERS = {
    "adamw": AdamW(),
    "adafactor": Adafactor(factor_from=16),
    "muon": Muon(),
    "masked": AdamW(freeze=r"^h\.0\.", lr_multipliers=((r"^h\.1\.", 0.5),), no_decay=r"bias$|^w.e\."),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_state_is_sharded(name):
    """At least 95 % of its bytes lie on one device only once per replica group."""
    experiment = tiny(optimizer=OPTIMIZERS[name], mesh="fsdp=4,tensor=2")
    experiment = dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, width=256, heads=8))
    run = stepper(experiment)
    run.run(1)
    arrays = [x for x in jax.tree.leaves(run.state.opt_state) if x.ndim]
    total = sum(x.nbytes for x in arrays)
    sharded = sum(x.nbytes for x in arrays if not x.sharding.is_fully_replicated)
    assert sharded / total >= 0.95
    assert sum(x.addressable_shards[0].data.nbytes for x in arrays) <= 0.5 * total


def sharded_share(params, axis):
    """The share of bytes whose spec names the axis, checked against the shards that really exist."""
    total = cut = 0
    for x in jax.tree.leaves(params):
        total += x.nbytes
        names = [name for entry in x.sharding.spec if entry for name in ((entry,) if isinstance(entry, str) else entry)]
        if axis in names:
            assert x.addressable_shards[0].data.nbytes <= x.nbytes // x.sharding.mesh.shape[axis]
            cut += x.nbytes
    return cut / total
