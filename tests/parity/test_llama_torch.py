"""Llama, Qwen 2, Qwen 3 and Mistral equal transformers', random weights: logits, gradients, folders both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lepjax.models import pretrained, weights
from lepjax.models.generation import Generator, Sampling
from lepjax.models.llama_family import architecture
from lepjax.ops.losses import cross_entropy
from tests.folders import loaded

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("quickly")

ROWS, LENGTH, VOCAB = 2, 19, 61
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e4,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
CASES = {
    "Llama": {},
    "Llama tied": {"tie_word_embeddings": True},
    "Llama multi-head": {"num_key_value_heads": 4},
    "Llama multi-query": {"num_key_value_heads": 1},
    "Llama 3.1": {"rope_parameters": LLAMA3},
    "Llama wide heads": {"head_dim": 12},
    "Qwen2": {},
    "Qwen2 window": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0},
    "Qwen3": {"head_dim": 8},
    "Mistral": {"sliding_window": 7},
    "Mistral full": {"sliding_window": None},
}
TOKENS = np.random.default_rng(0).integers(0, VOCAB, (ROWS, LENGTH))


def random_model(name):
    family, options = name.split()[0], CASES[name]
    torch.manual_seed(3)
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **options}, attn_implementation="eager")
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            weight.copy_((1.0 if "norm" in key else 0.0) + 0.2 * torch.randn_like(weight))
    return model


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    theirs = random_model(request.param)
    folder = tmp_path_factory.mktemp("model")
    theirs.save_pretrained(folder)
    return theirs, folder


def loss(model, params):
    logits, _ = model.apply(params, {}, jnp.asarray(TOKENS))
    return cross_entropy(logits[:, :-1], jnp.asarray(TOKENS[:, 1:])).mean(), logits


def test_logits_and_gradients(case):
    theirs, folder = case
    recipe, model, params = loaded(folder)
    (value, logits), gradients = jax.jit(jax.value_and_grad(lambda p: loss(model, p), has_aux=True))(params)
    tokens = torch.as_tensor(TOKENS)
    expected = theirs(tokens, labels=tokens)
    np.testing.assert_allclose(logits, expected.logits.detach().numpy(), atol=1e-4)
    np.testing.assert_allclose(value, expected.loss.item(), rtol=1e-5)
    theirs.zero_grad()
    expected.loss.backward()
    written = weights.write(gradients, model.leaves, recipe.arch.naming)
    wanted = {name: weight.grad.numpy() for name, weight in theirs.named_parameters()}
    assert written.keys() == wanted.keys()
    for name, gradient in wanted.items():
        size = np.linalg.norm(gradient)
        assert np.linalg.norm(written[name] - gradient) < 1e-3 * max(size, 1e-3), name
        assert np.linalg.norm(1.01 * gradient - gradient) >= 1e-3 * max(size, 1e-3) or size < 1e-3, "it could not fail"


def test_layers_unrolled_and_recomputed_are_the_same(case):
    _, folder = case
    _, model, params = loaded(folder)
    scanned = loss(model, params)[1]
    _, unrolled, flat = loaded(folder, scan=False, remat="full")
    np.testing.assert_allclose(loss(unrolled, flat)[1], scanned, atol=1e-5)


def test_a_cache_changes_nothing(case):
    """Greedy text with the cache equals transformers' greedy text."""
    theirs, folder = case
    _, model, params = loaded(folder)
    prompt = TOKENS[:1, :4]
    ours = Generator(model, 32)(params, prompt, 12, Sampling(temperature=0.0))
    with torch.no_grad():
        text = torch.as_tensor(prompt)
        for _ in range(12):
            text = torch.cat([text, theirs(text).logits[:, -1:].argmax(-1)], dim=1)
    np.testing.assert_array_equal(ours, text.numpy())


def test_transformers_loads_what_we_save(case, tmp_path):
    theirs, folder = case
    recipe, model, params = loaded(folder)
    changed = jax.tree.map(lambda x: 1.1 * x, params)
    pretrained.write(tmp_path, recipe.arch.config(), weights.write(changed, model.leaves, recipe.arch.naming))
    again, info = type(theirs).from_pretrained(tmp_path, output_loading_info=True, attn_implementation="eager")
    assert {key: problems for key, problems in info.items() if problems} == {}
    ours = loss(model, changed)[1]
    np.testing.assert_allclose(again.eval()(torch.as_tensor(TOKENS)).logits.detach(), ours, atol=2e-4)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(theirs(torch.as_tensor(TOKENS)).logits.detach(), ours, atol=2e-4)
    assert architecture(again.config.to_dict(), "config.json") == recipe.arch
