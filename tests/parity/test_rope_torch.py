"""Rotary embeddings equal transformers', for every scaling."""

import jax.numpy as jnp
import numpy as np
import pytest

from lepjax.models.llama_family import read_rope
from lepjax.ops.rope import Rope, rotate

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LENGTH, SIZE = 48, 16
SCALINGS = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 3.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 24,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 24},
    "yarn with its own sharpness": {
        "factor": 4.0,
        "original_max_position_embeddings": 24,
        "attention_factor": 1.3,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "truncate": False,
    },
    "yarn with mscale": {
        "factor": 4.0,
        "original_max_position_embeddings": 24,
        "mscale": 0.7,
        "mscale_all_dim": 0.4,
    },
}


def parameters(name):
    return {"rope_theta": 500.0, "rope_type": name.split()[0], **SCALINGS[name]}


def their_turns(name, positions=LENGTH):
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = transformers.LlamaConfig(
        hidden_size=4 * SIZE,
        num_attention_heads=4,
        max_position_embeddings=32,
        rope_parameters=parameters(name),
    )
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.arange(positions)[None])
    return cos[..., : SIZE // 2].numpy(), sin[..., : SIZE // 2].numpy()


def our_turns(name, positions=LENGTH):
    rope = read_rope({"rope_parameters": parameters(name), "max_position_embeddings": 32}, "config.json")
    return rope.turns(jnp.arange(positions)[None], SIZE, positions)


@pytest.mark.parametrize("name", SCALINGS)
def test_turns(name):
    for ours, theirs in zip(our_turns(name), their_turns(name), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
    if name != "default":
        assert np.abs(our_turns(name)[0] - their_turns("default")[0]).max() > 0.01, "the scaling has no effect"


def test_rotation():
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    x = np.random.default_rng(0).normal(size=(2, LENGTH, 3, SIZE)).astype(np.float32)
    cos, sin = their_turns("default")
    whole = [torch.as_tensor(np.concatenate([a, a], axis=-1)) for a in (cos, sin)]
    theirs, _ = apply_rotary_pos_emb(torch.as_tensor(x).swapaxes(1, 2), torch.as_tensor(x).swapaxes(1, 2), *whole)
    np.testing.assert_allclose(rotate(jnp.asarray(x), cos, sin), theirs.swapaxes(1, 2).numpy(), atol=1e-6)


def test_only_distances_count():
    """What attention sees of two rotated vectors depends on how far apart they stand."""
    rng = np.random.default_rng(1)
    query, key = (jnp.asarray(rng.normal(size=(1, 1, 1, SIZE)), jnp.float32) for _ in range(2))

    def product(first, second):
        at = [Rope().turns(jnp.array([[p]]), SIZE, 64) for p in (first, second)]
        return float((rotate(query, *at[0]) * rotate(key, *at[1])).sum())

    assert product(3, 10) == pytest.approx(product(40, 47), abs=1e-5)
    assert product(3, 10) != pytest.approx(product(3, 11), abs=1e-2)
