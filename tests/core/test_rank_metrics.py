"""Ranking and correlation over padded batches equal scikit-learn, scipy and numpy on the unpadded set."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from lepjax.core.errors import UserError
from lepjax.core.rank_metrics import Pearson, PrAuc, RocAuc, Spearman

SIZE = 16
RANKINGS = [RocAuc(), RocAuc(positive=0), PrAuc(), PrAuc(positive=0)]
CORRELATIONS = [Pearson(), Spearman()]


def classified(seed, rows, classes, present=None):
    """Logits in quarters, so that many pairs of rows tie where there are two classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, present or classes, rows).astype(np.int32)
    logits = rng.normal(size=(rows, classes)) + 0.7 * np.eye(classes)[labels]
    logits = np.round(logits * 4) / 4 if classes == 2 else logits
    return logits.astype(np.float32), labels, rng.choice([1.0, 2.0, 0.25], rows).astype(np.float32)


def measured(seed, rows, offset=0.0, whole=False):
    """Predictions and targets of a regression; `whole` makes ties."""
    rng = np.random.default_rng(seed)
    labels = rng.normal(size=rows)
    scores = 0.5 * labels + rng.normal(size=rows)
    scores, labels = (np.round(x) + offset if whole else x + offset for x in (scores, labels))
    return scores.astype(np.float32), labels.astype(np.float32), rng.choice([1.0, 2.0, 0.25], rows).astype(np.float32)


def padded_batches(*arrays):
    """Batches of `SIZE`, the last filled with NaN and labels out of range (weights: 0)."""
    for start in range(0, len(arrays[0]), SIZE):
        batch = [array[start : start + SIZE] for array in arrays]
        missing = SIZE - len(batch[0])
        fills = [np.full((missing, *a.shape[1:]), np.nan if a.dtype == np.float32 else -100, a.dtype) for a in batch]
        fills[-1][:] = 0
        yield [np.concatenate(pair) for pair in zip(batch, fills, strict=True)]


@jax.jit
def ranked(logits, labels, weights):
    return [metric.of_batch(logits, labels, weights) for metric in RANKINGS]


@jax.jit
def correlated(scores, labels, weights):
    return [metric.of_batch(scores, labels, weights) for metric in CORRELATIONS]


def results(metrics, measure, batches):
    totals = [metric.zero() for metric in metrics]
    for batch in batches:
        totals = [metric.merge(t, p) for metric, t, p in zip(metrics, totals, measure(*batch), strict=True)]
    return [metric.result(total) for metric, total in zip(metrics, totals, strict=True)]


def of_sklearn(logits, labels, weights):
    exact = logits.astype(np.float64)
    if logits.shape[1] == 2:
        pairs = [(labels == positive, exact[:, positive] - exact[:, 1 - positive]) for positive in (1, 0)]
        roc, precision = sklearn.metrics.roc_auc_score, sklearn.metrics.average_precision_score
        return [score(*pair, sample_weight=weights) for score in (roc, precision) for pair in pairs]
    p = np.exp(exact) / np.exp(exact).sum(-1, keepdims=True)
    roc = sklearn.metrics.roc_auc_score(labels, p, sample_weight=weights, multi_class="ovr", labels=range(p.shape[1]))
    precision = sklearn.metrics.average_precision_score(labels, p, sample_weight=weights)
    return [roc, roc, precision, precision]


def with_every_class(data):
    return len(np.unique(data[1])) == data[0].shape[1]


seeds, sizes = st.integers(0, 999), st.integers(4, 50)


@given(st.builds(classified, seeds, sizes, st.sampled_from([2, 4])).filter(with_every_class))
def test_rankings_equal_sklearn_on_the_unpadded_set(arrays):
    np.testing.assert_allclose(results(RANKINGS, ranked, padded_batches(*arrays)), of_sklearn(*arrays), rtol=1e-6)


def correlations(scores, labels, weights):
    scores, labels = scores.astype(np.float64), labels.astype(np.float64)
    moments = np.cov(scores, labels, aweights=weights)
    return [moments[0, 1] / np.sqrt(moments[0, 0] * moments[1, 1]), scipy.stats.spearmanr(scores, labels).statistic]


def with_spread(data):
    return all(len(np.unique(array)) > 1 for array in data[:2])


