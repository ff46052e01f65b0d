"""Recipes equal optax's optimizers, and stacked layers move like unrolled ones."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lepjax.core import optimizers
from lepjax.core.errors import UserError
from lepjax.core.optimizers import SGD, Adafactor, Adagrad, Adam, AdamW, Lion, Muon, freezing
from lepjax.core.parameters import Growth, Leaf, is_leaf
from lepjax.core.state import as_leaves

LR, STEPS, DEPTH = 0.02, 5, 3


def leaf(name, *shape, axes=None):
    return Leaf(name, shape, np.dtype("float32"), axes or (None,) * len(shape))


PLAIN = {
    "wte": {"embedding": leaf("wte.embedding", 10, 8)},
    "dense": {"kernel": leaf("dense.kernel", 8, 16), "bias": leaf("dense.bias", 16)},
    "norm": {"scale": leaf("norm.scale", 8)},
}
DECAYED = {"wte": {"embedding": True}, "dense": {"kernel": True, "bias": False}, "norm": {"scale": False}}


def random(leaves, seed, *leading):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(size=(*leading, *x.shape)).astype(np.float32), leaves, is_leaf=is_leaf)


def descend(transformation, params, gradients, hparams=None):
    """Parameters after one update per gradient; `transformation(hparams)` is built while tracing, as the step does."""

    @jax.jit
    def run(hparams, params, gradients):
        transform = transformation(hparams)

        def step(carry, gradient):
            params, state = carry
            updates, state = transform.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, transform.init(params)), gradients)[0][0]

    return jax.device_get(run(hparams, params, gradients))


def ours(recipe, leaves, params, gradients):
    return descend(recipe.build(leaves), params, gradients, as_leaves(recipe.hparams(100)))


@functools.cache
def of_optax(name):
    return descend(lambda _: PAIRS[name][1], random(PLAIN, 0), random(PLAIN, 1, STEPS))


def assert_close(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * np.abs(b).max())


def same_bits(a, b):
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()


def muon_of_optax():
    """Keller Jordan's split: contrib.muon for matrices, plain AdamW (which contrib.muon replaces by NAdam) for the rest."""
    muon = optax.contrib.muon(LR, beta=0.9, weight_decay=0.1, consistent_rms=0.2)
    adam = optax.adamw(
        LR, 0.8, 0.9, 1e-7, weight_decay=0.1, mask=lambda tree: jax.tree.map(lambda x: x.ndim == 2, tree)
    )
    labels = {"wte": "adam", "dense": {"kernel": "muon", "bias": "adam"}, "norm": "adam"}
    return optax.partition({"muon": muon, "adam": adam}, labels)


PAIRS = {
    "AdamW": (
        AdamW(LR, beta1=0.8, beta2=0.95, eps=1e-6, weight_decay=0.1),
        optax.adamw(LR, 0.8, 0.95, 1e-6, weight_decay=0.1, mask=DECAYED),
    ),
    "Adam": (Adam(LR, beta1=0.8, beta2=0.95, eps=1e-6), optax.adam(LR, 0.8, 0.95, 1e-6)),
    "SGD": (SGD(LR, momentum=0.8), optax.sgd(LR, 0.8)),
    "SGD nesterov, coupled decay": (
        SGD(LR, momentum=0.8, nesterov=True, weight_decay=0.1),
        optax.chain(optax.add_decayed_weights(0.1, DECAYED), optax.sgd(LR, 0.8, nesterov=True)),
    ),
    "Adagrad": (Adagrad(LR, initial_accumulator=0.2, eps=1e-6), optax.adagrad(LR, 0.2, 1e-6)),
    "Lion": (
        Lion(LR, beta1=0.8, beta2=0.95, weight_decay=0.1),
        optax.lion(LR, 0.8, 0.95, weight_decay=0.1, mask=DECAYED),
    ),
    "Adafactor": (
        Adafactor(LR, decay_exponent=0.7, update_clip=0.9, factor_from=4),
        optax.adafactor(LR, min_dim_size_to_factor=4, decay_rate=0.7, clipping_threshold=0.9),
    ),
    "Muon": (Muon(LR, beta=0.9, beta1=0.8, beta2=0.9, eps=1e-7, weight_decay=0.1), muon_of_optax()),
}


@pytest.mark.parametrize("name", PAIRS)
def test_equals_optax(name):
    assert_close(ours(PAIRS[name][0], PLAIN, random(PLAIN, 0), random(PLAIN, 1, STEPS)), of_optax(name))


