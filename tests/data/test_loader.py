"""From plan to device: reading ahead changes neither the order nor the rows, and rows land where their shard is."""

import threading
import time

import jax
import numpy as np
import pytest

from lepjax.core.sharding import Part, Placement, make_mesh, parse_mesh
from lepjax.data.encoded import EncodedRecords
from lepjax.data.loader import Batches, place, placed_ahead, read_ahead
from lepjax.data.plan import EvaluationPlan, Plan
from lepjax.data.tokens import TokenWindows

TOKENS = np.random.default_rng(0).integers(0, 256, 1000).astype(np.uint8)


class Slow:
    """A source of which every other batch is late, and that knows who asked."""

    def __init__(self):
        self.windows = TokenWindows(TOKENS, 8, shift=True, where="here")
        self.digest, self.threads, self.asked = self.windows.digest, set(), []

    def __len__(self):
        return len(self.windows)

    def rows(self, ids, epochs):
        self.threads.add(threading.get_ident())
        self.asked.append(len(self.asked))
        time.sleep(0.01 if len(self.asked) % 2 else 0.0)
        return self.windows.rows(ids, epochs)


def train_batches(source=None, steps=40):
    source = source or TokenWindows(TOKENS, 8, shift=True, where="here")
    return Batches(source, Plan(len(source), 16, seed=0, digest=source.digest), steps)


def check_equal(streamed, batches, start):
    streamed = list(streamed)
    assert len(streamed) == len(batches) - start
    for t, rows in enumerate(streamed, start):
        assert rows.keys() == batches[t].keys()
        for name, array in batches[t].items():
            np.testing.assert_array_equal(rows[name], array)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("start", [0, 1, 17, 39, 40, 50])
def test_reading_ahead_is_indexing(start, threads):
    batches = train_batches()
    if start >= 40:
        assert list(read_ahead(batches, start, threads)) == []
        return
    check_equal(read_ahead(batches, start, threads), batches, start)
    with pytest.raises(AssertionError):  # sabotage: a cursor that is off by one
        check_equal(read_ahead(train_batches(steps=41), start + 1, threads), batches, start)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_change_the_order(threads):
    slow = Slow()
    check_equal(read_ahead(train_batches(slow), 3, threads), train_batches(), 3)
    assert len(slow.threads) == threads and threading.get_ident() not in slow.threads


def test_it_reads_ahead_but_not_everything():
    slow = Slow()
    stream = read_ahead(train_batches(slow), 0, threads=1, ahead=4)
    next(stream)
    deadline = time.monotonic() + 5
    while len(slow.asked) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert 5 <= len(slow.asked) <= 8, len(slow.asked)


def test_an_error_in_a_thread_arrives():
    class Broken(Slow):
        def rows(self, ids, epochs):
            raise KeyError("row 7")

    with pytest.raises(KeyError, match="row 7"):
        next(read_ahead(train_batches(Broken()), 0))


def test_training_weights_are_one():
    np.testing.assert_array_equal(train_batches()[39]["weight"], np.ones(16, np.float32))


def test_evaluation_batches_cover_the_tokens_once():
    source = TokenWindows(TOKENS, 8, shift=False, where="here")
    batches = Batches(source, plan := EvaluationPlan(len(source), 16), len(plan))
    streamed = list(read_ahead(batches, 0, threads=2))
    check_equal(streamed, batches, 0)
    counted = [rows["targets"][(rows["mask"] * rows["weight"][:, None]) == 1] for rows in streamed]
    np.testing.assert_array_equal(np.concatenate(counted), TOKENS[1:])
    with pytest.raises(AssertionError):  # sabotage: padding that counts
        counted = [rows["targets"][rows["mask"] == 1] for rows in streamed]
        np.testing.assert_array_equal(np.concatenate(counted), TOKENS[1:])


@pytest.mark.parametrize(
    ("mesh", "shard"), [("auto", (2, 8)), ("data=2,fsdp=2,tensor=2", (4, 8)), ("data=4,sequence=2", (4, 4))]
)
def test_rows_are_placed_on_the_mesh(mesh, shard):
    placement = Placement(make_mesh(parse_mesh(mesh, 8)))
    rows = train_batches()[0]
    shardings = {name: placement.batch(array, name) for name, array in rows.items()}
    placed = place(rows, shardings)
    for name, array in rows.items():
        assert placed[name].sharding == shardings[name] and placed[name].dtype == array.dtype
        assert len(placed[name].sharding.device_set) == 8
        np.testing.assert_array_equal(placed[name], array)
        for part in placed[name].addressable_shards:
            np.testing.assert_array_equal(part.data, array[part.index])
    assert {part.data.shape for part in placed["tokens"].addressable_shards} == {shard}
    assert {part.data.shape for part in placed["weight"].addressable_shards} == {shard[:1]}
    everywhere = place(rows, dict.fromkeys(rows, placement.replicated))  # sabotage: another sharding is told apart
    assert {part.data.shape for part in everywhere["tokens"].addressable_shards} == {(16, 8)} != {shard}


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_transfers_run_ahead_in_pairs(ahead):
    placement = Placement(make_mesh(parse_mesh("auto", 8)))
    batches = train_batches(steps=3)
    shardings = {name: placement.batch(array, name) for name, array in batches[0].items()}
    taken = []

    def host():
        for t in range(3):
            taken.append(t)
            yield batches[t]

    stream = placed_ahead(host(), shardings, ahead)
    pairs = [next(stream)]
    assert len(taken) == min(ahead, 3)
    pairs += stream
    assert len(pairs) == 3
    for t, (rows, device) in enumerate(pairs):
        for name, array in batches[t].items():
            np.testing.assert_array_equal(rows[name], array)
            np.testing.assert_array_equal(jax.device_get(device[name]), array)


@pytest.mark.parametrize("edges", [(8, 16), (16,)])
def test_parts_of_a_batch_make_the_whole(edges):
    """Of several processes each holds some rows: as wide as the whole batch, also where its own records are short."""
    lengths = np.array([3, 4, 5, 12, 3, 4, 14, 15])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    source = EncodedRecords({"tokens": np.arange(starts[-1], dtype=np.int32)}, starts, {}, edges=edges)
    plan = EvaluationPlan(6, 8)  # two rows of padding
    whole = Batches(source, plan, 1)[0]
    parts = [Batches(source, plan, 1, Part(np.arange(8)[half], 8))[0] for half in (slice(0, 3), slice(3, 8))]
    for name, array in whole.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), array)
    short = source.rows(np.arange(3), np.zeros(3, int))["tokens"]
    assert (short.shape[1] == whole["tokens"].shape[1]) == (len(edges) == 1), "alone the first part would be narrower"
