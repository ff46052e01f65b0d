"""Metrics of confusion matrices over padded batches equal scikit-learn on the unpadded set."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from lepjax.core.class_metrics import F1, CalibrationError, Confusion, Matthews, Precision, Recall, per_class, report
from lepjax.core.errors import UserError

CLASSES, SIZE = 4, 8
AVERAGED = [kind(CLASSES, average) for kind in (Precision, Recall, F1) for average in ("micro", "macro", "weighted", 2)]
METRICS = [*AVERAGED, Matthews(CLASSES), CalibrationError(), CalibrationError(bins=4)]
NAMES = ["cat", "dog", "a name of many letters", "3"]


def data_set(seed, rows, present=CLASSES, signal=1.0):
    """Logits that know something of the labels; with fewer `present`, some classes have no row or no prediction."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, present, rows).astype(np.int32)
    logits = rng.normal(size=(rows, CLASSES)) + signal * np.eye(CLASSES)[labels]
    logits[:, CLASSES - rng.integers(0, 2) :] = -9.0
    return logits.astype(np.float32), labels, rng.choice([1.0, 2.0, 0.25], rows).astype(np.float32)


def padded_batches(logits, labels, weights):
    """Batches of `SIZE`; the last is filled with NaN logits and labels out of range (weights: 0)."""
    for start in range(0, len(labels), SIZE):
        arrays = [array[start : start + SIZE] for array in (logits, labels, weights)]
        missing = SIZE - len(arrays[0])
        fills = (np.full((missing, CLASSES), np.nan), np.full(missing, -100), np.zeros(missing))
        yield [np.concatenate([a, fill.astype(a.dtype)]) for a, fill in zip(arrays, fills, strict=True)]


@jax.jit
def parts(logits, labels, weights):
    return [metric.of_batch(logits, labels, weights) for metric in METRICS]


def over_batches(batches):
    totals = [metric.zero() for metric in METRICS]
    for batch in batches:
        totals = [metric.merge(t, p) for metric, t, p in zip(METRICS, totals, parts(*batch), strict=True)]
    return totals


def results(batches):
    return [metric.result(total) for metric, total in zip(METRICS, over_batches(batches), strict=True)]


def calibration_error(logits, labels, weights, bins):
    """Guo et al. (2017), bin by bin in float64."""
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(-1, keepdims=True)
    confidence, error = probabilities.max(-1), 0.0
    for low in np.arange(bins) / bins:
        inside = (confidence > low) & (confidence <= low + 1 / bins)
        if inside.any():
            accuracy = np.average(logits[inside].argmax(-1) == labels[inside], weights=weights[inside])
            gap = abs(accuracy - np.average(confidence[inside], weights=weights[inside]))
            error += gap * weights[inside].sum() / weights.sum()
    return error


def of_sklearn(logits, labels, weights):
    predicted = logits.argmax(-1)
    expected = []
    for metric in AVERAGED:
        score = getattr(sklearn.metrics, f"{type(metric).__name__.lower()}_score")
        one = isinstance(metric.average, int)
        among, average = ([metric.average], "macro") if one else (range(CLASSES), metric.average)
        options = {"labels": among, "average": average, "sample_weight": weights, "zero_division": 0}
        expected.append(score(labels, predicted, **options))
    expected.append(sklearn.metrics.matthews_corrcoef(labels, predicted, sample_weight=weights))
    return [*expected, *(calibration_error(logits, labels, weights, bins) for bins in (15, 4))]


data_sets = st.builds(
    data_set, st.integers(0, 999), st.integers(1, 40), st.integers(1, CLASSES), st.sampled_from([0.0, 2.0, 9.0])
)


@given(data_sets)
def test_equal_sklearn_on_the_unpadded_set(arrays):
    np.testing.assert_allclose(results(padded_batches(*arrays)), of_sklearn(*arrays), rtol=2e-6, atol=1e-6)


def test_sabotage_padding_that_counts_is_noticed():
    arrays = data_set(0, 10)
    batches = [(np.nan_to_num(x), y.clip(0), np.maximum(w, 1)) for x, y, w in padded_batches(*arrays)]
    equal = np.isclose(results(batches), of_sklearn(*arrays), rtol=2e-6)
    assert not any(same for same, metric in zip(equal, METRICS, strict=True) if getattr(metric, "average", 0) != 2)


def test_sabotage_labels_taken_for_predictions_are_noticed():
    arrays = data_set(1, 40)
    swapped = [m.result((t[0].T,)) for m, t in zip(AVERAGED, over_batches(padded_batches(*arrays)), strict=False)]
    different = ~np.isclose(swapped, of_sklearn(*arrays)[: len(AVERAGED)], rtol=2e-6)
    noticed = {(type(m).__name__, m.average) for m, d in zip(AVERAGED, different, strict=True) if d}
    one_sided = {("Precision", "macro"), ("Precision", 2), ("Recall", "macro"), ("Recall", 2)}
    assert noticed == one_sided | {("Precision", "weighted"), ("F1", "weighted")}, "weighted recall is the accuracy"


def text_of_sklearn(labels, predicted, **options):
    known = {"labels": range(CLASSES), "target_names": NAMES, "digits": 4, "zero_division": 0}
    return sklearn.metrics.classification_report(labels, predicted, **known, **options)