@given(st.builds(measured, seeds, sizes, st.sampled_from([0.0, -3.0, 1e4]), st.booleans()).filter(with_spread))
def test_correlations_equal_numpy_and_scipy_on_the_unpadded_set(arrays):
    ours = results(CORRELATIONS, correlated, padded_batches(*arrays))
    np.testing.assert_allclose(ours, correlations(*arrays), rtol=2e-6, atol=1e-6)


def test_a_centre_that_float32_rounds_is_mended():
    scores, labels, _ = measured(9, SIZE)
    scores = np.float32(1e4) + np.float32(2e-3) * scores  # neighbouring float32 numbers are 1e-3 apart
    weights = np.ones(SIZE, np.float32)
    total, centre, first, second = (np.asarray(x, np.float64) for x in Pearson().of_batch(scores, labels, weights))
    part = Pearson().merge(Pearson().zero(), (total, centre, first, second))
    exact, _ = correlations(scores, labels, weights)
    unmended = second[0, 1] / np.sqrt(second[0, 0] * second[1, 1])
    assert abs(Pearson().result(part) - exact) < 1e-6 < 5e-4 < abs(unmended - exact), (
        "sabotage: the first moments dropped"
    )


def test_sabotage_moments_about_zero_lose_a_small_spread_on_a_large_mean():
    scores, labels, _ = measured(0, 50, offset=1e4)
    weights = np.ones(50, np.float32)
    (exact, _) = correlations(scores, labels, weights)
    (ours, _) = results(CORRELATIONS, correlated, padded_batches(scores, labels, weights))
    products = [np.mean(a * b) for a, b in ((scores, labels), (scores, scores), (labels, labels))]
    x, y = scores.mean(), labels.mean()
    naive = (products[0] - x * y) / np.sqrt(np.abs((products[1] - x * x) * (products[2] - y * y)))
    assert abs(ours - exact) < 1e-6 < 1e-2 < abs(naive - exact)


def test_sabotage_padding_that_counts_is_noticed():
    two, pairs = classified(0, 20, 2), measured(0, 20)
    for metrics, measure, arrays, theirs in (
        (RANKINGS, ranked, two, of_sklearn(*two)),
        (CORRELATIONS, correlated, pairs, correlations(*pairs)),
    ):
        batches = [
            (np.nan_to_num(x), np.nan_to_num(y).clip(0), np.maximum(w, 1)) for x, y, w in padded_batches(*arrays)
        ]
        assert not np.isclose(results(metrics, measure, batches), theirs, rtol=1e-4).any()


def test_sabotage_the_mean_over_batches_is_another_number():
    arrays = classified(1, 3 * SIZE, 2)
    by_batch = [results(RANKINGS, ranked, [batch]) for batch in padded_batches(*arrays)]
    assert not np.isclose(np.mean(by_batch, 0), of_sklearn(*arrays), rtol=1e-4).any()


def test_sabotage_ties_in_the_order_of_their_rows_are_noticed():
    scores, labels, _ = measured(2, 50, whole=True)
    (_, theirs) = correlations(scores, labels, np.ones(50))
    orders = [scipy.stats.rankdata(x, "ordinal") for x in (scores, labels)]
    assert abs(np.corrcoef(*orders)[0, 1] - theirs) > 1e-3
    found = np.cumsum(labels[np.argsort(-scores, kind="stable")] > 0)
    above = (found[-1] - found)[labels[np.argsort(-scores, kind="stable")] <= 0].sum()
    strict = 1 - above / ((labels > 0).sum() * (labels <= 0).sum())
    assert abs(strict - sklearn.metrics.roc_auc_score(labels > 0, scores)) > 1e-3


