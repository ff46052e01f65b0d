"""Packing: every record once per epoch, no row overfull, and little padding."""

import dataclasses
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepjax.core.errors import UserError
from lepjax.data import packing, recent
from lepjax.data.batching import Packed
from lepjax.data.buckets import BucketPlan
from lepjax.data.encoded import EncodedRecords
from lepjax.data.packing import PackedPlan
from lepjax.data.source import Work

# Like SST-2 in word pieces: 13 tokens on average, with a standard deviation of 9, from 3 to 66.
LIKE_SST2 = np.clip(3 + np.random.default_rng(0).gamma(1.15, 9.0, 20_000), 3, 66).astype(np.int64)


def plan_of(lengths, length, rows=3, slots=4, seed=0, shuffled=True):
    lengths = np.asarray(lengths)
    return PackedPlan(lengths, length, rows, slots, seed, hashlib.sha256(lengths.tobytes()).hexdigest(), shuffled)


PLAN = plan_of(LIKE_SST2[:300], 96, rows=4, slots=6, seed=3)

cases = st.tuples(
    st.lists(st.integers(1, 20), min_size=1, max_size=50),
    st.integers(20, 60),
    st.integers(1, 4),
    st.integers(1, 6),
    st.integers(0, 2**31 - 1),
)


def epochs_of(plan, count):
    """[int64[batches, rows, slots]] of the first epochs, walked batch by batch."""
    found, cursor = [[] for _ in range(count)], 0
    while True:
        ids, epochs = plan.batch(cursor)
        assert ids.shape == epochs.shape == (plan.rows, plan.slots) and (epochs == epochs.flat[0]).all()
        if epochs.flat[0] == count:
            return [np.stack(epoch) for epoch in found]
        found[epochs.flat[0]].append(ids)
        cursor += 1


def check_epoch(plan, ids):
    np.testing.assert_array_equal(np.sort(ids[ids >= 0]), np.arange(plan.records))
    tokens = np.where(ids >= 0, plan.lengths[np.maximum(ids, 0)], 0).sum(axis=-1)
    assert (tokens <= plan.length).all(), "no row is overfull"
    assert ids.shape[1:] == (plan.rows, plan.slots)
    assert (np.diff((ids >= 0).astype(int), axis=-1) <= 0).all(), "slots are filled from the first"
    assert (ids >= 0).any(axis=(1, 2)).all(), "no batch of padding alone"


@settings(max_examples=100)
@given(cases)
def test_an_epoch_holds_every_record_once(case):
    plan = plan_of(*case)
    for ids in epochs_of(plan, 3):
        check_epoch(plan, ids)


@pytest.mark.parametrize("sabotage", ["twice", "lost", "overfull", "gap"])
def test_sabotage_a_wrong_epoch_is_noticed(sabotage):
    (ids,) = epochs_of(PLAN, 1)
    check_epoch(PLAN, ids)
    plan = PLAN
    if sabotage == "twice":
        ids[0, 0, 0] = ids[1, 0, 0]
    elif sabotage == "lost":
        ids = ids[1:]
    elif sabotage == "overfull":
        plan = dataclasses.replace(PLAN, length=95)
    else:
        row = ids[ids[..., -1] < 0][0]
        ids[(ids == row).all(axis=-1)] = row[::-1]
    with pytest.raises(AssertionError):
        check_epoch(plan, ids)


@given(cases, st.lists(st.integers(0, 60), min_size=1, max_size=8))
def test_a_batch_is_a_function_of_the_cursor(case, cursors):
    check_random_access(plan_of(*case), cursors)


def check_random_access(plan, cursors):
    """Batches asked for in any order, across epochs, each from a plan that has seen nothing, equal a walk's."""
    walked = [plan.batch(cursor) for cursor in range(max(cursors) + 1)]
    for cursor in cursors:
        packing._packed.cache_clear()
        packing._count.cache_clear()
        for found, expected in zip(dataclasses.replace(plan).batch(cursor), walked[cursor], strict=True):
            np.testing.assert_array_equal(found, expected)


def test_sabotage_an_order_with_a_memory_is_noticed(monkeypatch):
    check_random_access(PLAN, [17, 3, 40])
    generator = np.random.default_rng(0)
    monkeypatch.setattr(packing, "permuted", lambda records, *_: generator.permutation(records))
    with pytest.raises(AssertionError):
        check_random_access(PLAN, [17, 3, 40])
    packing._packed.cache_clear()
    packing._count.cache_clear()


