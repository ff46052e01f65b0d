"""The plan: every record once per epoch, and batch t without the batches before it."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepjax.data.plan import EvaluationPlan, Plan

PLAN = Plan(records=23, batch_size=5, seed=3, digest="a")
records_and_batch = st.tuples(st.integers(1, 40), st.integers(1, 12))


def stream(plan, batches):
    """(record ids, epochs) of that many batches in a row."""
    parts = [plan.batch(t) for t in range(batches)]
    return np.concatenate([ids for ids, _ in parts]), np.concatenate([epochs for _, epochs in parts])


def check_epochs(ids, epochs, records):
    """Every record exactly once in each whole epoch, and epochs in order."""
    np.testing.assert_array_equal(epochs, np.arange(len(ids)) // records)
    for epoch in range(len(ids) // records):
        np.testing.assert_array_equal(np.sort(ids[epochs == epoch]), np.arange(records))


@given(records_and_batch, st.integers(0, 2**31 - 1))
def test_every_epoch_is_a_permutation(shape, seed):
    records, rows = shape
    ids, epochs = stream(Plan(records, rows, seed, "a"), -(-3 * records // rows))
    assert ids.dtype == epochs.dtype == np.int64
    check_epochs(ids, epochs, records)


def test_a_record_that_comes_twice_is_noticed():
    ids, epochs = stream(PLAN, 14)
    check_epochs(ids, epochs, 23)
    ids[3] = ids[4]
    with pytest.raises(AssertionError):
        check_epochs(ids, epochs, 23)


def test_batches_are_full_across_epochs():
    ids, epochs = PLAN.batch(4)  # places 20 to 24 of 23 records
    assert ids.shape == (5,)
    np.testing.assert_array_equal(epochs, [0, 0, 0, 1, 1])


def test_a_batch_does_not_depend_on_the_batches_before_it():
    ids, _ = stream(PLAN, 30)
    for t in (29, 0, 17, 17, 3):  # any order, each from a plan that has seen nothing
        np.testing.assert_array_equal(dataclasses.replace(PLAN).batch(t)[0], ids[5 * t : 5 * t + 5])
        np.testing.assert_array_equal(PLAN.batch(t)[0], ids[5 * t : 5 * t + 5])
    with pytest.raises(AssertionError):  # sabotage: a cursor that is off by one
        np.testing.assert_array_equal(PLAN.batch(18)[0], ids[5 * 17 : 5 * 18])


def test_the_batch_size_only_cuts_the_order():
    ids, _ = stream(PLAN, 14)
    for rows in (1, 7, 70):
        other, _ = stream(dataclasses.replace(PLAN, batch_size=rows), 70 // rows)
        np.testing.assert_array_equal(other, ids)


def test_epochs_and_seeds_differ_in_order():
    ids, epochs = stream(PLAN, 14)
    orders = {tuple(ids[epochs == e]) for e in (0, 1, 2)} | {tuple(np.arange(23))}
    orders |= {
        tuple(stream(dataclasses.replace(PLAN, seed=seed), 14)[0][:23]) for seed in range(8) if seed != PLAN.seed
    }
    assert len(orders) == 1 + 3 + 7


def test_the_first_place_is_fair():
    """Each tenth of the records opens about 100 of 1000 epochs, with a standard deviation of 9.5."""
    plan = Plan(records=500, batch_size=1, seed=0, digest="a")
    firsts = np.array([plan.batch(500 * epoch)[0][0] for epoch in range(1000)])
    assert np.abs(np.bincount(firsts // 50, minlength=10) - 100).max() < 5 * 9.5


def test_the_fingerprint_tells_plans_apart():
    changes = [{"seed": 4}, {"batch_size": 6}, {"digest": "b"}, {"records": 24}]
    fingerprints = {PLAN.fingerprint, *(dataclasses.replace(PLAN, **change).fingerprint for change in changes)}
    assert len(fingerprints) == 5
    assert PLAN.fingerprint == dataclasses.replace(PLAN).fingerprint
    PLAN.batch(0)
    assert PLAN.fingerprint == dataclasses.replace(PLAN).fingerprint, "use must not change it"


def test_steps_of_an_epoch():
    assert PLAN.steps_per_epoch == 23 / 5


def check_covers(plan, records):
    batches = [plan.batch(i) for i in range(len(plan))]
    ids, epochs = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    np.testing.assert_array_equal(ids[ids >= 0], np.arange(records))
    assert set(ids[records:]) <= {-1}
    assert (ids < records).all() and (epochs == 0).all()
    assert all(len(part) == plan.batch_size for batch in batches for part in batch)
    assert len(ids) - records < plan.batch_size, "no batch of padding alone"


@given(records_and_batch)
def test_evaluation_covers_every_record_once(shape):
    check_covers(EvaluationPlan(*shape), shape[0])


@pytest.mark.parametrize("wrong", [22, 24])
def test_a_record_too_few_or_too_many_is_noticed(wrong):
    with pytest.raises(AssertionError):
        check_covers(EvaluationPlan(23, 5), wrong)
