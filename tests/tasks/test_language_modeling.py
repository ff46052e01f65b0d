"""Loss and metrics of next-token prediction, against optax and numpy."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lepjax.ops.dropout import Dropout
from lepjax.tasks.language_modeling import LanguageModeling
from lepjax.tasks.task import make_loss, make_measure

ROWS, LENGTH, VOCABULARY = 4, 6, 11
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(ROWS, LENGTH, VOCABULARY)).astype(np.float32) * 3
TARGETS = RNG.integers(0, VOCABULARY, (ROWS, LENGTH)).astype(np.int32)
NLL = np.asarray(optax.softmax_cross_entropy_with_integer_labels(LOGITS, TARGETS), np.float64)
WEIGHT = np.array([1, 1, 0, 1], np.float32)  # the third row is padding
MASK = (RNG.random((ROWS, LENGTH)) < 0.6).astype(np.float32)
ONES = np.ones((ROWS, LENGTH), np.float32)


def batch(weight=WEIGHT, **more):
    return {"tokens": TARGETS, "targets": TARGETS, "weight": weight, **more}


def each_token(batch):
    """float64[rows, length]: by the batch contract, written out."""
    return batch["weight"][:, None].astype(np.float64) * batch.get("mask", ONES)


BATCHES = {
    "whole": batch(np.ones(ROWS, np.float32)),
    "padded": batch(),
    "masked": batch(mask=MASK),
    "fractional": batch(np.array([0.5, 2, 0, 1], np.float32), mask=MASK),
}


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_the_term_is_a_sum_and_its_weight(batch):
    (name, term), *others = LanguageModeling().terms(LOGITS, batch, {}).items()
    assert (name, others, term.coefficient, term.decomposable) == ("nll", [], 1.0, True)
    each = each_token(batch)
    np.testing.assert_allclose(term.sum, (NLL * each).sum(), rtol=1e-5)
    np.testing.assert_allclose(term.weight, each.sum(), rtol=1e-6)
    np.testing.assert_allclose(term.mean, np.average(NLL, weights=each), rtol=1e-5)
    if (each == 0).any():  # sabotage: the mean over all places is another number
        with pytest.raises(AssertionError):
            np.testing.assert_allclose(term.mean, NLL.mean(), rtol=1e-3)


def test_gradients_are_those_of_the_mean():
    def ours(logits):
        return LanguageModeling().terms(logits, BATCHES["fractional"], {})["nll"].mean

    def theirs(logits):
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, TARGETS)
        each = each_token(BATCHES["fractional"])
        return (nll * each).sum() / each.sum()

    gradient = jax.grad(ours)(LOGITS)
    np.testing.assert_allclose(gradient, jax.grad(theirs)(LOGITS), atol=1e-6)
    assert (gradient[2] == 0).all() and (np.asarray(gradient)[MASK == 0] == 0).all()


def echo(logits, seen=None):
    """A model whose answer is known, and that remembers how it was asked."""

    def apply(params, state, *inputs, **options):
        if seen is not None:
            seen.append((inputs, options))
        return logits, state

    return types.SimpleNamespace(apply=apply)


def metrics_of(batches, logits):
    """All metrics over several batches, merged on the host as an evaluation does."""
    task = LanguageModeling(bytes=True)
    metrics = task.metrics()
    totals = {name: metric.zero() for name, metric in metrics.items()}
    for rows, outputs in zip(batches, logits, strict=True):
        parts = jax.jit(make_measure(task, echo(outputs)))({}, {}, rows, {})
        totals = {name: metric.merge(totals[name], parts[name]) for name, metric in metrics.items()}
    return {name: metric.result(totals[name]) for name, metric in metrics.items()}


def expected_metrics(batches, logits):
    nll = optax.softmax_cross_entropy_with_integer_labels(np.stack(logits), np.stack([TARGETS] * len(batches)))
    right = np.stack(logits).argmax(-1) == TARGETS
    each = np.stack([each_token(b) for b in batches])
    loss = np.average(nll, weights=each)
    accuracy = np.average(right, weights=each)
    return {"loss": loss, "perplexity": np.exp(loss), "accuracy": accuracy, "bits_per_byte": loss / np.log(2)}


def test_metrics_over_uneven_batches():
    batches = [BATCHES["whole"], BATCHES["masked"], BATCHES["fractional"]]
    logits = [LOGITS, LOGITS[::-1].copy(), -LOGITS]
    ours = metrics_of(batches, logits)
    assert ours == pytest.approx(expected_metrics(batches, logits), rel=1e-5)
    apart = [metrics_of([b], [x]) for b, x in zip(batches, logits, strict=True)]
    for name in ("loss", "accuracy", "perplexity"):
        with pytest.raises(AssertionError):  # sabotage: a mean of means
            assert np.mean([a[name] for a in apart]) == pytest.approx(ours[name], rel=1e-4)


def test_a_padded_row_may_hold_anything():
    poisoned = LOGITS.copy()
    poisoned[2] = np.nan
    assert metrics_of([batch()], [poisoned]) == pytest.approx(metrics_of([batch()], [LOGITS]))
    with pytest.raises(AssertionError):  # without its weight of 0 it is seen
        assert not np.isnan(metrics_of([BATCHES["whole"]], [poisoned])["loss"])


def test_a_target_that_does_not_count_may_hold_anything():
    """-100 is what Hugging Face's collators put there."""
    ignored = {**BATCHES["masked"], "targets": np.where(MASK > 0, TARGETS, -100)}
    sums = [LanguageModeling().terms(LOGITS, rows, {})["nll"].sum for rows in (ignored, BATCHES["masked"])]
    assert sums[0] == sums[1]


def test_bits_per_byte_only_for_bytes():
    assert set(LanguageModeling().metrics()) == {"loss", "perplexity", "accuracy"}
    assert set(LanguageModeling(bytes=True).metrics()) == {"loss", "perplexity", "accuracy", "bits_per_byte"}


def test_the_model_is_asked_with_segments_and_dropout_only_in_training():
    seen = []
    segments = np.zeros((ROWS, LENGTH), np.int32)
    loss = make_loss(LanguageModeling(), echo(LOGITS, seen))
    keys = jax.random.split(jax.random.key(0), ROWS)
    for train in (True, False):
        terms, state, aux = loss({}, {"s": 1}, batch(segments=segments), {"dropout": jnp.float32(0.1)}, keys, train)
        assert set(terms) == {"nll"} and state == {"s": 1} and aux == {}
    loss({}, {}, batch(), {}, keys, True)
    (inputs, training), (_, evaluation), (_, plain) = seen
    assert inputs[0] is TARGETS and training["segments"] is segments and plain["segments"] is None
    assert training["train"] and training["drop"].rate == 0.1 and training["drop"].keys is keys
    assert not evaluation["train"] and evaluation["drop"].keys is None
    assert plain["drop"] == Dropout(None, keys)


def test_tokens_that_count_for_throughput():
    task = LanguageModeling()
    assert task.tokens(BATCHES["whole"]) == ROWS * LENGTH
    assert task.tokens(BATCHES["padded"]) == 3 * LENGTH
    assert task.tokens(BATCHES["masked"]) == int((MASK * WEIGHT[:, None]).sum())
