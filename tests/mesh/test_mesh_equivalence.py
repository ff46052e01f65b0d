"""Sharding is a placement, never part of the maths: every mesh gives one device's losses and gradients."""

import dataclasses

import jax
import numpy as np
import pytest

from lepjax.core import rng
from lepjax.core.optimizers import Adafactor, AdamW, Muon
from lepjax.data.loader import place
from lepjax.tasks.task import make_loss
from lepjax.testing import (
    Budget,
    assert_collective_budget,
    assert_mesh_equivalent,
    relative,
    sharded_share,
    stepper,
)
from lepjax.testing.meshes import check_in_use
from tests.mesh.families import FAMILIES
from tests.tiny import tiny

STEPS = 20
TOLERANCE = 1e-5
MESHES = (
    "data=8",
    "fsdp=8",
    "tensor=8",
    "sequence=8",
    "data=4,fsdp=2",
    "data=2,fsdp=4",
    "data=4,tensor=2",
    "data=2,tensor=4",
    "data=2,sequence=4",
    "fsdp=4,tensor=2",
    "fsdp=2,tensor=4",
    "data=2,fsdp=2,tensor=2",
    "fsdp=2,tensor=2,sequence=2",
)
FAST = {  # the rest: `pytest -m full`
    "gpt": ("fsdp=4,tensor=2", "data=2,sequence=4"),
    "bert": ("data=2,fsdp=2,tensor=2",),
    "llama": (),  # as `grouped`
    "grouped": ("data=2,fsdp=2,tensor=2",),
}
REPLICATED = "Involuntary full rematerialization"  # the partitioner's warning: it holds a whole array on every device
NARROW = {"bert": 4, "grouped": 4}  # heads over which `tensor` can be cut


def cases():
    for family in FAMILIES:
        for mesh in MESHES:
            if f"tensor={NARROW.get(family, 0) * 2}" not in mesh:
                yield pytest.param(family, mesh, marks=[] if mesh in FAST[family] else [pytest.mark.full])


def on(devices):
    return jax.devices()[:devices]


@pytest.fixture(scope="module")
def one_device():
    return stepper(tiny(), on(1)).run(STEPS)


@pytest.mark.parametrize(("family", "mesh"), list(cases()))
def test_losses_equal_one_device(family, mesh, capfd):
    assert_mesh_equivalent(FAMILIES[family](), [mesh], STEPS, TOLERANCE)
    assert REPLICATED not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("family", "mesh"),
    [
        ("gpt", "data=2,fsdp=2,tensor=2"),
        pytest.param("bert", "data=2,fsdp=2,tensor=2", marks=pytest.mark.full),
        pytest.param("llama", "fsdp=2,tensor=2,sequence=2", marks=pytest.mark.full),
    ],
)
def test_bfloat16_losses_equal_one_device_loosely(family, mesh):
    assert_mesh_equivalent(FAMILIES[family](precision="bfloat16"), [mesh])


@pytest.mark.parametrize("mesh", [pytest.param("fsdp=4,tensor=2", marks=pytest.mark.full), "data=2,fsdp=2,tensor=2"])
def test_first_gradients_equal_one_device(mesh):
    ours, theirs = gradients(tiny(mesh=mesh), 8), gradients(tiny(), 1)

    def close(a, b):
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b)

    jax.tree.map(close, ours, theirs)


def gradients(experiment, devices):
    """Step-1 gradients by leaf, gathered."""
    run = stepper(experiment, on(devices))
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


def test_accumulation_with_dropout_equals_the_whole_batch(one_device):
    assert relative(stepper(tiny(accumulate=2, mesh="data=4")).run(STEPS), one_device) <= TOLERANCE


# ---- what a step may tell ----


def test_data_parallel_reduces_each_gradient_once():
    """Four calls, because the compiler joins the gradients; their bytes are the parameters' and a few sums."""
    run = stepper(tiny(mesh="data=8"))
    size = sum(x.nbytes for x in jax.tree.leaves(run.state.params))
    assert_collective_budget(run.collectives(), {"all-reduce": Budget(6, 1.5 * size)})


