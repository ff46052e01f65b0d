"""GPT-2 equals transformers', random weights: logits, gradients, greedy text, folders both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lepjax.core.precision import FLOAT32
from lepjax.models import gpt2_family, pretrained, weights
from lepjax.models.generation import Generator, Sampling
from lepjax.models.gpt2 import Gpt2
from lepjax.models.gpt2_family import architecture
from lepjax.models.llama import Llama
from lepjax.ops.losses import cross_entropy
from tests.folders import export_of_two_steps, loaded

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("quickly")

ROWS, LENGTH, VOCAB = 2, 19, 61
SIZES = {
    "vocab_size": VOCAB,
    "n_positions": 32,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CASES = {
    "as released": {},
    "one head, given width": {"n_head": 1, "n_inner": 128},
    "other name of the GELU, careful float16": {
        "activation_function": "gelu_pytorch_tanh",
        "reorder_and_upcast_attn": True,
    },
}
TOKENS = np.random.default_rng(0).integers(0, VOCAB, (ROWS, LENGTH))


def random_model(options):
    torch.manual_seed(3)
    config = transformers.GPT2Config(**{**SIZES, **options}, attn_implementation="eager")
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            centre = 1.0 if ".ln_" in key and key.endswith("weight") else 0.0
            weight.copy_(centre + 0.2 * torch.randn_like(weight))
    return model


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    theirs = random_model(CASES[request.param])
    folder = tmp_path_factory.mktemp("model")
    theirs.save_pretrained(folder)
    return theirs, folder


def loss(model, params):
    logits, _ = model.apply(params, {}, jnp.asarray(TOKENS))
    return cross_entropy(logits[:, :-1], jnp.asarray(TOKENS[:, 1:])).mean(), logits


def check_logits(theirs, ours):
    with torch.no_grad():
        np.testing.assert_allclose(ours, theirs.eval()(torch.as_tensor(TOKENS)).logits, rtol=0, atol=1e-4)


def check_gradients(gradients, wanted):
    assert gradients.keys() == wanted.keys()
    for name, gradient in wanted.items():
        size = np.linalg.norm(gradient)
        # Keys cannot tell a bias that all of them share: its gradient is 0 but for rounding, and only a part of c_attn's.
        assert size > 1e-3 and np.linalg.norm(gradients[name] - gradient) < 1e-3 * size, name


def test_logits_and_gradients(case, monkeypatch):
    theirs, folder = case
    tokens = torch.as_tensor(TOKENS)
    expected = theirs(tokens, labels=tokens)
    theirs.zero_grad()
    expected.loss.backward()
    wanted = {name: weight.grad.numpy() for name, weight in theirs.named_parameters()}
    recipe, model, params = loaded(folder, Gpt2)
    both = jax.jit(jax.value_and_grad(lambda p: loss(model, p), has_aux=True))
    (value, logits), gradients = both(params)
    check_logits(theirs, logits)
    np.testing.assert_allclose(value, expected.loss.item(), rtol=1e-5)
    check_gradients(weights.write(gradients, model.leaves, recipe.arch.naming), wanted)

    with pytest.raises(AssertionError):
        check_gradients({name: 1.01 * gradient for name, gradient in wanted.items()}, wanted)
    if recipe.heads > 1:  # one head has one order only
        monkeypatch.setattr(gpt2_family, "by_head", lambda heads: weights.SAME)
        (_, logits), gradients = both(loaded(folder, Gpt2)[2])
        with pytest.raises(AssertionError):
            check_logits(theirs, logits)
        with pytest.raises(AssertionError):
            check_gradients(weights.write(gradients, model.leaves, recipe.arch.naming), wanted)


def test_layers_unrolled_are_the_same(case):
    theirs, folder = case
    _, unrolled, params = loaded(folder, Gpt2, scan=False)
    check_logits(theirs, loss(unrolled, params)[1])


def test_a_cache_changes_nothing(case):
    """Greedy text with the cache equals transformers' greedy text; with other weights it is another one."""
    theirs, folder = case
    _, model, params = loaded(folder, Gpt2)
    prompt = TOKENS[:1, :4]
    generate = Generator(model, 32)
    with torch.no_grad():
        text = torch.as_tensor(prompt)
        for _ in range(12):
            text = torch.cat([text, theirs(text).logits[:, -1:].argmax(-1)], dim=1)
    np.testing.assert_array_equal(generate(params, prompt, 12, Sampling(temperature=0.0)), text.numpy())
    other = jax.tree.map(lambda x: x[..., ::-1], params)
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(generate(other, prompt, 12, Sampling(temperature=0.0)), text.numpy())


def check_theirs(folder):
    """transformers' model of this folder, where it misses nothing and finds nothing besides."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager"
    )
    assert {key: problems for key, problems in info.items() if problems} == {}
    return model


def test_transformers_loads_what_we_save(case, tmp_path):
    theirs, folder = case
    recipe, model, params = loaded(folder, Gpt2)
    changed = jax.tree.map(lambda x: 1.1 * x, params)
    config, tensors = recipe.folder(changed, model.leaves)
    pretrained.write(tmp_path / "all", config, tensors)
    again = check_theirs(tmp_path / "all")
    ours = loss(model, changed)[1]
    check_logits(again, ours)
    with pytest.raises(AssertionError):
        check_logits(theirs, ours)
    assert architecture(again.config.to_dict(), "config.json") == recipe.arch

    tensors.pop("transformer.h.1.mlp.c_fc.bias")
    pretrained.write(tmp_path / "less", config, tensors)
    with pytest.raises(AssertionError):
        check_theirs(tmp_path / "less")


def test_folders_without_the_head(case, tmp_path):
    theirs, _ = case
    theirs.transformer.save_pretrained(tmp_path)
    _, model, params = loaded(tmp_path, Gpt2)
    check_logits(theirs, loss(model, params)[1])


def test_a_model_without_biases(tmp_path):
    recipe = Gpt2(vocab_size=VOCAB, context=32, layers=2, heads=4, width=32, bias=False)
    model = recipe.build(FLOAT32)
    params = jax.tree.map(lambda x: 3 * x, model.init(jax.random.key(0))[0])
    config, tensors = recipe.folder(params, model.leaves)
    pretrained.write(tmp_path, config, tensors)
    check_logits(check_theirs(tmp_path), loss(model, params)[1])
    tensors["transformer.h.1.mlp.c_fc.bias"] += 0.1
    pretrained.write(tmp_path, config, tensors)
    with pytest.raises(AssertionError):
        check_logits(check_theirs(tmp_path), loss(model, params)[1])


@pytest.mark.parametrize("kind", [Gpt2, Llama])
def test_transformers_loads_what_export_writes(kind, tmp_path):
    """Only the numbers of one text, which the 256 bytes have."""
    folder = export_of_two_steps(kind, tmp_path)
    theirs = check_theirs(folder)
    _, model, params = loaded(folder, kind)
    check_logits(theirs, loss(model, params)[1])
    assert theirs.config.eos_token_id is None  # not the released model's
    with pytest.raises(AssertionError):
        check_logits(theirs, loss(model, jax.tree.map(lambda x: 1.1 * x, params))[1])
