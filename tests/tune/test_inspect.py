"""What is found in a folder before anything is trained."""

import pytest

from lepjax.core.errors import UserError
from lepjax.data.heldout import FolderText
from lepjax.data.quarantine import REFUSE
from lepjax.tune.inspect import inspect, language, scripts
from tests.tune.folders import rows, write


def said(found, what):
    return [finding for finding in found.findings if finding.what == what]


def test_a_folder_with_splits(tmp_path):
    found = inspect(str(write(tmp_path, train=rows(40), dev=rows(10, start=100), test=rows(8, start=200))))
    assert {name: len(data) for name, data in found.held.items()} == {"dev": 10, "test": 8} and not found.held_out
    assert found.labels == ("no", "yes") and found.counts == (20, 20) and found.pairs is None
    assert "single texts" in str(said(found, "task")[0]) and "train 40, dev 10, test 8" in str(said(found, "rows")[0])
    assert not any(finding.warning for finding in found.findings)


def test_one_table_is_cut_by_class(tmp_path):
    folder = write(tmp_path, reviews=rows(100, rare=5))
    found, again = inspect(str(folder)), inspect(str(folder / "reviews.jsonl"))
    assert found.held_out == 0.2 and len(found.held["dev"]) == 20 and found.counts == (64, 16)
    assert found.held["dev"].columns == again.held["dev"].columns
    assert "dev is 20% of one file" in str(said(found, "rows")[0])


@pytest.mark.parametrize("label", ["-1", -1, -1.0, "", None])
def test_a_split_whose_labels_are_secret_is_left_out_and_told(label, tmp_path):
    secret = [(f"a secret {i}", label) for i in range(7)]
    folder = write(tmp_path, train=rows(40), dev=rows(10, start=100), test=secret)
    found = inspect(str(folder))
    assert list(found.held) == ["dev"] and not found.held_out
    assert "the 7 rows of test are left out: all its labels are empty or -1" in str(said(found, "unlabelled")[0])
    train, scored, _ = FolderText(dataset=str(folder)).parts(REFUSE)  # what is trained on reads the same
    assert list(scored) == ["dev"] and len(train) == 40


def test_without_any_labelled_split_to_score_one_is_cut(tmp_path):
    found = inspect(str(write(tmp_path, train=rows(40), test=[("a secret", "-1")])))
    assert found.held_out == 0.2 and list(found.held) == ["dev"] and said(found, "unlabelled")


def test_a_class_named_minus_one_is_a_class(tmp_path):
    train = [(text, {"no": "-1", "yes": "1"}[label]) for text, label in rows(40)]
    found = inspect(str(write(tmp_path, train=train, test=[("all the same", "-1"), ("and this", "-1")])))
    assert list(found.held) == ["test"] and not said(found, "unlabelled")
    found = inspect(str(write(tmp_path, train=train, test=[("a secret", "")])))
    assert list(found.held) == ["dev"] and said(found, "unlabelled")


def test_one_label_among_the_missing_ones_is_a_mistake_in_the_file(tmp_path):
    folder = write(tmp_path, train=rows(40), test=[("a secret", "-1"), ("no secret", "yes")])
    with pytest.raises(UserError, match=r"test.jsonl line 1: label '-1' is not one of 'no', 'yes'"):
        inspect(str(folder))


def test_imbalance_is_told_with_its_numbers(tmp_path):
    found = inspect(str(write(tmp_path, train=rows(100, rare=10), dev=rows(10, start=200))))
    assert found.imbalance == 9.0 and said(found, "imbalance")[0].warning
    assert "right in 90.0%" in str(said(found, "classes")[0])


def test_pairs(tmp_path):
    found = inspect(str(write(tmp_path, train=[("a", f"b {i}", str(i % 2)) for i in range(20)])))
    assert "pairs of texts" in str(said(found, "task")[0]) and len(found.pairs) == 16


def test_leaks_disputes_and_repeats_are_told_with_a_place(tmp_path):
    train = [*rows(20), ("The  QUICK fox", "yes"), ("the quick fox", "no"), ("  ", "no")]
    found = inspect(str(write(tmp_path, train=train, dev=[("the quick FOX", "yes"), ("new", "no")])))
    (leak,) = said(found, "leakage")
    assert leak.warning and "1 of the 2 texts of dev (50.0%)" in leak.found and "dev.jsonl line 1" in leak.found
    assert (
        "train.jsonl line 21" in said(found, "disputed")[0].found
        and "1 training rows" in said(found, "repeated")[0].found
    )
    assert "1 training rows" in said(found, "blank")[0].found


def test_sabotage_without_folding_case_the_leak_is_not_seen(tmp_path, monkeypatch):
    monkeypatch.setattr("lepjax.tune.inspect.keys", lambda data: data.columns["text"])
    found = inspect(str(write(tmp_path, train=[*rows(20), ("the quick fox", "no")], dev=[("the quick FOX", "yes")])))
    assert not said(found, "leakage")[0].warning


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain words", "a language in Latin letters"),
        ("酒店环境很好 OK", "Chinese"),
        ("この店はとても良い", "Japanese"),
        ("좋은 영화", "Korean"),
        ("хороший фильм", "a language in Cyrillic letters"),
        ("καλή ταινία", "a language in Greek letters"),
        ("123 !!", "no letters at all"),
    ],
)
def test_language_from_scripts(text, expected):
    assert language(scripts([text])) == expected


def test_shares_of_scripts():
    assert scripts(["ab 好"]) == {"LATIN": 2 / 3, "CJK": 1 / 3}


def test_two_inspections_say_the_same(tmp_path):
    folder = str(write(tmp_path, train=rows(50, rare=4)))
    assert inspect(folder).findings == inspect(folder).findings


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": [(f"t{i}", i / 7) for i in range(9)]}, "a task of regression"),
        ({"train": [(f"t{i}", "") for i in range(9)]}, "train: the column of labels is empty"),
        ({"train": [(f"t{i}", None) for i in range(9)]}, "train: the column of labels is empty"),
        ({"train": [(f"t{i}", "same") for i in range(9)]}, "all labels are 'same'"),
        ({"train": [(f"t{i}", f"label {i}") for i in range(9)]}, "9 different labels in 9 rows"),
        ({"dev": rows(9)}, "no labelled training split"),
        ({"train": rows(9), "dev": [("t", "maybe")]}, r"dev.jsonl line 1: label 'maybe' is not one of 'no', 'yes'"),
    ],
)
def test_data_that_is_no_classification(splits, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        inspect(str(write(tmp_path, **splits)))
    assert "\n" not in str(error.value)


def test_tagged_words_are_refused(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]}\n')
    with pytest.raises(UserError, match="words are tagged: a task of tagging"):
        inspect(str(tmp_path))


def test_no_folder_no_table_no_task(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        inspect(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="holds no table"):
        inspect(str(tmp_path))
    with pytest.raises(UserError, match="no automatic recipe for 'tagging'"):
        inspect(str(write(tmp_path, train=rows(9))), "tagging")
