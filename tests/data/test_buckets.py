"""Buckets: the padded lengths that cost least, every record once per epoch, and no shape that was not announced."""

import dataclasses
import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepjax.core.errors import UserError
from lepjax.data import buckets
from lepjax.data.batching import Buckets, Fixed
from lepjax.data.buckets import BucketEvaluationPlan, BucketPlan, bucket_of, choose
from lepjax.data.encoded import EncodedRecords
from lepjax.data.plan import Plan
from lepjax.data.source import Work

SKEWED = np.minimum(3 + np.random.default_rng(0).geometric(0.1, 1000), 60)


# ---- which lengths ----


def cost(lengths, edges, seconds, compile_seconds):
    """Seconds of computing and compiling, record by record."""
    computing = sum(seconds(min(edge for edge in edges if edge >= length)) for length in lengths)
    return computing + compile_seconds * len(edges)


def cheapest(lengths, seconds, compile_seconds, multiple, most):
    """The least cost of any set of multiples that covers the longest record."""
    top = -(-max(lengths) // multiple) * multiple
    below = range(multiple, top, multiple)
    subsets = itertools.chain.from_iterable(itertools.combinations(below, k) for k in range(most))
    return min(cost(lengths, (*subset, top), seconds, compile_seconds) for subset in subsets)


def check_optimal(chosen, lengths, seconds, compile_seconds, multiple, most=8):
    assert list(chosen) == sorted(set(chosen)) and len(chosen) <= most
    assert all(edge % multiple == 0 for edge in chosen)
    assert chosen[-1] - multiple < max(lengths) <= chosen[-1]
    least = cheapest(lengths, seconds, compile_seconds, multiple, most)
    assert cost(lengths, chosen, seconds, compile_seconds) == pytest.approx(least, rel=1e-9)


few_lengths = st.integers(1, 3).flatmap(
    lambda multiple: st.tuples(st.just(multiple), st.lists(st.integers(1, 7 * multiple), min_size=1, max_size=30))
)


@settings(max_examples=200)
@given(few_lengths, st.floats(1.0, 2.5), st.floats(0.0, 300.0), st.integers(1, 8))
def test_the_choice_is_as_cheap_as_the_best_of_all_subsets(given_lengths, power, compile_seconds, most):
    multiple, lengths = given_lengths
    chosen = choose(np.array(lengths), lambda length: length**power, compile_seconds, multiple, most)
    check_optimal(chosen, lengths, lambda length: length**power, compile_seconds, multiple, most)


@pytest.mark.parametrize("edges", [(60,), (12, 60), (12, 24, 36, 48, 60), (12, 24, 48)])
def test_sabotage_another_choice_is_not_as_cheap(edges):
    args = (SKEWED[:100], float, 200.0, 12)
    best = choose(*args)
    check_optimal(best, *args)
    assert best != edges
    with pytest.raises((AssertionError, ValueError)):  # one that costs more, or does not hold the longest record
        check_optimal(edges, *args)


def test_dear_compiling_gives_one_shape_and_free_compiling_many():
    shapes = [len(choose(SKEWED, float, seconds, multiple=1, most=60)) for seconds in (1e9, 2000.0, 200.0, 0.0)]
    assert shapes == sorted(shapes) and shapes[0] == 1 < shapes[1] < shapes[2] < shapes[3]
    assert choose(SKEWED, float, 1e9) == (64,), "a multiple of 8"
    assert choose(SKEWED, float, 0.0, multiple=1, most=60) == tuple(np.unique(SKEWED))
    assert len(choose(SKEWED, float, 0.0, multiple=1, most=5)) == 5


def test_a_long_job_on_a_slow_machine_takes_more_shapes():
    def edges(epochs, **changes):
        work = Work(epochs, lambda length: 1e8)
        return dataclasses.replace(Buckets(), **changes).edges(SKEWED, work, share=1.0)

    assert len(edges(0.01)) == 1 < len(edges(1)) < len(edges(100))
    assert len(edges(100, flops_per_second=1e14)) < len(edges(100))
    assert edges(100, lengths=(64, 16)) == (16, 64)
    assert Fixed(length=64).edges(SKEWED, Work(1, float), 1.0) == (64,)


# ---- which records ----


def plan_of(lengths, edges, batch_size=4, seed=0):
    lengths = np.asarray(lengths)
    return BucketPlan(lengths, edges, batch_size, seed, digest=hashlib.sha256(lengths.tobytes()).hexdigest())


PLAN = plan_of(SKEWED[:101], (8, 16, 64), 8, seed=3)

cases = st.tuples(
    st.lists(st.integers(1, 20), min_size=1, max_size=60),
    st.sets(st.integers(1, 19), max_size=4),
    st.integers(1, 9),
    st.integers(0, 2**31 - 1),
)


def case_plan(case):
    lengths, below, batch_size, seed = case
    return plan_of(lengths, (*sorted(below), 20), batch_size, seed)


def width(plan, ids):
    """The padded length of a batch: the smallest that holds its longest record."""
    longest = plan.lengths[ids[ids >= 0]].max()
    return min(edge for edge in plan.edges if edge >= longest)


def epoch_of(plan, epoch):
    """int64[steps, batch size]: the ids of all batches of an epoch."""
    steps = plan.steps_per_epoch
    return np.stack([plan.batch(cursor)[0] for cursor in range(epoch * steps, (epoch + 1) * steps)])


def check_epoch(plan, ids):
    assert ids.shape == (-(-plan.records // plan.batch_size), plan.batch_size), "as many steps as without buckets"
    np.testing.assert_array_equal(np.sort(ids[ids >= 0]), np.arange(plan.records))
    assert ((ids < 0).any(axis=1)).sum() <= 1, "at most one batch is not full"
    assert (ids >= 0).any(axis=1).all()
    assert {width(plan, batch) for batch in ids} <= announced(plan)
    buckets = bucket_of(plan.lengths, plan.edges)
    moved = [sum(buckets[batch[batch >= 0]] < buckets[batch[batch >= 0]].max()) for batch in ids]
    assert sum(moved) < plan.batch_size * len(plan.edges), "only what fills no batch moves to a longer one"


def announced(plan):
    return {width(plan, ids) for ids in plan.shapes()}


@settings(max_examples=60)
@given(cases)
def test_an_epoch_holds_every_record_once(case):
    plan = case_plan(case)
    for epoch in range(4):
        check_epoch(plan, epoch_of(plan, epoch))
        assert (plan.batch(epoch * plan.steps_per_epoch)[1] == epoch).all()


@pytest.mark.parametrize("sabotage", ["twice", "lost", "unfilled", "unsorted", "unannounced"])
def test_sabotage_a_wrong_epoch_is_noticed(sabotage, monkeypatch):
    ids = epoch_of(PLAN, 0).copy()
    check_epoch(PLAN, ids)
    full = np.flatnonzero((ids >= 0).all(axis=1))
    if sabotage == "twice":
        ids[full[0], 0] = ids[full[1], 0]
    elif sabotage == "lost":
        ids = ids[full]
    elif sabotage == "unfilled":
        ids = np.concatenate([ids, np.full((1, 8), -1)])
        ids[-1, 0], ids[full[0], 0] = ids[full[0], 0], -1
    elif sabotage == "unsorted":  # batches of any lengths, as without buckets
        ids = np.concatenate([np.random.default_rng(0).permutation(101), [-1] * 3]).reshape(ids.shape)
    else:
        monkeypatch.setattr(BucketPlan, "shapes", lambda plan: [np.argsort(plan.lengths)[:1]])
    with pytest.raises(AssertionError):
        check_epoch(PLAN, ids)


def test_rows_have_the_shape_of_their_bucket():
    starts = np.concatenate([[0], np.cumsum(PLAN.lengths)])
    source = EncodedRecords({"tokens": np.ones(starts[-1], np.int32)}, starts, {}).padded(PLAN.edges)
    widths = set()
    for cursor in range(2 * PLAN.steps_per_epoch):
        ids, epochs = PLAN.batch(cursor)
        rows = source.rows(np.where(ids < 0, ids.max(), ids), epochs)
        assert rows["tokens"].shape == (8, width(PLAN, ids))
        np.testing.assert_array_equal(rows["mask"].sum(axis=1)[ids >= 0], PLAN.lengths[ids[ids >= 0]])
        widths.add(rows["tokens"].shape[1])
    assert widths == announced(PLAN) == set(PLAN.edges)


def test_epochs_and_seeds_differ_in_order():
    plans = [dataclasses.replace(PLAN, seed=seed) for seed in range(6)]
    orders = {epoch_of(plan, epoch).tobytes() for plan in plans for epoch in range(3)}
    assert len(orders) == 18
    widths = {tuple(width(PLAN, batch) for batch in epoch_of(PLAN, epoch)) for epoch in range(6)}
    assert len(widths) == 6, "the order of the shapes is shuffled too"
    assert all(list(order) != sorted(order) for order in widths)


def check_random_access(plan, cursors):
    """Batches asked for in any order, each from a plan that has seen nothing, equal those of a walk from the start."""
    walked = [plan.batch(cursor)[0] for cursor in range(max(cursors) + 1)]
    for cursor in cursors:
        buckets._arranged.cache_clear()
        np.testing.assert_array_equal(dataclasses.replace(plan).batch(cursor)[0], walked[cursor])


@given(cases, st.lists(st.integers(0, 40), min_size=1, max_size=8))
def test_a_batch_is_a_function_of_the_cursor(case, cursors):
    check_random_access(case_plan(case), cursors)


def test_sabotage_an_order_with_a_memory_is_noticed(monkeypatch):
    check_random_access(PLAN, [17, 3, 40])
    generator = np.random.default_rng(0)
    monkeypatch.setattr(buckets, "permuted", lambda records, *_: generator.permutation(records))
    with pytest.raises(AssertionError):
        check_random_access(PLAN, [17, 3, 40])
    buckets._arranged.cache_clear()


def test_the_fingerprint_tells_plans_apart():
    changes = [{"seed": 4}, {"batch_size": 9}, {"digest": "b"}, {"edges": (16, 64)}]
    plans = [PLAN, *(dataclasses.replace(PLAN, **change) for change in changes), Plan(101, 8, 3, PLAN.digest)]
    assert len({plan.fingerprint for plan in plans}) == 6
    PLAN.batch(0)
    assert PLAN.fingerprint == dataclasses.replace(PLAN).fingerprint, "use must not change it"


def test_the_note_tells_what_is_useful():
    assert plan_of([4, 8, 12, 16], (8, 16)).note == "rows padded to 8, 16 tokens, compiled before step 0; 83% useful"


def check_covers(plan, records):
    batches = np.stack([plan.batch(cursor)[0] for cursor in range(len(plan))])
    np.testing.assert_array_equal(np.sort(batches[batches >= 0]), np.arange(records))
    assert batches.size - records < plan.batch_size, "no batch of padding alone"
    assert {width(plan, ids) for ids in batches} == announced(plan)
    assert len(plan.shapes()) == len(announced(plan)), "no shape is compiled twice"


@settings(max_examples=60)
@given(cases)
def test_evaluation_covers_every_record_and_every_shape_once(case):
    lengths, below, batch_size, _ = case
    check_covers(BucketEvaluationPlan(np.array(lengths), (*sorted(below), 20), batch_size), len(lengths))


@pytest.mark.parametrize("wrong", [100, 102])
def test_sabotage_a_record_too_few_or_too_many_is_noticed(wrong):
    plan = BucketEvaluationPlan(PLAN.lengths, PLAN.edges, 8)
    check_covers(plan, 101)
    with pytest.raises(AssertionError):
        check_covers(plan, wrong)


@pytest.mark.parametrize("recipe", [Buckets(lengths=(32, 8)), Fixed(length=32)])
def test_a_record_longer_than_every_padded_length_is_refused_at_once(recipe):
    source = EncodedRecords({"tokens": np.ones(40, np.int32)}, np.array([0, 7, 40]), {})
    work = Work(1.0, float)
    message = r"data\.batching: a record of 33 tokens is longer than every padded length .*Add 33 or more"
    with pytest.raises(UserError, match=message):
        recipe.training(source, 2, 0, work)
    with pytest.raises(UserError, match=message):
        recipe.evaluation(source, 2, work)
