"""Metrics over padded batches equal scikit-learn and numpy on the unpadded set."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from lepjax.core.metrics import Accuracy, BitsPerByte, Mean, Perplexity
from lepjax.ops.losses import cross_entropy

CLASSES = 5
METRICS = [Mean(), Accuracy(), Perplexity(), BitsPerByte()]


def data_set(seed, rows):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, CLASSES)).astype(np.float32)
    return logits, rng.integers(0, CLASSES, rows), rng.choice([1.0, 2.0, 0.25], rows).astype(np.float32)


def padded_batches(size, *arrays):
    """Cuts arrays into batches of `size`; what the last one lacks is filled with NaN (weights: 0)."""
    missing = -len(arrays[0]) % size
    for start in range(0, len(arrays[0]) + missing, size):
        batch = []
        for array in arrays:
            fill = np.nan if array.dtype == np.float32 and array.ndim == 2 else 0
            padding = np.full((missing, *array.shape[1:]), fill, array.dtype)
            batch.append(jnp.asarray(np.concatenate([array, padding])[start : start + size]))
        yield batch


@jax.jit
def parts(logits, labels, weights):
    nll = cross_entropy(logits, labels)
    inputs = [(nll, weights), (logits, labels, weights), (nll, weights), (nll, weights)]
    return [metric.of_batch(*arrays) for metric, arrays in zip(METRICS, inputs, strict=True)]


def over_batches(batches):
    totals = [metric.zero() for metric in METRICS]
    for batch in batches:
        totals = [metric.merge(t, p) for metric, t, p in zip(METRICS, totals, parts(*batch), strict=True)]
    return [metric.result(total) for metric, total in zip(METRICS, totals, strict=True)]


def of_sklearn(logits, labels, weights):
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(-1, keepdims=True)
    nll = sklearn.metrics.log_loss(labels, probabilities, labels=range(CLASSES), sample_weight=weights)
    accuracy = sklearn.metrics.accuracy_score(labels, logits.argmax(-1), sample_weight=weights)
    return [nll, accuracy, np.exp(nll), nll / np.log(2)]


@given(st.integers(0, 999), st.integers(1, 40), st.sampled_from([4, 16]))
def test_equal_sklearn_on_the_unpadded_set_whatever_the_batch_size(seed, rows, size):
    arrays = data_set(seed, rows)
    np.testing.assert_allclose(over_batches(padded_batches(size, *arrays)), of_sklearn(*arrays), rtol=2e-6)


def test_a_padded_row_that_counts_is_noticed():
    arrays = data_set(0, 10)
    batches = [(logits, labels, jnp.maximum(weights, 1.0)) for logits, labels, weights in padded_batches(4, *arrays)]
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(over_batches(batches), of_sklearn(*arrays), rtol=2e-6)


def test_nan_in_padding_does_not_leak():
    values, weights = jnp.array([1.0, 3.0, jnp.nan]), jnp.array([1.0, 1.0, 0.0])
    assert Mean().result(Mean().merge(Mean().zero(), Mean().of_batch(values, weights))) == 2.0
    unweighted = Mean().of_batch(values, jnp.ones(3))
    assert np.isnan(Mean().result(Mean().merge(Mean().zero(), unweighted)))
    assert np.isnan((values * weights).sum()), "multiplying by the weight alone would leak"


def test_nan_in_a_row_that_counts_is_reported():
    part = Mean().of_batch(jnp.array([1.0, jnp.nan]), jnp.ones(2))
    assert np.isnan(Mean().result(Mean().merge(Mean().zero(), part)))


sums = st.tuples(st.integers(0, 2**20), st.integers(0, 2**20)).map(lambda pair: tuple(np.float32(x) for x in pair))


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: type(m).__name__)
@given(sums, sums, sums)
def test_merge_is_associative_with_zero_as_identity(metric, a, b, c):
    total = metric.merge(metric.zero(), a)
    left = metric.merge(metric.merge(total, b), c)
    right = metric.merge(total, metric.merge(metric.merge(metric.zero(), b), c))
    assert left == right
    assert metric.merge(metric.zero(), total) == metric.merge(total, metric.zero()) == total


def test_totals_outgrow_float32():
    part = (np.float32(1), np.float32(1))
    total = Mean().merge(Mean().zero(), (np.float32(2**25), np.float32(2**25)))
    for _ in range(100):
        total = Mean().merge(total, part)
    assert total == (2**25 + 100, 2**25 + 100)
    assert np.float32(2**25) + np.float32(1) == 2**25, "float32 totals would stand still"


def test_half_precision_values_are_summed_in_float32():
    part = Mean().of_batch(jnp.ones(4096, jnp.bfloat16), jnp.ones(4096, jnp.bfloat16))
    assert [float(x) for x in part] == [4096.0, 4096.0]


def test_nothing_seen_has_no_mean():
    assert np.isnan(Mean().result(Mean().zero()))
    assert np.isnan(Accuracy().result(Accuracy().zero()))


def test_perplexity_beyond_float64_is_infinite():
    assert Perplexity().result((np.float64(1e4), np.float64(1))) == np.inf


@pytest.mark.parametrize("total", [(np.float64(0), np.float64(0)), (np.float64(np.nan), np.float64(1))])
def test_perplexity_of_nan_is_nan(total):
    assert np.isnan(Perplexity().result(total))