@given(data_sets)
def test_report_prints_what_sklearn_prints(arrays):
    logits, labels, weights = arrays
    predicted = logits.argmax(-1)
    for weight in (None, weights):
        counts = sklearn.metrics.confusion_matrix(labels, predicted, labels=range(CLASSES), sample_weight=weight)
        # Whole supports are printed as integers always; scikit-learn prints 1.0 with weights, and where nothing is right.
        if counts.trace() > 0 if weight is None else (counts.sum(1) % 1).any():
            assert report(counts, NAMES) == text_of_sklearn(labels, predicted, sample_weight=weight)


def test_report_of_a_metrics_totals():
    logits, labels, _ = data_set(2, 30)
    totals = over_batches(padded_batches(logits, labels, np.ones(30, np.float32)))
    assert report(totals[0][0], NAMES) == text_of_sklearn(labels, logits.argmax(-1))
    assert report(totals[0][0].T, NAMES) != text_of_sklearn(labels, logits.argmax(-1)), "sabotage: transposed"
    with pytest.raises(UserError, match="3 names for 4 classes"):
        report(totals[0][0], NAMES[:3])


def test_per_class():
    counts = np.array([[3, 1, 0], [0, 0, 0], [2, 0, 2]])
    precision, recall, f1, support = per_class(counts)
    np.testing.assert_allclose(precision, [3 / 5, 0, 1])
    np.testing.assert_allclose(recall, [3 / 4, 0, 1 / 2])
    np.testing.assert_allclose(f1, [2 / 3, 0, 2 / 3])
    assert support.tolist() == [4, 0, 4]


def test_rows_are_true_labels_and_leading_axes_are_free():
    logits, labels, weights = data_set(3, SIZE)
    (flat,) = Confusion(CLASSES).of_batch(logits, labels, weights)
    expected = sklearn.metrics.confusion_matrix(labels, logits.argmax(-1), labels=range(4), sample_weight=weights)
    np.testing.assert_array_equal(flat, expected)
    halves = (array.reshape(2, SIZE // 2, *array.shape[1:]) for array in (logits, labels, weights))
    np.testing.assert_array_equal(Confusion(CLASSES).of_batch(*halves)[0], flat)


@pytest.mark.parametrize("fault", ["label", "logits"])
def test_a_row_that_counts_and_cannot_be_counted_is_reported(fault):
    logits, labels, weights = data_set(4, SIZE)
    if fault == "label":
        labels[3] = CLASSES
    else:
        logits[3, 0] = np.nan
    assert np.isnan(results([(logits, labels, weights)])).all()
    weights[3] = 0
    assert np.isfinite(results([(logits, labels, weights)])).all()


def test_sabotage_a_label_out_of_range_would_vanish():
    assert jax.nn.one_hot(jnp.array([CLASSES]), CLASSES).sum() == 0


def test_merge_is_associative_with_zero_as_identity():
    rng = np.random.default_rng(0)
    for metric in METRICS:
        a, b, c = (tuple(rng.integers(0, 2**20, np.shape(x)).astype(np.float32) for x in metric.zero()) for _ in "abc")
        total = metric.merge(metric.zero(), a)
        left = metric.merge(metric.merge(total, b), c)
        right = metric.merge(total, metric.merge(metric.merge(metric.zero(), b), c))
        np.testing.assert_array_equal(left, right)
        np.testing.assert_array_equal(metric.merge(total, metric.zero()), total)
        assert left[0].dtype == np.float64


def test_totals_outgrow_float32():
    metric, one = Confusion(2), (np.eye(2, dtype=np.float32),)
    total = metric.merge(metric.zero(), (np.full((2, 2), 2**25, np.float32),))
    for _ in range(100):
        total = metric.merge(total, one)
    assert total[0][0, 0] == 2**25 + 100
    assert np.float32(2**25) + np.float32(1) == 2**25, "sabotage: float32 totals would stand still"


def test_sharded_rows_give_the_same_counts():
    rows = jax.sharding.NamedSharding(jax.sharding.Mesh(jax.devices(), ("data",)), jax.sharding.PartitionSpec("data"))
    arrays = data_set(5, SIZE)
    for alone, spread in zip(parts(*arrays), parts(*jax.device_put(arrays, rows)), strict=True):
        np.testing.assert_allclose(alone[0], spread[0], rtol=1e-6)


def test_a_confidence_on_a_border_belongs_to_the_bin_below():
    logits = np.log(np.float32([[0.5, 0.5], [0.75, 0.25]]))
    metric = CalibrationError(bins=2)
    total = metric.merge(metric.zero(), metric.of_batch(logits, np.int32([1, 0]), np.ones(2, np.float32)))
    assert metric.result(total) == pytest.approx((0.5 + 0.25) / 2)
    assert abs((0.5 + 0.75 - 1) / 2 - (0.5 + 0.25) / 2) > 0.1, "sabotage: one bin for both"


def test_nothing_seen_is_nan():
    assert np.isnan([metric.result(metric.zero()) for metric in METRICS]).all()


@pytest.mark.parametrize("average", ["mean", CLASSES, -1])
def test_an_unknown_average_is_refused(average):
    with pytest.raises(UserError, match="F1: average .* a class from 0 to 3"):
        F1(CLASSES, average)


def test_numbers_that_make_no_sense_are_refused():
    for wrong in (lambda: Matthews(0), lambda: CalibrationError(0), lambda: F1(0)):
        with pytest.raises(UserError, match="at least 1"):
            wrong()
    with pytest.raises(UserError, match="logits of 4 classes"):
        Matthews(3).of_batch(*data_set(0, 2))
