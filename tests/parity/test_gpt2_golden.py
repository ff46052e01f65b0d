"""GPT-2 against Hugging Face's: the same logits, gradients and greedy text from the same weights.

gpt2_golden.npz was written by make_gpt2_golden.py; nothing here needs torch. Errors measured on a CPU (float32 against
torch in float64): logits 6e-6 at most, of values up to 6; gradients 1.3e-6 of a leaf's norm; the loss to the last bit.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lepjax.core.precision import FLOAT32
from lepjax.models import gpt2_family, pretrained, weights
from lepjax.models.generation import Generator, Sampling
from lepjax.models.gpt2 import Gpt2
from lepjax.ops.losses import cross_entropy
from tests.folders import loaded

GOLDEN = np.load(pathlib.Path(__file__).with_name("gpt2_golden.npz"))
VARIANTS = {"scan": {"scan": True}, "unrolled": {"scan": False}, "remat": {"scan": True, "remat": "full"}}


def gpt2(**variant):
    return Gpt2(vocab_size=61, context=24, layers=2, heads=4, width=32, **variant)


def of_golden(part):
    return {k.removeprefix(f"{part}/"): GOLDEN[k].astype(np.float32) for k in GOLDEN.files if k.startswith(f"{part}/")}


def to_hugging_face(params, variant):
    recipe = gpt2(**variant)
    return weights.write(params, recipe.build(FLOAT32).leaves, recipe.arch.naming)


def forget_the_order(monkeypatch):
    """Sabotage: c_attn stays in Hugging Face's own order."""
    monkeypatch.setattr(gpt2_family, "by_head", lambda heads: weights.SAME)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The golden weights as transformers saves them."""
    made = tmp_path_factory.mktemp("golden")
    pretrained.write(made, gpt2().arch.config(), of_golden("weight"))
    return made


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


def test_the_golden_weights_fill_the_model(folder, variant):
    _, _, params = loaded(folder, Gpt2, **variant)
    back, wanted = to_hugging_face(params, variant), of_golden("weight")
    assert back.keys() == wanted.keys()
    jax.tree.map(np.testing.assert_array_equal, back, wanted)


def test_logits_loss_and_gradients(folder, variant, forward_backward, monkeypatch):
    ids = jnp.asarray(GOLDEN["ids"], jnp.int32)
    (loss, logits), gradients = forward_backward(loaded(folder, Gpt2, **variant)[2], ids)
    check_logits(logits)
    np.testing.assert_allclose(loss, GOLDEN["loss"], rtol=1e-5)
    check_gradients(to_hugging_face(gradients, variant))

    forget_the_order(monkeypatch)
    (_, logits), gradients = forward_backward(loaded(folder, Gpt2, **variant)[2], ids)
    with pytest.raises(AssertionError):
        check_logits(logits)
    with pytest.raises(AssertionError):
        check_gradients(to_hugging_face(gradients, variant))


def test_greedy_text(folder, variant, monkeypatch):
    model = gpt2(**variant)
    generate = Generator(model.build(FLOAT32), model.context)

    def check():
        params = loaded(folder, Gpt2, **variant)[2]
        np.testing.assert_array_equal(generate(params, GOLDEN["prompt"], 12, Sampling(temperature=0)), GOLDEN["greedy"])

    check()
    forget_the_order(monkeypatch)
    with pytest.raises(AssertionError):
        check()