@pytest.mark.parametrize(
    ("name", "change"),
    [("AdamW", {"beta2": 0.949}), ("AdamW", {"no_decay": ""}), ("SGD nesterov, coupled decay", {"nesterov": False})],
)
def test_another_setting_does_not_equal_optax(name, change):
    recipe = dataclasses.replace(PAIRS[name][0], **change)
    with pytest.raises(AssertionError):
        assert_close(ours(recipe, PLAIN, random(PLAIN, 0), random(PLAIN, 1, STEPS)), of_optax(name))


def test_adafactors_decay_is_decoupled_and_multiplied_by_the_learning_rate():
    params, gradients = random(PLAIN, 0), random(PLAIN, 1, 1)
    plain = ours(Adafactor(LR, factor_from=4), PLAIN, params, gradients)
    decayed = ours(Adafactor(LR, factor_from=4, weight_decay=0.1), PLAIN, params, gradients)
    expected = jax.tree.map(lambda p, new, d: new - LR * 0.1 * p if d else new, params, plain, DECAYED)
    assert_close(decayed, expected)


def with_zeros(tree):
    """The first of each row is -0.0 and the second 0.0."""
    return jax.tree.map(lambda x: np.concatenate([abs(x[..., :1]) * -0.0, abs(x[..., :1]) * 0.0, x[..., 2:]], -1), tree)


def still(recipe, leaves=PLAIN):
    """Parameters before and after steps with zero gradient."""
    params = with_zeros(random(leaves, 0))
    return params, ours(recipe, leaves, params, jax.tree.map(lambda p: np.zeros((STEPS, *p.shape), p.dtype), params))


DECAYING = [AdamW(LR, weight_decay=0.1), Lion(LR, weight_decay=0.1), Muon(LR, weight_decay=0.1), SGD(LR, weight_decay=0.1),
            Adafactor(LR, weight_decay=0.1, factor_from=4)]  # fmt: skip


@pytest.mark.parametrize("recipe", DECAYING, ids=lambda r: type(r).__name__)
def test_without_gradient_decay_shrinks_weights_and_leaves_excluded_and_frozen_ones_bitwise(recipe):
    before, after = still(dataclasses.replace(recipe, freeze="^wte"))
    kernel = np.abs(before["dense"]["kernel"])
    assert (np.abs(after["dense"]["kernel"]) < kernel)[kernel > 0].all()
    for held in (("dense", "bias"), ("norm", "scale"), ("wte", "embedding")):
        assert same_bits(before[held[0]][held[1]], after[held[0]][held[1]]), held


@pytest.mark.parametrize("change", [{"no_decay": ""}, {"no_decay": "scale$"}])
def test_decay_that_excludes_less_changes_the_bias(change):
    before, after = still(AdamW(LR, weight_decay=0.1, **change))
    assert not same_bits(before["dense"]["bias"], after["dense"]["bias"])


def test_frozen_parameters_stay_bitwise_under_real_gradients():
    params, gradients = with_zeros(random(PLAIN, 0)), random(PLAIN, 1, STEPS)
    after = ours(AdamW(LR, weight_decay=0.1, freeze="^dense"), PLAIN, params, gradients)
    assert same_bits(params["dense"]["kernel"], after["dense"]["kernel"])
    assert not same_bits(params["wte"]["embedding"], after["wte"]["embedding"])


def test_an_update_of_positive_zero_would_flip_negative_zeros(monkeypatch):
    held = optimizers.scale_by_rate

    def positive(*args):
        clear = optax.stateless(lambda updates, _: jax.tree.map(lambda u: jnp.where(u == 0, 0.0, u), updates))
        return optax.chain(held(*args), clear)

    recipe = AdamW(LR, freeze=r"^h\.1\.")  # XLA folds p + 0.0 away where a whole array is frozen
    before, after = still(recipe, STACKED)
    assert same_bits(before["h"]["kernel"][1], after["h"]["kernel"][1])
    monkeypatch.setattr(optimizers, "scale_by_rate", positive)
    before, after = still(recipe, STACKED)
    assert not same_bits(before["h"]["kernel"][1], after["h"]["kernel"][1])


def test_the_last_matching_lr_multiplier_wins():
    recipe = SGD(1.0, momentum=0.0, lr_multipliers=(("^dense", 0.5), ("bias$", 4.0), ("^norm", 0.0)))
    gradients = jax.tree.map(np.ones_like, random(PLAIN, 0, 1))
    start = jax.tree.map(np.zeros_like, random(PLAIN, 0))
    moved = jax.tree.map(lambda x: set(np.ravel(x).tolist()), ours(recipe, PLAIN, start, gradients))
    assert moved == {
        "wte": {"embedding": {-1.0}},
        "dense": {"kernel": {-0.5}, "bias": {-4.0}},
        "norm": {"scale": {0.0}},
    }


