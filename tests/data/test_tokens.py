"""Windows over one array of tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepjax.core.errors import UserError
from lepjax.data.tokens import TokenWindows

sizes = st.tuples(st.integers(1, 9), st.integers(0, 40)).map(lambda x: (x[0], 2 * x[0] + 1 + x[1]))  # (length, tokens)


def windows(count, length, shift):
    """Windows over 0, 1, 2, ...: a token is its own position."""
    return TokenWindows(np.arange(count, dtype=np.uint16), length, shift, where="here")


def whole_epoch(source, epoch=0):
    return source.rows(np.arange(len(source)), np.full(len(source), epoch))


def check_scored_once(rows, count):
    scored = rows["targets"][rows["mask"] == 1]
    np.testing.assert_array_equal(np.sort(scored), np.arange(1, count))
    np.testing.assert_array_equal(rows["tokens"][rows["mask"] == 1] + 1, scored)  # each from the token before it
    assert set(np.unique(rows["mask"])) <= {0.0, 1.0} and rows["mask"].dtype == np.float32


@given(sizes)
def test_evaluation_scores_every_token_but_the_first_once(size):
    length, count = size
    rows = whole_epoch(windows(count, length, shift=False))
    check_scored_once(rows, count)
    assert rows["tokens"].dtype == rows["targets"].dtype == np.int32
    assert rows["tokens"].shape == rows["targets"].shape == rows["mask"].shape == (-(-(count - 1) // length), length)


def test_a_token_lost_or_scored_twice_is_noticed():
    rows = whole_epoch(windows(30, 8, shift=False))
    for where, value in [((0, 0), 0), ((-1, -1), 1)]:
        mask = rows["mask"].copy()
        assert mask[where] != value
        mask[where] = value
        with pytest.raises(AssertionError):
            check_scored_once({**rows, "mask": mask}, 30)


def test_evaluation_is_the_same_in_every_epoch():
    source = windows(30, 8, shift=False)
    for name, array in whole_epoch(source, 5).items():
        np.testing.assert_array_equal(array, whole_epoch(source)[name])


@given(sizes, st.integers(0, 50))
def test_training_windows_stay_inside_and_do_not_overlap(size, epoch):
    length, count = size
    source = windows(count, length, shift=True)
    rows = whole_epoch(source, epoch)
    assert set(rows) == {"tokens", "targets"}
    assert rows["tokens"].dtype == rows["targets"].dtype == np.int32
    np.testing.assert_array_equal(rows["targets"], rows["tokens"] + 1)  # no window is padded or clipped
    offset = rows["tokens"][0, 0]
    assert 0 <= offset < length and rows["targets"].max() < count
    np.testing.assert_array_equal(rows["tokens"].ravel(), offset + np.arange(len(source) * length))
    assert count - len(source) * length < 3 * length, "the shift costs one window, the remainder less than another"


def offsets(source, epochs=200):
    return [int(source.rows(np.array([0]), np.array([epoch]))["tokens"][0, 0]) for epoch in range(epochs)]


def test_the_shift_differs_by_epoch_and_reaches_every_position():
    drawn = offsets(windows(100, 8, shift=True))
    assert drawn[0] == 0
    assert set(drawn) == set(range(8))
    assert drawn == offsets(windows(100, 8, shift=True)), "a pure function of data and epoch"
    assert drawn != offsets(windows(101, 8, shift=True)), "other data, other shifts"


def test_a_row_depends_on_its_own_id_and_epoch_alone():
    source = windows(100, 8, shift=True)
    ids, epochs = np.array([3, 0, 10, 3]), np.array([0, 4, 1, 2])
    together = source.rows(ids, epochs)
    for i in range(4):
        alone = source.rows(ids[i : i + 1], epochs[i : i + 1])
        np.testing.assert_array_equal(together["tokens"][i], alone["tokens"][0])
    assert (together["tokens"][0] != together["tokens"][3]).any()  # the same record in another epoch


def test_the_digest_tells_data_apart():
    tokens = np.arange(100, dtype=np.uint16)
    changed = tokens.copy()
    changed[57] += 1
    wider = tokens.astype(np.int32)
    sources = [(tokens, 8, True), (changed, 8, True), (tokens, 9, True), (tokens, 8, False), (wider, 8, True)]
    digests = [TokenWindows(*source, where="here").digest for source in sources]
    assert len(set(digests)) == len(digests)
    assert TokenWindows(tokens.copy(), 8, True, where="elsewhere").digest == digests[0]


@pytest.mark.parametrize(("shift", "least"), [(True, 17), (False, 9)], ids=["training", "evaluation"])
def test_too_few_tokens(shift, least):
    assert len(windows(least, 8, shift)) == 1
    with pytest.raises(UserError, match=f"here: {least - 1} tokens are too few for windows of 8. Use more text"):
        windows(least - 1, 8, shift)
