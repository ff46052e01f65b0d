"""GPT-2 against Hugging Face's: the same logits, gradients and greedy text from the same weights.

gpt2_golden.npz was written by make_gpt2_golden.py; nothing here needs torch. Errors measured on a CPU (float32 against
torch in float64): logits 6e-6 at most, of values up to 6; gradients 1.3e-6 of a leaf's norm; the loss to the last bit.
"""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lepjax.core import parameters
from lepjax.core.precision import FLOAT32
from lepjax.models.generation import Generator, Sampling
from lepjax.models.gpt2 import Gpt2
from lepjax.ops.losses import cross_entropy

HEADS = 4
GOLDEN = np.load(pathlib.Path(__file__).with_name("gpt2_golden.npz"))
VARIANTS = {"scan": {"scan": True}, "unrolled": {"scan": False}, "remat": {"scan": True, "remat": True}}


def gpt2(**variant):
    return Gpt2(vocab_size=61, context=24, layers=2, heads=HEADS, width=32, **variant)


def of_golden(part):
    return {k.removeprefix(f"{part}/"): GOLDEN[k].astype(np.float32) for k in GOLDEN.files if k.startswith(f"{part}/")}


def by_head(columns):
    """c_attn's columns: Hugging Face's [q|k|v, head, size] -> ours [head, q|k|v, size]."""
    return columns.reshape(*columns.shape[:-1], 3, HEADS, -1).swapaxes(-3, -2).reshape(columns.shape)


def by_projection(columns):
    """c_attn's columns back: ours [head, q|k|v, size] -> Hugging Face's [q|k|v, head, size]."""
    return columns.reshape(*columns.shape[:-1], HEADS, 3, -1).swapaxes(-3, -2).reshape(columns.shape)


def path_of(name):
    """`transformer.h.0.ln_1.weight` -> (`h.0.ln_1.scale`, path). Conv1D's [in, out] is nnx.Linear's."""
    kind = "embedding" if re.search(r"\.w[tp]e\.", name) else "scale" if ".ln_" in name else "kernel"
    path = name.removeprefix("transformer.").replace("weight", kind).split(".")
    return tuple(int(part) if part.isdigit() else part for part in path)


def from_hugging_face(weights, scan, columns=by_head):
    params = {}
    for name, value in weights.items():
        *parents, last = path_of(name)
        node = params
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = jnp.asarray(columns(value) if ".c_attn." in name else value)
    if scan:
        params["h"] = jax.tree.map(lambda *layers: jnp.stack(layers), *[params["h"][i] for i in sorted(params["h"])])
    return params


def to_hugging_face(params, names, scan):
    def get(path):
        node, layer = params, None
        for part in path:
            if scan and isinstance(part, int):
                layer = part
            else:
                node = node[part]
        return np.asarray(node if layer is None else node[layer])

    return {name: by_projection(get(path_of(name))) if ".c_attn." in name else get(path_of(name)) for name in names}


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request):
    return VARIANTS[request.param]


@pytest.fixture(scope="module")
def forward_backward(variant):
    model = gpt2(**variant).build(FLOAT32)

    def loss(params, ids):
        logits = model.apply(params, {}, ids)[0]
        return cross_entropy(logits[:, :-1], ids[:, 1:]).mean(), logits

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def check_logits(logits):
    np.testing.assert_allclose(logits, GOLDEN["logits"], rtol=0, atol=1e-4)


def check_gradients(gradients):
    wanted = of_golden("gradient")
    assert gradients.keys() == wanted.keys()
    for name, gradient in wanted.items():
        error = np.linalg.norm(gradients[name] - gradient) / np.linalg.norm(gradient)
        assert error < 1e-4, f"{name}: {error:.1e} of its norm"


def test_the_golden_weights_fill_the_model(variant):
    leaves = gpt2(**variant).build(FLOAT32).leaves
    params = from_hugging_face(of_golden("weight"), variant["scan"])
    shapes = jax.tree.map(lambda leaf: leaf.shape, leaves, is_leaf=parameters.is_leaf)
    assert shapes == jax.tree.map(jnp.shape, params)
    back = to_hugging_face(params, of_golden("weight"), variant["scan"])
    jax.tree.map(np.testing.assert_array_equal, back, of_golden("weight"))


def test_logits_loss_and_gradients(variant, forward_backward):
    ids = jnp.asarray(GOLDEN["ids"], jnp.int32)
    (loss, logits), gradients = forward_backward(from_hugging_face(of_golden("weight"), variant["scan"]), ids)
    check_logits(logits)
    np.testing.assert_allclose(loss, GOLDEN["loss"], rtol=1e-5)
    check_gradients(to_hugging_face(gradients, of_golden("gradient"), variant["scan"]))

    # Sabotage: c_attn in Hugging Face's own order.
    unordered = from_hugging_face(of_golden("weight"), variant["scan"], columns=lambda x: x)
    (_, logits), gradients = forward_backward(unordered, ids)
    with pytest.raises(AssertionError):
        check_logits(logits)
    with pytest.raises(AssertionError):
        check_gradients(to_hugging_face(gradients, of_golden("gradient"), variant["scan"]))


def test_greedy_text(variant):
    model = gpt2(**variant)
    generate = Generator(model.build(FLOAT32), model.context)

    def check(columns):
        params = from_hugging_face(of_golden("weight"), variant["scan"], columns)
        np.testing.assert_array_equal(generate(params, GOLDEN["prompt"], 12, Sampling(temperature=0)), GOLDEN["greedy"])

    check(by_head)
    with pytest.raises(AssertionError):
        check(lambda x: x)