@pytest.mark.parametrize(
    ("setting", "field"),
    [
        ({"freeze": "^densse"}, "optimizer.freeze"),
        ({"lr_multipliers": (("^densse", 2.0),)}, "optimizer.lr_multipliers"),
        ({"no_decay": "^densse"}, "optimizer.no_decay"),
    ],
)
def test_a_pattern_that_matches_nothing_is_a_user_error(setting, field):
    with pytest.raises(UserError, match=f"{field}: '\\^densse' matches no parameter. .*dense"):
        AdamW(**setting).build(PLAIN)


def test_a_pattern_that_is_no_regular_expression_is_a_user_error():
    with pytest.raises(UserError, match=r"optimizer.freeze: '\(' is not a regular expression"):
        AdamW(freeze="(").build(PLAIN)


def test_the_default_recipe_suits_a_model_without_biases():
    AdamW().build({"dense": {"kernel": leaf("dense.kernel", 8, 16)}})


KERNEL, BIAS = (8, 16), (16,)
STACKED = {
    "h": {
        "kernel": leaf("h.*.kernel", DEPTH, *KERNEL, axes=("layers", "embed", "mlp")),
        "bias": leaf("h.*.bias", DEPTH, *BIAS, axes=("layers", "mlp")),
    },
    "dec": {"bias": leaf("dec.*.bias", 2, *BIAS, axes=("layers", "mlp"))},
    "norm": {"scale": leaf("norm.scale", 8)},
}
UNROLLED = {
    "h": {str(i): {"kernel": leaf(f"h.{i}.kernel", *KERNEL), "bias": leaf(f"h.{i}.bias", *BIAS)} for i in range(DEPTH)},
    "dec": {str(i): {"bias": leaf(f"dec.{i}.bias", *BIAS)} for i in range(2)},
    "norm": {"scale": leaf("norm.scale", 8)},
}
AS_PLAIN = jax.tree.map(lambda x: dataclasses.replace(x, axes=(None,) * len(x.shape)), STACKED, is_leaf=is_leaf)


def unroll(tree, axis=0):
    """A stacked tree of arrays in the shape of `UNROLLED`."""

    def layers(branch, depth):
        return {str(i): jax.tree.map(lambda x, i=i: np.take(x, i, axis), branch) for i in range(depth)}

    return {"h": layers(tree["h"], DEPTH), "dec": layers(tree["dec"], 2), "norm": tree["norm"]}


LAYERED = [
    AdamW(LR, weight_decay=0.1),
    Adafactor(LR, weight_decay=0.1, factor_from=4),
    Muon(LR, weight_decay=0.1),
]


def stacked_and_unrolled(recipe, stacked_leaves=STACKED):
    params, gradients = random(STACKED, 0), random(STACKED, 1, STEPS)
    stacked = ours(recipe, stacked_leaves, params, gradients)
    unrolled = ours(recipe, UNROLLED, unroll(params), unroll(gradients, 1))
    return params, unroll(stacked), unrolled


@pytest.mark.parametrize("recipe", LAYERED, ids=lambda r: type(r).__name__)
def test_stacked_layers_move_like_unrolled_ones(recipe):
    layerwise = (("^h.0", 0.25), ("^h.1", 0.5), ("^norm", 2.0))
    recipe = dataclasses.replace(
        recipe, lr_multipliers=layerwise, freeze=r"^h\.2\.kernel|^dec\.0", no_decay=r"h\.1\.bias"
    )
    params, stacked, unrolled = stacked_and_unrolled(recipe)
    assert_close(stacked, unrolled)
    moved = jax.tree.map(lambda a, b: not same_bits(a, b), unroll(params), stacked)
    assert moved["h"]["2"] == {"kernel": False, "bias": True}
    assert moved["h"]["1"] == {"kernel": True, "bias": True}
    assert moved["dec"] == {"0": {"bias": False}, "1": {"bias": True}}


GROWN = (AdamW(LR, weight_decay=0.1), SGD(LR, weight_decay=0.1))


