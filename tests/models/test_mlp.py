"""The perceptron is its formula, its dropout is data, and a model without tokens trains like any other."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from experiments import digits_mlp
from lepjax.checks import check_labels
from lepjax.core import rng
from lepjax.core.cost import traced_flops
from lepjax.core.errors import UserError
from lepjax.core.precision import policy
from lepjax.data.source import Splits
from lepjax.experiment import Steps, build
from lepjax.models.mlp import Mlp
from lepjax.ops.dropout import Dropout
from lepjax.run.compiled import compile_step, planned_shapes
from lepjax.run.train import train
from lepjax.testing import assert_compiles_once, assert_mesh_equivalent

X = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
SMALL = Mlp(features=7, hidden=(8, 6), num_labels=3)


def made(recipe):
    model = recipe.build(policy("float32"))
    params, state = model.init(jax.random.key(0))
    return model, params, state


def by_hand(params, x, activation):
    """The same in numpy, float64."""
    for layer in params.get("hidden", {}).values():
        x = activation(x @ np.float64(layer["kernel"]) + layer["bias"])
    return x @ np.float64(params["classifier"]["kernel"]) + params["classifier"]["bias"]


def check_parity(recipe, activation, by_hand=by_hand):
    model, params, state = made(recipe)
    np.testing.assert_allclose(model.apply(params, state, X)[0], by_hand(params, X, activation), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "activation"), {"relu": lambda x: np.maximum(x, 0), "tanh": np.tanh}.items(), ids=["relu", "tanh"]
)
def test_it_is_its_formula(name, activation):
    check_parity(dataclasses.replace(SMALL, activation=name), activation)


def test_without_hidden_layers_it_is_linear():
    check_parity(dataclasses.replace(SMALL, hidden=()), None)


def test_sabotage_another_activation_is_another_function():
    with pytest.raises(AssertionError):
        check_parity(SMALL, np.tanh)


def test_layers_begin_with_the_variance_of_their_input():
    """He et al. (2015): after ReLU, the second moment of every layer's output is that of its input."""
    _, params, _ = made(Mlp(features=400, hidden=(400, 400), num_labels=400))
    for layer in params["hidden"].values():
        assert abs(float(jnp.std(layer["kernel"])) - (2 / 400) ** 0.5) < 1e-3
    assert abs(float(jnp.std(params["classifier"]["kernel"])) - 400**-0.5) < 1e-3


def test_the_rate_of_dropout_is_data():
    model, params, state = made(SMALL)
    keys = rng.row_keys(rng.seed_key(0, rng.TRAIN), len(X))
    traces = []

    @jax.jit
    def logits(rate):
        traces.append(rate)
        return model.apply(params, state, X, drop=Dropout(rate, keys))[0]

    plain = model.apply(params, state, X)[0]
    np.testing.assert_allclose(logits(0.0), plain, atol=1e-6)
    assert np.abs(logits(0.5) - plain).max() > 0.1
    np.testing.assert_allclose(logits(1.0), np.broadcast_to(params["classifier"]["bias"], (5, 3)), atol=1e-6)
    assert len(traces) == 1
    assert SMALL.hparams() == {} and dataclasses.replace(SMALL, dropout=0.1).hparams() == {"dropout": 0.1}


def test_flops_are_those_of_the_program():
    experiment = dataclasses.replace(digits_mlp.experiment(), mesh="data=1")
    built = build(experiment)
    batch = planned_shapes(built.source, built.plan.shapes(), built.placement)[0]
    told = experiment.model.flops_per_token(1) * experiment.data.batch_size
    assert traced_flops(jax.make_jaxpr(built.step)(built.abstract, batch)) == told


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"features": 0}, "model.features: 0. Use 1 to"),
        ({"num_labels": 0}, "model.num_labels: 0. Use 1 to"),
        ({"hidden": (8, 0)}, r"model.hidden: \(8, 0\). Use widths of 1 to"),
        ({"activation": "sine"}, "model.activation: 'sine'. Use gelu,"),
        ({"dropout": 1.5}, "model.dropout: 1.5 is no rate"),
    ],
)
def test_what_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(SMALL, **fields)


def test_another_number_of_classes_is_refused():
    experiment = dataclasses.replace(digits_mlp.experiment(), model=SMALL)
    with pytest.raises(UserError, match="the data has 10 labels, the model 3. Pass --model.num-labels 10"):
        check_labels(experiment, Splits(train=None, evaluation={}, labels=tuple("0123456789")))


def test_an_axis_that_does_not_divide_is_one_line():
    experiment = dataclasses.replace(digits_mlp.experiment(), model=Mlp(hidden=(250,)), mesh="data=2,tensor=4")
    with pytest.raises(UserError, match="mlp of size 250 does not divide over tensor=4"):
        build(experiment)


# ---- the whole of a run ----


def short(tmp_path, **changes):
    base = dataclasses.replace(digits_mlp.experiment(), length=Steps(100), mesh="data=1", run_dir=str(tmp_path / "run"))
    return dataclasses.replace(base, **changes)


def test_it_learns_digits(tmp_path, capsys):
    outcome = train(short(tmp_path), console=Console(width=200))
    assert outcome.result["test_accuracy"] > 0.9
    out = capsys.readouterr().out
    assert "step     64 examples (64 rows)" in out and "examples/s, MFU" in out and "tokens" not in out
    lines = [json.loads(line) for line in outcome.directory.metrics.read_text().splitlines()]
    assert any("train_loss" in line for line in lines) and outcome.result["tokens"] == 6400


def test_sabotage_without_a_learning_rate_it_does_not(tmp_path):
    optimizer = dataclasses.replace(digits_mlp.experiment().optimizer, learning_rate=0.0)
    outcome = train(short(tmp_path, optimizer=optimizer, final=()), console=Console(quiet=True))
    assert outcome.result["test_accuracy"] < 0.5


def test_the_mesh_does_not_change_the_losses():
    assert_mesh_equivalent(digits_mlp.experiment(), meshes=("data=2,fsdp=2,tensor=2",), steps=5)


def test_nothing_compiles_later():
    assert_compiles_once(dataclasses.replace(digits_mlp.experiment(), mesh="data=1"))


def test_a_batch_of_another_shape_is_named():
    built = build(dataclasses.replace(digits_mlp.experiment(), mesh="data=1"))
    (batch,) = planned_shapes(built.source, built.plan.shapes(), built.placement)
    other = {name: jax.ShapeDtypeStruct((32, *x.shape[1:]), x.dtype, sharding=x.sharding) for name, x in batch.items()}
    run = compile_step(built.step, built.abstract, [batch, other], built.placement)
    with pytest.raises(
        UserError, match=r"a batch of features \(16, 64\). It was compiled for \[\(32, 64\), \(64, 64\)\]"
    ):
        run(built.abstract, {name: np.zeros((16, *x.shape[1:]), x.dtype) for name, x in batch.items()})
