"""Slices of a training split: by class, and never with the same text on both sides."""

import numpy as np
import pytest

from lepjax.core.errors import UserError
from lepjax.data.datasets import Dataset, slice_off
from lepjax.data.heldout import cut, keys


def made(texts, labels, names=("no", "yes"), **more):
    columns = {"text": list(texts), "label": [names[i] for i in labels], **more}
    return Dataset("made", "train", "here", columns, names)


def unbalanced(rows=200, copies=1):
    texts = [f"text {i // copies}" for i in range(rows)]
    return made(texts, [int(i // copies % 10 == 0) for i in range(rows)])


def shared(rest, chosen):
    return set(keys(rest)) & set(keys(chosen))


def test_a_slice_has_the_share_of_every_class():
    rest, chosen = cut(unbalanced(), 0.2, seed=0)
    assert np.bincount(chosen.label_ids()).tolist() == [36, 4] and np.bincount(rest.label_ids()).tolist() == [144, 16]


def test_sabotage_a_plain_slice_has_other_shares():
    counts = {tuple(np.bincount(slice_off(unbalanced(), 0.2, seed=s)[1].label_ids())) for s in range(5)}
    assert counts != {(36, 4)}


def test_equal_texts_stay_together_whatever_their_case_and_spaces():
    data = made(["A  b", "a b", "c", "d"] * 25, [0, 0, 1, 1] * 25)
    data.columns["text"] = [f"{text} {i // 4}" for i, text in enumerate(data.columns["text"])]
    rest, chosen = cut(data, 0.3, seed=0)
    assert not shared(rest, chosen) and len(rest) + len(chosen) == 100


def test_sabotage_a_plain_slice_leaks():
    assert shared(*slice_off(unbalanced(copies=4), 0.2, seed=0))
    assert not shared(*cut(unbalanced(copies=4), 0.2, seed=0))


def test_a_slice_is_a_function_of_data_share_and_seed():
    first, again, other = (cut(unbalanced(), 0.2, seed=s)[1].columns["text"] for s in (0, 0, 1))
    assert first == again and first != other


def test_a_class_with_one_text_stays_in_training():
    data = made([f"t{i}" for i in range(20)], [1] + [0] * 19)
    rest, chosen = cut(data, 0.25, seed=0)
    assert rest.label_ids().sum() == 1 and chosen.label_ids().sum() == 0


def test_pairs_differ_by_either_text():
    data = made(["a", "a"], [0, 1], text_pair=["b", "c"])
    assert len(set(keys(data))) == 2


@pytest.mark.parametrize(("share", "message"), [(0.0, "a share of 0.0"), (1.0, "a share of 1.0")])
def test_mistakes(share, message):
    with pytest.raises(UserError, match=message):
        cut(unbalanced(), share, seed=0)


def test_data_that_cannot_be_cut():
    with pytest.raises(UserError, match="too few different records"):
        cut(made(["same"] * 5, [0] * 5), 0.5, seed=0)
