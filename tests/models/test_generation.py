"""Generation with a cache against generation without: the whole text is read again for every token."""

import contextlib
import logging
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lepjax.core import parameters
from lepjax.core.errors import UserError
from lepjax.core.precision import FLOAT32
from lepjax.models.generation import Generator, Sampling
from lepjax.models.gpt2 import Gpt2
from lepjax.ops.sampling import sample

CONFIG = Gpt2(vocab_size=31, context=12, layers=2, heads=2, width=16)
GREEDY, SAMPLED = Sampling(temperature=0), Sampling(temperature=0.9, top_k=12, top_p=0.9)
PROMPT = np.array([[3, 14, 15, 9, 2], [6, 5, 3, 5, 8]])
MODEL = CONFIG.build(FLOAT32)
GENERATE = Generator(MODEL, CONFIG.context)


@pytest.fixture(scope="module")
def params():
    """Far from their initial values: greedy text then wanders, and depends on every token before."""
    rng = np.random.default_rng(0)

    def value(leaf):
        kind = leaf.name.rpartition(".")[2]
        if kind in ("bias", "scale"):
            return jnp.full(leaf.shape, float(kind == "scale"))
        return jnp.asarray(0.5 * rng.normal(size=leaf.shape), jnp.float32)

    return jax.tree.map(value, MODEL.leaves, is_leaf=parameters.is_leaf)


@jax.jit
def next_token(params, padded, length, key, how):
    """The token after the first `length`: the model is causal, what stands behind them is not seen."""
    logits = MODEL.apply(params, {}, padded)[0]
    return sample(key, jax.lax.dynamic_index_in_dim(logits, length - 1, 1, keepdims=False), *how)


def reread(params, prompt, count, sampling, seed=0, keep=CONFIG.context // 2):
    """The obvious loop: no cache, the window slides by starting again from its last half."""
    how = (jnp.float32(sampling.temperature), jnp.int32(sampling.top_k), jnp.float32(sampling.top_p))
    text, start = np.asarray(prompt, np.int32), 0
    root = jax.random.key(seed, impl="threefry2x32")
    opened = text.shape[1]  # the window's key is folded with the length of the text it continues
    if opened >= CONFIG.context:
        start = opened - keep
    for _ in range(count):
        if text.shape[1] - start == CONFIG.context:
            start, opened = text.shape[1] - keep, text.shape[1]
        length = text.shape[1] - start
        padded = np.zeros((len(text), CONFIG.context), np.int32)
        padded[:, :length] = text[:, start:]
        key = jax.random.fold_in(jax.random.fold_in(root, opened), length)
        text = np.concatenate([text, np.asarray(next_token(params, padded, length, key, how))[:, None]], axis=1)
    return text


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("length", [1, 5, 11, 12, 15], ids="prompt {}".format)
def test_the_cache_changes_nothing(params, sampling, length):
    """Within the window, and over 2 or 3 slides of it; also for prompts as long as the context and longer."""
    prompt = np.resize(PROMPT, (2, length))
    text = GENERATE(params, prompt, 20, sampling)
    assert text.dtype == np.int32 and text.shape == (2, length + 20)
    np.testing.assert_array_equal(text[:, :length], prompt)
    np.testing.assert_array_equal(text, reread(params, prompt, 20, sampling))
    # Sabotage: a window that slides by one token less sees another text.
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(text, reread(params, prompt, 20, sampling, keep=CONFIG.context // 2 - 1))


@pytest.mark.parametrize("fault", ["cache", "offset"])
def test_a_fault_of_the_cache_is_noticed(params, fault):
    """Sabotage: keys and values that are forgotten, or written one place too late, give another text."""

    def apply(params, state, *inputs, **options):
        if fault == "offset" and "offset" in options:
            options["offset"] = options["offset"] + 1
        outputs, state = MODEL.apply(params, state, *inputs, **options)
        if fault == "cache" and "cache" in options:
            outputs = outputs[0], jax.tree.map(jnp.zeros_like, outputs[1])
        return outputs, state

    text = Generator(types.SimpleNamespace(apply=apply), CONFIG.context)(params, PROMPT, 7, GREEDY)
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(text, reread(params, PROMPT, 7, GREEDY))


def test_the_text_reads_its_prompt(params):
    text = GENERATE(params, PROMPT, 7, GREEDY)
    first = PROMPT.copy()
    first[:, 0] += 1
    assert (GENERATE(params, first, 7, GREEDY)[:, 5:] != text[:, 5:]).any()
    assert len(set(text[0, 5:])) > 4, "a text of one token shows nothing"


def test_seeds_and_rows(params):
    same = np.repeat(PROMPT[:1], 2, axis=0)
    a, b, c = (GENERATE(params, same, 7, SAMPLED, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
    assert len({tuple(row) for row in a}) > 1, "equal prompts in one batch draw their own tokens"
    greedy = GENERATE(params, same, 7, GREEDY, 1)
    np.testing.assert_array_equal(greedy, GENERATE(params, same, 7, GREEDY, 2))
    assert len({tuple(row) for row in greedy}) == 1


def test_no_token_at_all(params):
    np.testing.assert_array_equal(GENERATE(params, PROMPT, 0), PROMPT)


def test_top_k_one_and_a_tiny_top_p_are_greedy(params):
    greedy = GENERATE(params, PROMPT, 7, GREEDY)
    for sampling in (Sampling(top_k=1), Sampling(top_p=1e-6), Sampling(temperature=1e-4)):
        np.testing.assert_array_equal(GENERATE(params, PROMPT, 7, sampling), greedy)


@contextlib.contextmanager
def compiles(caplog):
    """Yields a list that holds a line for every program compiled inside."""
    lines = []
    caplog.clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        yield lines
    lines += [record.getMessage() for record in caplog.records if record.getMessage().startswith("Compiling")]


def test_settings_and_lengths_do_not_recompile(params, caplog):
    GENERATE(params, PROMPT, 1)
    with compiles(caplog) as later:
        for seed, (length, count, sampling) in enumerate([(1, 3, GREEDY), (5, 20, SAMPLED), (12, 1, Sampling(0.3))]):
            GENERATE(params, np.resize(PROMPT, (2, length)), count, sampling, seed)
    assert later == []
    with compiles(caplog) as rows:  # sabotage: another shape is another program, and is seen
        GENERATE(params, PROMPT[:1], 1)
    assert sum("window" in line for line in rows) == 1


@pytest.mark.parametrize("bad", [{"temperature": -0.1}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.01}], ids=str)
def test_bad_settings(bad):
    with pytest.raises(UserError, match="sampling: "):
        Sampling(**bad)


def test_a_temperature_that_is_no_number():
    with pytest.raises(UserError):
        Sampling(temperature=float("nan"))


def test_bad_prompts(params):
    for prompt in (np.zeros((2, 0), np.int32), np.zeros(3, np.int32)):
        with pytest.raises(UserError, match="generate: a prompt of shape .* Give at least one token"):
            GENERATE(params, prompt, 1)