def test_sharded_parameters_are_gathered_for_forward_and_backward_and_never_moved():
    run = stepper(tiny(mesh="fsdp=8"))
    size = sum(x.nbytes for x in jax.tree.leaves(run.state.params))
    budget = {"all-gather": Budget(40, 2.5 * size), "all-reduce": Budget(10, 1.5 * size)}
    assert_collective_budget(run.collectives(), budget)
    with pytest.raises(AssertionError, match=r"all-gather: \d+ of [\d,]+ bytes along fsdp, allowed 1 of"):
        assert_collective_budget(run.collectives(), {**budget, "all-gather": Budget(1)})
    with pytest.raises(AssertionError, match="all-reduce"):  # a kind without a budget
        assert_collective_budget(run.collectives(), {"all-gather": budget["all-gather"]})


# ---- sabotage ----


def test_sabotage_a_lost_shard_is_noticed(one_device):
    """What a dropped reduction does: one device's rows no longer count."""
    run = stepper(tiny(mesh="data=8"))
    run.change_batch = lambda rows: {**rows, "weight": np.where(np.arange(8) == 7, 0, rows["weight"])}
    assert relative(run.run(STEPS), one_device) > 100 * TOLERANCE


def test_sabotage_noise_that_depends_on_the_cut_is_noticed(one_device, monkeypatch):
    """What per-microbatch keys do: dropout changes with the way a batch is cut."""
    rows = rng.row_keys
    monkeypatch.setattr("lepjax.core.rng.row_keys", lambda key, n: rows(key, n)[::-1])
    assert relative(stepper(tiny(), on(1)).run(STEPS), one_device) > 100 * TOLERANCE


def test_sabotage_a_mesh_that_is_not_used_is_noticed():
    """Parameters that lie whole on every device, and an axis along which nothing is told."""
    run = stepper(tiny(mesh="fsdp=4,tensor=2"))
    whole = jax.device_put(run.state.params, run.built.placement.replicated)
    assert sharded_share(whole, "fsdp") == 0.0
    with pytest.raises(AssertionError, match=r"nothing is told along \['sequence'\]"):
        check_in_use(run, "fsdp=4,sequence=2", 8)


@pytest.mark.skipif(jax.__version_info__ >= (0, 12), reason="its partitioner finds another way")
def test_sabotage_a_table_cut_both_ways_is_warned_of(monkeypatch, capfd):
    """Without the constraint in `look_up`. (The odd width keeps the program out of the compile cache.)"""
    monkeypatch.setattr("lepjax.models.layers.constrain", lambda x, *axes: x)
    model = dataclasses.replace(tiny().model, width=48 + 8 * (int(np.random.default_rng().integers(100))))
    stepper(tiny(mesh="data=2,fsdp=2,tensor=2", model=model))
    assert REPLICATED in capfd.readouterr().err


def test_sabotage_a_loss_that_differs_is_named():
    named = r"mesh data=2,fsdp=2,tensor=2: step \d+: loss [\d.]+, one device [\d.]+, off by"
    with pytest.raises(AssertionError, match=named):
        assert_mesh_equivalent(tiny(), ["data=2,fsdp=2,tensor=2"], steps=3, tolerance=-1.0)


# ---- optimizers ----

OPTIMIZERS = {
    "adamw": AdamW(),
    "adafactor": Adafactor(factor_from=16),
    "muon": Muon(),
    "masked": AdamW(freeze=r"^h\.0\.", lr_multipliers=((r"^h\.1\.", 0.5),), no_decay=r"bias$|^w.e\."),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ("adamw", "muon") else pytest.mark.full) for name in OPTIMIZERS]
)
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


# ---- the host's memory ----


@pytest.mark.parametrize("change", [{"offload_optimizer": True}, {"remat": "offload"}])
def test_what_lies_on_the_host_changes_no_loss(change, one_device):
    model = dataclasses.replace(tiny().model, remat=change.get("remat", "none"))
    offload = change.get("offload_optimizer", False)
    run = stepper(tiny(mesh="data=2,fsdp=2,tensor=2", model=model, offload_optimizer=offload))
    assert relative(run.run(5), one_device[:5]) <= TOLERANCE
    kinds = {x.sharding.memory_kind for x in jax.tree.leaves(run.state.opt_state)}
    assert kinds == ({"pinned_host"} if offload else {"device"})
