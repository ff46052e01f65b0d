"""Digits: the same split everywhere, every image once, every class alike."""

import numpy as np
import pytest
import sklearn.datasets

from lepjax.data.arrays import Arrays
from lepjax.data.digits import Digits, fifths
from lepjax.experiment import planned
from lepjax.run.provenance import rows_of


@pytest.fixture(scope="module")
def splits():
    return Digits().load()


def parts(splits):
    return {"train": splits.train, **splits.evaluation, **splits.final}


def check_split(splits):
    """Every image is in one split, and each class has the share that its split has."""
    data, labels = sklearn.datasets.load_digits(return_X_y=True)
    images = [int(text.split()[-1]) for part in parts(splits).values() for text in part.texts]
    assert sorted(images) == list(range(len(labels)))
    for name, share in {"train": 0.6, "dev": 0.2, "test": 0.2}.items():
        part = parts(splits)[name]
        ids = [int(text.split()[-1]) for text in part.texts]
        np.testing.assert_array_equal(part.columns["features"], (data[ids] / 16).astype(np.float32))
        np.testing.assert_array_equal(part.columns["label"], labels[ids])
        assert np.abs(np.bincount(part.columns["label"]) - share * np.bincount(labels)).max() < 2


def test_the_split(splits):
    check_split(splits)
    assert {name: len(part) for name, part in parts(splits).items()} == {"train": 1085, "dev": 357, "test": 355}


def test_sabotage_a_split_by_place_is_not_alike(monkeypatch):
    monkeypatch.setattr("lepjax.data.digits.fifths", lambda labels: np.arange(len(labels)) % 5)
    with pytest.raises(AssertionError):
        check_split(Digits().load())


def test_fifths_count_within_the_class():
    np.testing.assert_array_equal(fifths(np.array([7, 1, 7, 7, 1, 7, 7, 7])), [0, 0, 1, 2, 1, 3, 4, 0])


def test_rows_are_numbers_from_0_to_1(splits):
    rows = splits.train.rows(np.array([3, 0, 3]), np.zeros(3, np.int64))
    assert rows["features"].shape == (3, 64) and rows["features"].dtype == np.float32
    assert rows["label"].shape == (3,) and rows["label"].dtype == np.int32
    assert (splits.train.columns["features"].min(), splits.train.columns["features"].max()) == (0.0, 1.0)
    np.testing.assert_array_equal(rows["features"][0], rows["features"][2])


def test_the_digest_is_of_the_numbers(splits):
    columns = splits.train.columns
    assert splits.train.digest == Digits(batch_size=8).load().train.digest
    changed = {**columns, "features": columns["features"] + np.float32(1e-7)}
    assert Arrays(changed).digest != splits.train.digest
    assert Arrays({**columns, "label": columns["label"].astype(np.int64)}).digest != splits.train.digest


def test_a_person_is_told_which_image(splits):
    from experiments.digits_mlp import experiment

    line = next(rows_of(planned(experiment(), splits), splits, 0))
    assert "load_digits() image" in line
    assert splits.train.shown(0, 0).text == "load_digits() image 0" and splits.train.shown(0, 0).label == 0
