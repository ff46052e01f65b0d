"""Every kind of source shows its records: what it knows of them, else the tokens of their rows."""

import json

import numpy as np
import pytest

from lepjax.data.choices import ChoiceText
from lepjax.data.conll import read_tagged
from lepjax.data.documents import MaskedTextFile
from lepjax.data.labelled import LabelledText
from lepjax.data.pairs import SentencePairs
from lepjax.data.questions import QuestionText
from lepjax.data.source import Shown, Splits
from lepjax.run.provenance import labelled, of_record, shortened, text_of
from tests.words import word_pieces


@pytest.fixture
def words(tmp_path):
    return word_pieces(tmp_path / "words")


def files(tmp_path, name, text):
    (tmp_path / "data").mkdir(exist_ok=True)
    for split in ("train", "validation"):
        (tmp_path / "data" / name.format(split)).write_text(text)
    return str(tmp_path / "data")


def test_tagged_words(tmp_path, words):
    folder = files(tmp_path, "{}.conll", "the O\nfox B-PER\njumps O\n\ndog B-LOC\n")
    splits = LabelledText(dataset=folder, tokenizer=words).load()
    shown = of_record(splits.train, 0, 0)
    assert shown.text == "the fox jumps" and shown.where == f"{folder}/train.conll line 1"
    assert labelled(shown.label, splits.labels) == "O B-PER O"
    assert of_record(splits.train, 1, 3).where.endswith("line 5")
    assert read_tagged(tmp_path / "data" / "train.conll")["tags"][0] == ["O", "B-PER", "O"]


def test_choices(tmp_path, words):
    row = {"context": "the fox", "choices": ["jumps", "sleeps"], "label": 1}
    folder = files(tmp_path, "{}.jsonl", "\n".join(json.dumps({**row, "context": c}) for c in ("the fox", "a dog")))
    splits = ChoiceText(dataset=folder, tokenizer=words).load()
    shown = of_record(splits.train.padded((16,)), 1, 0)
    assert shown.text == "a dog | jumps | sleeps" and shown.where == f"{folder}/train.jsonl line 2"
    assert labelled(shown.label, splits.labels) == "1"


def test_windows_of_a_passage(tmp_path, words):
    answers = {"text": ["fox"], "answer_start": [4]}
    row = {"id": "7", "question": "who jumps", "context": "the fox " * 20, "answers": answers}
    folder = files(tmp_path, "{}.jsonl", json.dumps(row))
    splits = QuestionText(dataset=folder, tokenizer=words, max_length=20, stride=4).load()
    first, last = (of_record(splits.train, record, 0) for record in (0, len(splits.train) - 1))
    assert (first.text, first.label) == ("who jumps", "fox") and first.where == f"{folder}/train.jsonl line 1"
    assert (last.text, last.label) == ("who jumps", "no answer in this window")


def test_masked_windows_and_pairs(tmp_path, words):
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox\njumps over the lazy dog\nand sleeps\n\nin shade\nwhere who\nwhat does\n" * 4)
    splits = MaskedTextFile(path=str(path), tokenizer=words, length=8).load()
    shown = of_record(splits.train, 1, 0)
    assert shown.text == "the lazy dog and sleeps" and shown.where == f"{path} (train) token 6"
    pairs = SentencePairs(path=str(path), tokenizer=words, dev=0.4).load()
    epochs = [of_record(pairs.train, 0, epoch) for epoch in range(8)]
    assert {shown.label for shown in epochs} == {"next", "random"}
    assert {s.text for s in epochs if s.label == "next"} == {"the quick brown fox | jumps over the lazy dog"}


class Bare:
    def rows(self, ids, epochs):
        return {"tokens": np.stack([ids, ids + 1, epochs], 1), "label": np.array([0.25])}


def test_a_source_of_ones_own():
    shown = of_record(Bare(), 3, 5)
    nothing = Splits(train=Bare(), evaluation={})
    assert text_of(shown, nothing) == "3 4 5" and labelled(shown.label, ()) == "0.25"
    assert labelled(None, ("a",)) == "" and labelled(np.int32(1), ("a", "b")) == "b"
    assert text_of(Shown(), nothing) == ""


def test_long_texts_are_cut():
    assert shortened("a\n b\t c") == "a b c" and len(shortened("word " * 100)) == 100


def test_sabotage_an_origin_that_is_not_selected_along_is_noticed(tmp_path, words, monkeypatch):
    """Were rows selected without their places, a shuffled half would show the wrong lines."""
    folder = files(tmp_path, "{}.tsv", "text\tlabel\n" + "".join(f"the fox {i}\t{i % 2}\n" for i in range(20)))
    recipe = LabelledText(dataset=folder, tokenizer=words, choose_on=0.5)

    def right(splits):
        shown = [of_record(splits.train, record, 0) for record in range(len(splits.train))]
        return all(int(one.where.rpartition(" ")[2]) == int(one.text.rpartition(" ")[2]) + 2 for one in shown)

    assert right(recipe.load())
    monkeypatch.setattr("lepjax.data.tables.Origin.select", lambda self, rows: self)
    assert not right(recipe.load())