def test_epochs_end_where_their_batches_end():
    """Epochs have unequal numbers of batches, and the cursor still finds the right one."""
    plan = plan_of(LIKE_SST2[:300], 66, rows=1)
    sizes = [len(ids) for ids in epochs_of(plan, 12)]
    assert len(set(sizes)) > 1
    ends = np.cumsum(sizes)
    for epoch, end in enumerate(ends):
        assert plan.batch(int(end) - 1)[1].max() == epoch
        assert plan.batch(int(end))[1].max() == epoch + 1
    assert len(plan) == plan.steps_per_epoch == sizes[0]


def test_a_late_epoch_is_not_packed_from_the_start_for_every_batch(monkeypatch):
    def packs(plan, batches):
        packed = []
        permuted = packing.permuted
        with monkeypatch.context() as patch:
            patch.setattr(packing, "permuted", lambda *args: packed.append(args[2]) or permuted(*args))
            for cursor in range(batches):
                plan.batch(cursor)
        return len(packed), max(packed) + 1

    plan = plan_of(LIKE_SST2[:40], 66)
    packed, epochs = packs(plan, 120)
    assert epochs > 16 and packed == epochs, "each epoch once"
    monkeypatch.setattr(packing, "_count", lambda plan, epoch: len(packing._packed(plan, epoch)))  # sabotage: forget
    monkeypatch.setattr(recent, "COUNT", 4)
    packed, epochs = packs(dataclasses.replace(plan, seed=1), 120)
    assert packed > 10 * epochs


def test_epochs_and_seeds_differ_in_order():
    plans = [dataclasses.replace(PLAN, seed=seed) for seed in range(5)]
    assert len({ids.tobytes() for plan in plans for ids in epochs_of(plan, 3)}) == 15


def test_the_fingerprint_tells_plans_apart():
    changes = [{"seed": 4}, {"rows": 5}, {"slots": 7}, {"length": 97}, {"digest": "b"}, {"shuffled": False}]
    plans = [PLAN, *(dataclasses.replace(PLAN, **change) for change in changes)]
    plans.append(BucketPlan(PLAN.lengths, (96,), 4, 3, PLAN.digest))
    assert len({plan.fingerprint for plan in plans}) == 8
    PLAN.batch(0)
    assert PLAN.fingerprint == dataclasses.replace(PLAN).fingerprint, "use must not change it"


@settings(max_examples=50)
@given(cases)
def test_evaluation_covers_every_record_once_in_order(case):
    plan = plan_of(*case, shuffled=False)
    batches = [plan.batch(cursor) for cursor in range(len(plan))]
    check_epoch(plan, np.stack([ids for ids, _ in batches]))
    assert all((epochs == 0).all() for _, epochs in batches)
    firsts = [ids[0, 0] for ids, _ in batches]
    assert firsts == sorted(firsts) and firsts[0] == 0


def test_there_is_one_shape():
    (ids,) = PLAN.shapes()
    assert {PLAN.batch(cursor)[0].shape for cursor in range(30)} == {ids.shape}


def useful(length, slots, rows=16):
    return LIKE_SST2.sum() / (len(plan_of(LIKE_SST2, length, rows, slots)) * rows * length)


def test_most_places_are_useful():
    shares = {length: useful(length, Packed().slots) for length in (Packed().length, 66, 256)}
    assert min(shares[Packed().length], shares[66]) > 0.85, shares
    assert PLAN.note.endswith(f"{PLAN.lengths.sum() / (len(PLAN) * 4 * 96):.0%} useful")


def test_sabotage_one_record_per_row_is_mostly_padding():
    assert useful(128, slots=1) < 0.2


@pytest.mark.parametrize("how", ["training", "evaluation"])
def test_a_record_longer_than_a_row_is_refused_at_once(how):
    source = EncodedRecords({"tokens": np.ones(40, np.int32)}, np.array([0, 7, 40]), {})
    recipe, work = Packed(length=32), Work(1.0, float)
    with pytest.raises(UserError, match=r"data\.batching\.length: a record of 33 tokens does not fit rows of 32.*33"):
        recipe.training(source, 2, 0, work) if how == "training" else recipe.evaluation(source, 2, work)
    with pytest.raises(UserError, match=r"data\.batching\.slots: 0\. Use at least 1"):
        dataclasses.replace(recipe, length=64, slots=0).training(source, 2, 0, work)