@pytest.mark.parametrize("classes", [2, 3])
def test_confident_rows_keep_their_order(classes):
    margins = np.linspace(20, 60, SIZE, dtype=np.float32)
    logits = np.zeros((SIZE, classes), np.float32)
    logits[:, 1] = margins
    labels = (np.arange(SIZE) >= SIZE // 2).astype(np.int32)
    labels[0] = classes - 1 if classes > 2 else labels[0]  # so that every class has a row
    (block,) = RocAuc().of_batch(logits, labels, np.ones(SIZE))
    scores = np.asarray(block[0])[..., 1] if classes > 2 else np.asarray(block[0])
    assert (np.diff(scores) > 0).all()
    assert len(np.unique(jax.nn.softmax(jnp.asarray(logits))[:, 1])) == 1, "sabotage: probabilities tie"


def test_undefined_is_nan():
    every = [*RANKINGS, *CORRELATIONS]
    assert np.isnan([metric.result(metric.zero()) for metric in every]).all(), "nothing seen"
    logits, labels, weights = classified(3, 20, 2)
    assert np.isnan(results(RANKINGS, ranked, padded_batches(logits, labels, 0 * weights))).all(), "nothing counts"
    assert np.isnan(results(CORRELATIONS, correlated, padded_batches(*measured(3, 20)[:2], 0 * weights))).all()
    nothing_positive = results(RANKINGS, ranked, padded_batches(logits, 0 * labels, weights))
    np.testing.assert_array_equal(np.isnan(nothing_positive), [True, True, True, False])
    assert nothing_positive[3] == pytest.approx(sklearn.metrics.average_precision_score(np.ones(20), logits[:, 0]))
    assert np.isnan(results(RANKINGS, ranked, padded_batches(*classified(3, 20, 4, present=3)))).all(), (
        "no row of class 3"
    )


@pytest.mark.parametrize("value", [0.1, 1e4 / 3, -7.0])
def test_equal_predictions_correlate_with_nothing(value):
    scores, labels, weights = measured(4, 50)
    batches = list(padded_batches(np.full_like(scores, value), labels, weights))
    assert np.isnan(results(CORRELATIONS, correlated, batches)).all()
    squares = np.mean(np.full(50, value, np.float32) ** 2) - np.mean(np.full(50, value, np.float32)) ** 2
    assert squares != 0 or value == -7.0, "sabotage: a rounded spread would pass for one"


@pytest.mark.parametrize("fault", ["label", "logits"])
@pytest.mark.parametrize("classes", [2, 4])
def test_a_row_that_counts_and_cannot_be_ranked_is_reported(fault, classes):
    logits, labels, weights = classified(5, SIZE, classes)
    if fault == "label":
        labels[3] = classes
    else:
        logits[3, 0] = np.nan
    assert np.isnan(results(RANKINGS, ranked, [(logits, labels, weights)])).all()
    weights[3] = 0
    assert np.isfinite(results(RANKINGS, ranked, [(logits, labels, weights)])).all()


def test_nan_predictions_are_reported():
    scores, labels, weights = measured(5, SIZE)
    scores[3] = np.nan
    assert np.isnan(results(CORRELATIONS, correlated, [(scores, labels, weights)])).all()


def test_merge_is_associative_with_zero_as_identity():
    batches = list(padded_batches(*measured(6, 3 * SIZE - 5, offset=100.0)))
    classes = list(padded_batches(*classified(6, 3 * SIZE - 5, 2)))
    for metric, (a, b, c) in [*((m, batches) for m in CORRELATIONS), *((m, classes) for m in RANKINGS)]:
        a, b, c = (metric.of_batch(*batch) for batch in (a, b, c))
        total = metric.merge(metric.zero(), a)
        left = metric.merge(metric.merge(total, b), c)
        right = metric.merge(total, metric.merge(metric.merge(metric.zero(), b), c))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-9), left, right)
        for same in (metric.merge(metric.zero(), total), metric.merge(total, metric.zero())):
            jax.tree.map(np.testing.assert_array_equal, same, total)


def test_leading_axes_are_free():
    for metrics, arrays in ((RANKINGS, classified(7, SIZE, 4)), (CORRELATIONS, measured(7, SIZE))):
        folded = [array.reshape(2, SIZE // 2, *array.shape[1:]) for array in arrays]
        for metric in metrics:
            jax.tree.map(np.testing.assert_array_equal, metric.of_batch(*folded), metric.of_batch(*arrays))


def test_sharded_rows_give_the_same_results():
    rows = jax.sharding.NamedSharding(jax.sharding.Mesh(jax.devices(), ("data",)), jax.sharding.PartitionSpec("data"))
    for metrics, measure, arrays in (
        (RANKINGS, ranked, classified(8, SIZE, 4)),
        (CORRELATIONS, correlated, measured(8, SIZE)),
    ):
        spread = results(metrics, measure, [jax.device_put(arrays, rows)])
        np.testing.assert_allclose(spread, results(metrics, measure, [arrays]), rtol=1e-6)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(UserError, match="RocAuc: positive 2"):
        RocAuc(2)
    with pytest.raises(UserError, match="1 logit per row"):
        PrAuc().of_batch(jnp.zeros((3, 1)), jnp.zeros(3), jnp.ones(3))
