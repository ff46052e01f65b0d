"""The training step on a linear model whose gradient is known in closed form."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lepjax.core import loss_scale, rng
from lepjax.core.errors import UserError
from lepjax.core.optimizers import SGD, Adam, AdamW
from lepjax.core.parameters import Leaf
from lepjax.core.precision import FLOAT16
from lepjax.core.schedules import Constant
from lepjax.core.state import as_leaves, create
from lepjax.core.step import Term, make_train_step
from lepjax.ops.dropout import Dropout

ROWS, LENGTH, SIZE, LR = 8, 3, 4, 0.1
LEAVES = {"kernel": Leaf("kernel", (SIZE,), np.float32, (None,)), "bias": Leaf("bias", (), np.float32, ())}
PLAIN_SGD = SGD(LR, momentum=0.0)


def random_batch(seed=0):
    """Masks of unequal length; the last three rows are padding."""
    noise = np.random.default_rng(seed)
    lengths = np.array([3, 1, 2, 3, 1, 3, 2, 3])
    return {
        "x": noise.normal(size=(ROWS, LENGTH, SIZE)).astype(np.float32),
        "y": noise.normal(size=(ROWS, LENGTH)).astype(np.float32),
        "mask": (np.arange(LENGTH) < lengths[:, None]).astype(np.float32),
        "weight": np.array([1, 1, 1, 0.5, 1, 0, 0, 0], np.float32),
    }


def loss(params, model_state, batch, hparams, keys, train):
    """Mean squared error over the tokens that count."""
    x = Dropout(hparams.get("dropout"), keys if train else None)(batch["x"])
    error = (x @ params["kernel"] + params["bias"] - batch["y"]) ** 2
    weight = batch["weight"][:, None] * batch["mask"]
    model_state = {name: 0.9 * value + 0.1 * batch["x"].mean() for name, value in model_state.items()}
    return {"mse": Term((error * weight).sum(), weight.sum())}, model_state, {}


def closed_form(params, batch):
    """The loss and its gradient in float64 numpy."""
    weight = batch["weight"][:, None] * batch["mask"]
    weight = weight / weight.sum()
    error = batch["x"].astype(np.float64) @ params["kernel"] + params["bias"] - batch["y"]
    gradient = {"kernel": 2 * np.einsum("rt,rtd->d", weight * error, batch["x"]), "bias": 2 * (weight * error).sum()}
    return (weight * error**2).sum(), gradient


def start(recipe=PLAIN_SGD, scale=None, ema=False, model_state=None, **hparams):
    params = {"kernel": np.random.default_rng(9).normal(size=SIZE).astype(np.float32), "bias": jnp.float32(-0.5)}
    hparams = {**recipe.hparams(100), "ema_decay": 0.9, **hparams}
    opt_state = recipe.build(LEAVES)(hparams).init(params)
    key = rng.seed_key(0, rng.TRAIN)
    return create(params, model_state or {}, opt_state, hparams, key, scale or loss_scale.none(), ema)


@functools.cache
def compiled(loss=loss, recipe=PLAIN_SGD, **options):
    return jax.jit(make_train_step(loss, recipe.build(LEAVES), recipe.schedule, **options))


def same_bits(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)


def assert_close(ours, expected):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def moved(params, gradient, factor=1.0):
    return jax.tree.map(lambda p, g: p - LR * factor * g, params, gradient)


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_any_accumulation_equals_one_gradient_of_the_whole_batch(accumulate):
    state, batch = start(), random_batch()
    after, metrics = compiled(accumulate=accumulate)(state, batch)
    value, gradient = closed_form(state.params, batch)
    assert_close(after.params, moved(state.params, gradient))
    assert_close([metrics["loss"], metrics["mse"], metrics["grad_norm"]], [value, value, optax.tree.norm(gradient)])


def test_averaging_the_means_of_microbatches_would_not():
    def mean_of_means(*args):
        terms, model_state, aux = loss(*args)
        rows = jnp.float32(args[2]["weight"].shape[0])
        return {"mse": Term(terms["mse"].mean * rows, rows)}, model_state, aux

    state, batch = start(), random_batch()
    expected = moved(state.params, closed_form(state.params, batch)[1])
    assert_close(compiled(mean_of_means)(state, batch)[0].params, expected)
    with pytest.raises(AssertionError):
        assert_close(compiled(mean_of_means, accumulate=4)(state, batch)[0].params, expected)


def test_dropout_does_not_depend_on_the_accumulation():
    state, batch = start(dropout=0.3), random_batch()
    whole, four = (compiled(accumulate=n)(state, batch)[0].params for n in (1, 4))
    assert_close(four, whole)
    with pytest.raises(AssertionError):
        assert_close(whole, moved(state.params, closed_form(state.params, batch)[1]))


def test_one_key_for_a_microbatch_would_depend_on_the_accumulation():
    def one_key(params, model_state, batch, hparams, keys, train):
        noise = jax.random.key_data(keys[0])[0] / 2.0**32
        return loss(params, model_state, {**batch, "x": batch["x"] * noise}, hparams, keys, False)

    state, batch = start(), random_batch()
    with pytest.raises(AssertionError):
        assert_close(*(compiled(one_key, accumulate=n)(state, batch)[0].params for n in (1, 4)))


def test_noise_differs_from_step_to_step_and_the_key_stays():
    state, batch = start(PLAIN_SGD, learning_rate=0.0, dropout=0.3), random_batch()
    step = compiled()
    first, a = step(state, batch)
    second, b = step(first, batch)
    assert same_bits(state.params, second.params) and a["loss"] != b["loss"]
    assert jnp.array_equal(jax.random.key_data(state.key), jax.random.key_data(second.key))


def test_unscale_then_norm_then_clip_then_update():
    state, batch = start(scale=loss_scale.static(2.0**15), clip_norm=0.5), random_batch()
    gradient = jax.tree.map(jnp.float32, closed_form(state.params, batch)[1])
    theirs = optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(LR))
    clipped = jax.jit(lambda g: optax.apply_updates(state.params, theirs.update(g, theirs.init(state.params))[0]))
    after, metrics = compiled()(state, batch)
    assert metrics["grad_norm"] > 0.6
    assert_close(after.params, clipped(gradient))
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(gradient), rtol=1e-6)

    clipped_before_unscaling = clipped(jax.tree.map(lambda g: g * np.float32(2**15), gradient))
    unscaled = jax.tree.map(lambda p, new: p + (new - p) / 2**15, state.params, clipped_before_unscaling)
    with pytest.raises(AssertionError):
        assert_close(after.params, unscaled)


def test_a_gradient_below_the_clip_is_left_alone():
    state, batch = start(clip_norm=1e3), random_batch()
    after, _ = compiled()(state, batch)
    assert_close(after.params, moved(state.params, closed_form(state.params, batch)[1]))


ADAMW = AdamW(LR, weight_decay=0.1, schedule=Constant(warmup=10))


def poisoned(params, model_state, batch, hparams, keys, train):
    """A loss that is not finite where `batch["poison"]` is not, with finite gradients."""
    terms, model_state, aux = loss(params, model_state, batch, hparams, keys, train)
    return {**terms, "poison": Term(batch["poison"].sum(), jnp.float32(1.0))}, model_state, aux


def poisons():
    batch = random_batch()
    clean = {**batch, "poison": np.zeros(ROWS, np.float32)}
    infinite = clean["x"].copy()
    infinite[0, 0, 0] = np.inf
    flagged = clean["poison"].copy()
    flagged[2] = np.nan
    return {"clean": clean, "gradient": {**clean, "x": infinite}, "loss": {**clean, "poison": flagged}}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", ["gradient", "loss"])
def test_a_step_that_is_not_finite_changes_nothing_it_should_not(kind, accumulate):
    state = start(ADAMW, loss_scale.dynamic(8.0), ema=True, model_state={"mean": jnp.float32(0.25)})
    step, batches = compiled(poisoned, ADAMW, accumulate=accumulate), poisons()
    first, _ = step(state, batches["clean"])  # warmup: the learning rate of step 0 is 0
    before, _ = step(first, batches["clean"])
    after, metrics = step(before, batches[kind])
    assert not np.isfinite(metrics["loss"])
    for name in ("params", "opt_state", "model_state", "ema", "hparams"):
        assert same_bits(getattr(before, name), getattr(after, name)), name
        assert name == "hparams" or not same_bits(getattr(first, name), getattr(before, name)), name
    assert (after.step, after.cursor, after.skipped, metrics["skipped"]) == (3, 3, 1, 1)
    assert (before.loss_scale.scale, after.loss_scale.scale) == (8.0, 4.0)

    later, metrics = step(after, batches["clean"])
    (_, count), *_ = optax.tree.get_all_with_path(later.opt_state, "count")
    assert count + later.skipped == later.step == 4
    np.testing.assert_allclose(
        metrics["learning_rate"], LR * 3 / 10, rtol=1e-6, err_msg="the schedule reads state.step"
    )


def test_finite_gradients_of_a_nan_loss_are_skipped_too():
    state, batch = start(ADAMW), poisons()["loss"]
    after, metrics = compiled(poisoned, ADAMW)(state, batch)
    assert np.isnan(metrics["loss"]) and np.isfinite(metrics["grad_norm"])
    assert after.skipped == 1 and same_bits(state.params, after.params)


def test_a_model_state_that_is_not_finite_is_skipped_too():
    def broken_statistics(*args):
        terms, _, aux = loss(*args)
        return terms, {"mean": jnp.float32(jnp.inf)}, aux

    state = start(model_state={"mean": jnp.float32(0.25)})
    after, _ = compiled(broken_statistics)(state, random_batch())
    assert after.skipped == 1 and same_bits(state.params, after.params) and after.model_state == {"mean": 0.25}


def test_without_the_guard_parameters_would_become_nan():
    state, batch = start(), poisons()["gradient"]
    theirs = optax.adamw(LR)

    @jax.jit
    def unguarded(params):
        gradient = jax.grad(lambda p: loss(p, {}, batch, {}, None, False)[0]["mse"].mean)(params)
        return optax.apply_updates(params, theirs.update(gradient, theirs.init(params), params)[0])

    assert np.isnan(unguarded(state.params)["kernel"]).any()


def test_a_term_that_couples_rows_cannot_be_accumulated():
    def coupled(*args):
        terms, model_state, aux = loss(*args)
        return {"contrast": dataclasses.replace(terms["mse"], decomposable=False)}, model_state, aux

    state, batch = start(), random_batch()
    with pytest.raises(UserError, match="accumulate 2: loss term 'contrast' couples the rows"):
        compiled(coupled, accumulate=2)(state, batch)
    assert_close(compiled(coupled)(state, batch)[0].params, moved(state.params, closed_form(state.params, batch)[1]))


def test_rows_that_cannot_be_cut_equally_are_a_user_error():
    with pytest.raises(UserError, match="accumulate 3: a batch of 8 rows cannot be cut into 3 equal microbatches"):
        compiled(accumulate=3)(start(), random_batch())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_batch_of_padding_has_loss_zero_and_moves_nothing(accumulate):
    state, batch = start(), {**random_batch(), "weight": np.zeros(ROWS, np.float32)}
    after, metrics = compiled(accumulate=accumulate)(state, batch)
    assert metrics["loss"] == metrics["mse"] == metrics["grad_norm"] == after.skipped == 0
    assert same_bits(state.params, after.params)


def test_terms_are_weighed_by_their_coefficients_and_aux_is_only_reported():
    def several(params, model_state, batch, hparams, keys, train):
        terms, model_state, _ = loss(params, model_state, batch, hparams, keys, train)
        doubled = dataclasses.replace(terms["mse"], coefficient=hparams["doubled"])
        return {**terms, "doubled": doubled}, model_state, {"watched": terms["mse"]}

    state, batch = start(doubled=2.0), random_batch()
    value, gradient = closed_form(state.params, batch)
    after, metrics = compiled(several, accumulate=2)(state, batch)
    assert_close(after.params, moved(state.params, gradient, 3.0))
    assert_close([metrics[name] for name in ("loss", "doubled", "watched")], [3 * value, value, value])


def test_ema_follows_its_formula():
    state, step = start(ema=True, ema_decay=0.75), compiled()
    expected = jax.tree.map(np.float64, state.params)
    for seed in range(3):
        state, _ = step(state, random_batch(seed))
        expected = jax.tree.map(lambda e, p: 0.75 * e + 0.25 * np.float64(p), expected, state.params)
    assert_close(state.ema, expected)
    with pytest.raises(AssertionError):
        assert_close(state.ema, state.params)


def test_batch_statistics_are_updated_once_per_step():
    state, batch = start(model_state={"mean": jnp.float32(1.0)}), random_batch()
    for accumulate in (1, 4):
        after, _ = compiled(accumulate=accumulate)(state, batch)
        assert_close(after.model_state["mean"], 0.9 + 0.1 * batch["x"].mean())


def test_changed_hyperparameters_do_not_recompile():
    traces = []

    def traced(*args):
        traces.append(args)
        return loss(*args)

    state, step, batch = start(Adam(LR)), compiled(traced, Adam(LR)), random_batch()
    results = []
    for change in ({}, {"learning_rate": 0.2}, {"lr_scale": 0.1}, {"eps": 1.0}, {"warmup_steps": 5.0}):
        changed = dataclasses.replace(state, hparams={**state.hparams, **as_leaves(change)})
        results.append(np.asarray(step(changed, batch)[0].params["kernel"]))
    assert len(traces) == 1
    assert len({result.tobytes() for result in results}) == 5


TOKENS = 16_000


def half_precision(params, model_state, batch, hparams, keys, train):
    """A float16 layer over 16,000 tokens, whose target is far away."""
    logits = batch["x"].astype(jnp.float16) @ params["kernel"].astype(jnp.float16)
    error = (logits - batch["y"].astype(jnp.float16)).astype(jnp.float32) ** 2
    return {"mse": Term(error.sum(), jnp.float32(error.size))}, model_state, {}


def test_float16_over_many_tokens_does_not_overflow_and_the_raw_sum_would():
    batch = {
        "x": np.full((ROWS, TOKENS // ROWS, SIZE), 0.5, np.float32),
        "y": np.full((ROWS, TOKENS // ROWS), 0.25, np.float32),
        "weight": np.ones(ROWS, np.float32),
    }
    state = start(scale=loss_scale.static(2.0**15))
    state = dataclasses.replace(state, params={**state.params, "kernel": np.zeros(SIZE, np.float32)})
    for accumulate in (1, 2):
        after, metrics = compiled(half_precision, policy=FLOAT16, accumulate=accumulate)(state, batch)
        assert after.skipped == 0
        np.testing.assert_allclose(metrics["grad_norm"], 0.5, rtol=1e-2)  # four times -2 * 0.25 * 0.5

    def raw_sum(params):
        return half_precision(params, {}, batch, {}, None, True)[0]["mse"].sum * 2.0**15

    assert not np.isfinite(jax.jit(jax.grad(raw_sum))(state.params)["kernel"] / TOKENS / 2**15).any()


def test_a_term_must_not_take_the_name_of_a_reported_metric():
    def named_loss(*arguments):
        terms, model_state, aux = loss(*arguments)
        return {"loss": terms["mse"]}, model_state, aux

    step = make_train_step(named_loss, PLAIN_SGD.build(LEAVES), Constant())
    params = {"kernel": jnp.zeros(SIZE), "bias": jnp.zeros(())}
    hparams = PLAIN_SGD.hparams(10)
    opt_state = PLAIN_SGD.build(LEAVES)(hparams).init(params)
    state = create(params, {}, opt_state, hparams, jax.random.key(0), loss_scale.none())
    with pytest.raises(UserError, match="must not be called 'loss'"):
        step(state, random_batch())
