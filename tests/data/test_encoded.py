"""Encoded records: what is laid out in padded and packed rows is each record, exactly, and nothing else counts."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepjax.data.buckets import BucketEvaluationPlan
from lepjax.data.encoded import EncodedRecords
from lepjax.data.loader import load_rows
from lepjax.data.packing import PackedPlan

PADS = {"tokens": 7, "tag": -100}


def records_of(lengths, seed=0, edges=()):
    """Random records with columns of several dtypes per token and per record."""
    rng = np.random.default_rng(seed)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens, records = int(starts[-1]), len(lengths)
    flat = {
        "tokens": rng.integers(0, 100, tokens).astype(np.int32),
        "token_types": rng.integers(0, 2, tokens).astype(np.int32),
        "tag": rng.integers(0, 9, tokens).astype(np.int32),
        "first": rng.random(tokens) < 0.5,
        "tag_weight": rng.random(tokens).astype(np.float32),
    }
    columns = {
        "label": rng.integers(0, 3, records).astype(np.int32),
        "vector": rng.random((records, 2)).astype(np.float32),
    }
    return EncodedRecords(flat, starts, columns, PADS, edges)


SOURCE = records_of([3, 1, 5, 2, 4, 5, 1, 7])

lengths_and_edges = st.tuples(
    st.lists(st.integers(1, 9), min_size=1, max_size=12), st.sets(st.integers(1, 12), max_size=3)
)


def record(source, index, name):
    return source.flat[name][source.starts[index] : source.starts[index + 1]]


# ---- padded ----


def check_padded(source, ids, rows):
    longest = source.lengths[ids].max()
    width = min([edge for edge in source.edges if edge >= longest], default=longest)
    assert rows["mask"].shape == (len(ids), width) and rows["mask"].dtype == bool
    np.testing.assert_array_equal(rows["mask"], np.arange(width) < source.lengths[ids][:, None])
    for name, array in source.flat.items():
        assert rows[name].shape == (len(ids), width) and rows[name].dtype == array.dtype
        for row, index in enumerate(ids):
            np.testing.assert_array_equal(rows[name][row][rows["mask"][row]], record(source, index, name))
        assert (rows[name][~rows["mask"]] == PADS.get(name, 0)).all()
    for name, array in source.columns.items():
        assert rows[name].dtype == array.dtype
        np.testing.assert_array_equal(rows[name], array[ids])
    assert rows.keys() == source.flat.keys() | source.columns.keys() | {"mask"}


@settings(max_examples=100)
@given(lengths_and_edges, st.integers(0, 9), st.data())
def test_padded_rows_are_the_records(given_lengths, seed, data):
    lengths, edges = given_lengths
    source = records_of(lengths, seed).padded(tuple(sorted(edges)))
    ids = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=8)))
    check_padded(source, ids, source.rows(ids, np.zeros_like(ids)))


def shifted(rows):
    return {**rows, "tokens": np.roll(rows["tokens"], 1, axis=1)}


def seen_padding(rows):
    return {**rows, "mask": np.ones_like(rows["mask"])}


def other_records(rows):
    return {**rows, "vector": rows["vector"][::-1]}


def zero_padding(rows):
    return {**rows, "tag": rows["tag"] * rows["mask"]}


@pytest.mark.parametrize("sabotage", [shifted, seen_padding, other_records, zero_padding])
def test_sabotage_wrong_rows_are_noticed(sabotage):
    ids = np.array([2, 3, 0])
    rows = SOURCE.rows(ids, ids * 0)
    check_padded(SOURCE, ids, rows)
    with pytest.raises(AssertionError):
        check_padded(SOURCE, ids, sabotage(rows))


# ---- packed ----


def check_packed(source, length, ids, rows):
    """Each record can be read back from its segment, and what is no record is padding."""
    for row, slots in enumerate(ids):
        for slot, index in enumerate(slots):
            here = rows["segments"][row] == slot + 1
            if index < 0:
                assert not here.any() and rows["slot_weight"][row, slot] == 0
                continue
            begin = rows["firsts"][row, slot]
            np.testing.assert_array_equal(np.flatnonzero(here), begin + np.arange(source.lengths[index]))
            np.testing.assert_array_equal(rows["positions"][row][here], np.arange(source.lengths[index]))
            for name in source.flat:
                np.testing.assert_array_equal(rows[name][row][here], record(source, index, name))
            for name, array in source.columns.items():
                np.testing.assert_array_equal(rows[name][row, slot], array[index])
            assert rows["slot_weight"][row, slot] == 1
    padding = rows["segments"] == 0
    assert padding.sum() == padding.size - source.lengths[ids[ids >= 0]].sum()
    for name, array in source.flat.items():
        assert rows[name].shape == (len(ids), length) and rows[name].dtype == array.dtype
        assert (rows[name][padding] == PADS.get(name, 0)).all()
    assert (rows["positions"][padding] == 0).all() and (rows["firsts"][ids < 0] == 0).all()
    assert {rows[name].dtype for name in ("segments", "positions", "firsts")} == {np.dtype(np.int32)}
    assert rows["slot_weight"].dtype == np.float32


def packed_ids(source, length, slots=4, rows=3):
    return PackedPlan(source.lengths, length, rows, slots, 0, source.digest).batch(0)[0]


@settings(max_examples=100)
@given(lengths_and_edges, st.integers(0, 9), st.data())
def test_packed_rows_are_the_records(given_lengths, seed, data):
    source = records_of(given_lengths[0], seed)
    length = data.draw(st.integers(9, 30))
    ids = packed_ids(source, length)
    emptied = data.draw(st.lists(st.booleans(), min_size=ids.size, max_size=ids.size))
    ids = np.where(np.reshape(emptied, ids.shape), -1, ids)  # empty slots anywhere, and empty rows
    check_packed(source, length, ids, source.packed(length).rows(ids, np.zeros_like(ids)))


def one_segment(rows):
    return {**rows, "segments": np.minimum(rows["segments"], 1)}


def running_positions(rows):
    return {**rows, "positions": np.broadcast_to(np.arange(rows["tokens"].shape[1]), rows["tokens"].shape)}


def all_slots_count(rows):
    return {**rows, "slot_weight": np.ones_like(rows["slot_weight"])}


def first_place_only(rows):
    return {**rows, "firsts": np.zeros_like(rows["firsts"])}


@pytest.mark.parametrize("sabotage", [shifted, one_segment, running_positions, all_slots_count, first_place_only])
def test_sabotage_wrong_packed_rows_are_noticed(sabotage):
    ids = packed_ids(SOURCE, 12)
    rows = SOURCE.packed(12).rows(ids, ids * 0)
    check_packed(SOURCE, 12, ids, rows)
    with pytest.raises(AssertionError):
        check_packed(SOURCE, 12, ids, sabotage(rows))


# ---- weights and identity ----


def check_weights(source, plan):
    """Over all batches, what weighs something is every record once."""
    weighed = []
    for cursor in range(len(plan)):
        ids, epochs = plan.batch(cursor)
        rows = load_rows(source, ids, epochs)
        assert rows["weight"].dtype == np.float32 and rows["weight"].shape == ids.shape[:1]
        weight = rows["weight"] if ids.ndim == 1 else rows["weight"][:, None] * rows["slot_weight"]
        np.testing.assert_array_equal(weight, ids >= 0)
        weighed.append(rows["vector"][weight > 0])
    return np.concatenate(weighed)


@pytest.mark.parametrize("packed", [False, True])
def test_padding_rows_weigh_nothing(packed):
    if packed:
        plan = PackedPlan(SOURCE.lengths, 7, 3, 2, 0, SOURCE.digest, shuffled=False)
        assert (plan.batch(len(plan) - 1)[0] < 0).all(axis=1).any(), "a row without any record"
    else:
        plan = BucketEvaluationPlan(SOURCE.lengths, (4, 8), 3)
        assert (plan.batch(len(plan) - 1)[0] < 0).any()
    source = SOURCE.packed(7) if packed else SOURCE.padded((4, 8))
    vectors = check_weights(source, plan)
    np.testing.assert_array_equal(np.sort(vectors, axis=0), np.sort(SOURCE.columns["vector"], axis=0))


def test_a_padding_row_does_not_change_the_shape():
    ids = np.array([3, 1, -1])
    assert load_rows(SOURCE, ids, ids * 0)["tokens"].shape == (3, 2)
    with pytest.raises(IndexError):  # sabotage: where the loader does not replace it
        SOURCE.rows(ids, ids * 0)


def other(array):
    changed = array.copy()
    changed[-1] = ~changed[-1] if array.dtype == bool else changed[-1] + 1
    return changed


def test_the_digest_changes_with_any_content():
    flat, columns = SOURCE.flat, SOURCE.columns
    changed = [
        *(dataclasses.replace(SOURCE, flat={**flat, name: other(array)}) for name, array in flat.items()),
        *(dataclasses.replace(SOURCE, columns={**columns, name: other(array)}) for name, array in columns.items()),
        dataclasses.replace(SOURCE, starts=np.array([0, 3, 4, 9, 11, 16, 20, 21, 28])),
        dataclasses.replace(SOURCE, pads={"tokens": 8, "tag": -100}),
        dataclasses.replace(SOURCE, pads={}),
        dataclasses.replace(SOURCE, flat={**flat, "tag": flat["tag"].astype(np.int64)}),
        dataclasses.replace(SOURCE, flat={**flat, "tags": flat["tag"]}),
        dataclasses.replace(SOURCE, columns={"label": columns["label"]}),
        dataclasses.replace(SOURCE, columns={"label": columns["vector"], "vector": columns["label"]}),
    ]
    assert len({source.digest for source in [SOURCE, *changed]}) == len(changed) + 1
    assert SOURCE.digest == dataclasses.replace(SOURCE).digest == records_of(SOURCE.lengths).digest
    starts, column = np.arange(3), {"a": np.arange(2)}
    per_token, per_record = EncodedRecords(column, starts, {}), EncodedRecords({}, starts, column)
    assert per_token.digest != per_record.digest
    assert SOURCE.packed(9).digest == SOURCE.padded((9,)).digest == SOURCE.digest, "the layout is the plan's to tell"


@given(st.lists(st.integers(1, 5), min_size=2, max_size=6), st.data())
def test_the_digest_changes_with_any_token(lengths, data):
    source = records_of(lengths)
    tokens = source.flat["tokens"].copy()
    tokens[data.draw(st.integers(0, len(tokens) - 1))] += data.draw(st.sampled_from([-1, 1, 2**20]))
    assert dataclasses.replace(source, flat={**source.flat, "tokens": tokens}).digest != source.digest