@pytest.mark.parametrize("leaves", [STACKED, UNROLLED], ids=["stacked", "unrolled"])
@pytest.mark.parametrize("recipe", GROWN, ids=lambda r: type(r).__name__)
def test_what_has_grown_moves_at_its_own_rate_and_decays_alike(recipe, leaves):
    """As with a multiplier on the rate and its inverse on the decay: their product is what shrinks a parameter."""
    grown = jax.tree.map(lambda x: dataclasses.replace(x, growth=Growth(4.0, 2.0)), leaves, is_leaf=is_leaf)
    kernel = leaf("h.0.kernel", *KERNEL, axes=None)
    factor = recipe.width_rate(dataclasses.replace(kernel, growth=Growth(4.0, 2.0)))
    assert factor != 1.0
    params, gradients = random(leaves, 0), random(leaves, 1, STEPS)
    by_hand = dataclasses.replace(recipe, lr_multipliers=(("kernel$", factor),), weight_decay=0.1 / factor)
    kernels = [ours(r, ls, params, gradients)["h"] for r, ls in ((recipe, grown), (by_hand, leaves))]
    pick = (lambda h: h["kernel"]) if leaves is STACKED else (lambda h: [h[i]["kernel"] for i in sorted(h)])
    assert_close(*map(pick, kernels))
    with pytest.raises(AssertionError):  # without the inverse on the decay
        still = dataclasses.replace(by_hand, weight_decay=0.1)
        assert_close(pick(ours(still, leaves, params, gradients)["h"]), pick(kernels[0]))


@pytest.mark.parametrize("recipe", LAYERED[1:], ids=lambda r: type(r).__name__)
def test_taking_a_stack_for_one_array_moves_it_elsewhere(recipe):
    _, stacked, unrolled = stacked_and_unrolled(recipe, AS_PLAIN)
    with pytest.raises(AssertionError):
        assert_close(stacked["h"], unrolled["h"])


def test_adafactor_factors_each_layer_of_a_stack():
    state = jax.eval_shape(Adafactor(factor_from=4).build(STACKED)(Adafactor().hparams(100)).init, random(STACKED, 0))
    factored = optax.tree.get_all_with_path(state, "v_row")
    rows = {jax.tree_util.keystr(path): tree for path, tree in factored}
    assert {tree["h"]["kernel"].shape for tree in rows.values() if "h" in tree and "kernel" in tree["h"]} == {
        (DEPTH, 8)
    }


def test_learning_rate_decay_and_betas_change_without_retracing():
    recipe, traces = AdamW(LR), []
    params, gradients = random(PLAIN, 0), [random(PLAIN, seed) for seed in (1, 2)]
    transformation = recipe.build(PLAIN)

    @jax.jit
    def update(hparams):
        traces.append(hparams)
        transform = transformation(hparams)
        state = transform.init(params)
        for gradient in gradients:
            updates, state = transform.update(gradient, state, params)
        return updates["dense"]["kernel"]

    first = recipe.hparams(100)
    changes = [{}, {"learning_rate": 0.1}, {"weight_decay": 0.5}, {"beta1": 0.5}, {"beta2": 0.5}, {"eps": 0.1}]
    results = [np.asarray(update(as_leaves({**first, **change}))) for change in changes]
    assert len(traces) == 1
    assert all(not np.allclose(a, b) for i, a in enumerate(results) for b in results[:i])
    update({**as_leaves(first), "weight_decay": 0.5})
    assert len(traces) == 2, "a Python float is weakly typed and retraces"


def test_freezing_keeps_frozen_layers_out_of_the_global_norm():
    def loss(params, scale):
        return scale * sum((x**2).sum() for x in jax.tree.leaves(params))

    params = random(STACKED, 0)
    held = freezing(loss, AdamW(freeze=r"^h\.1\.|^norm").frozen(STACKED))
    free, gradient = jax.device_get(jax.jit(lambda p: (jax.grad(loss)(p, 2.0), jax.grad(held)(p, 2.0)))(params))
    expected = jax.tree.map(np.copy, free)
    for x in (expected["h"]["kernel"][1], expected["h"]["bias"][1], expected["norm"]["scale"]):
        x[:] = 0.0
    jax.tree.map(np.testing.assert_array_equal, gradient, expected)
    assert optax.tree.norm(gradient) < 0.9 * optax.tree.norm(free)


def test_freezing_nothing_leaves_the_loss_as_it_is():
    def loss(params):
        return params

    assert freezing(loss, AdamW().frozen(STACKED)) is loss


def test_muon_refuses_a_pattern_that_tells_the_layers_of_a_stack_apart():
    stacked = {"h": {"kernel": Leaf("h.*.kernel", (DEPTH, 8, 8), np.float32, ("layers", None, None))}}
    with pytest.raises(UserError, match=r"tells the layers of h\.\*\.kernel apart"):
        Muon(adam=r"^h\.0\.").build(stacked)
    Muon(adam=r"^h\.").build(stacked)
