"""Multiple choice: tables of several layouts become [rows, choices, length], and bad records are named."""

import json

import numpy as np
import pytest

from lepjax.core.errors import UserError
from lepjax.data.batching import Buckets, Fixed, Packed
from lepjax.data.choices import Choices, ChoiceText
from lepjax.data.loader import load_rows
from lepjax.data.plan import EvaluationPlan
from lepjax.data.source import Work
from lepjax.data.tables import read
from lepjax.data.tokenizer import Tokenizer
from lepjax.tasks.encoder import EncoderTask
from lepjax.tasks.multiple_choice import MultipleChoice
from tests.words import WORDS, word_pieces

RANDOM = np.random.default_rng(0)
RECORDS = [
    {
        "context": " ".join(RANDOM.choice(WORDS, RANDOM.integers(1, 12))),
        "choices": [" ".join(RANDOM.choice(WORDS, RANDOM.integers(1, 9))) for _ in range(3)],
        "label": i % 3,
    }
    for i in range(20)
]
WORK = Work(1.0, lambda length: 1e9)


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "data").mkdir()
    folder = word_pieces(tmp_path / "words")
    write(tmp_path / "data" / "train.jsonl")
    write(tmp_path / "data" / "validation.jsonl", RECORDS[:7])
    return ChoiceText(dataset=str(tmp_path / "data"), tokenizer=folder, max_length=24)


def write(file, rows=RECORDS):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def check_laid(rows, ids, tokenizer, max_length=24):
    """Every choice is the pair of context and candidate, as the tokenizer has it."""
    for row, record in enumerate(ids):
        for choice, text in enumerate(RECORDS[record]["choices"]):
            pair = tokenizer.encode([RECORDS[record]["context"]], [text], max_length)
            mask = rows["mask"][row, choice]
            assert mask.sum() == len(pair.ids) and mask[: len(pair.ids)].all()
            np.testing.assert_array_equal(rows["tokens"][row, choice][mask], pair.ids)
            np.testing.assert_array_equal(rows["token_types"][row, choice][mask], pair.type_ids)
            assert (rows["tokens"][row, choice][~mask] == tokenizer.pad).all()
        assert rows["label"][row] == RECORDS[record]["label"]


def test_a_row_holds_all_choices(recipe, capsys):
    splits = recipe.load()
    tokenizer = Tokenizer.load(recipe.tokenizer)
    assert (len(splits.train), len(splits.evaluation["dev"]), splits.largest_token) == (20, 7, tokenizer.size - 1)
    source, plan = Buckets(lengths=(14, 19, 24)).training(splits.train, 4, 0, WORK)
    met = set()
    for cursor in range(plan.steps_per_epoch):
        ids, _ = plan.batch(cursor)
        rows = load_rows(source, *plan.batch(cursor))
        assert rows["tokens"].shape[:2] == (4, 3) and rows["tokens"].dtype == rows["label"].dtype == np.int32
        check_laid(rows, ids[ids >= 0], tokenizer)
        met.add(rows["tokens"].shape[2])
    assert len(met) > 1 and met <= {14, 19, 24}
    with pytest.raises(AssertionError):  # sabotage: choices of the wrong records
        check_laid(rows, np.roll(ids[ids >= 0], 1), tokenizer)


def test_the_longest_choice_decides_the_length(recipe, capsys):
    source = recipe.load().train
    tokenizer = Tokenizer.load(recipe.tokenizer)
    expected = [
        max(len(tokenizer.encode([record["context"]], [text], 24).ids) for text in record["choices"])
        for record in RECORDS
    ]
    assert source.lengths.tolist() == expected
    with pytest.raises(UserError, match=r"data\.batching: multiple choice cannot be packed"):
        Packed(32).training(source, 4, 0, WORK)


def test_tokens_are_counted_over_all_choices(recipe, capsys):
    source, plan = Fixed(24).evaluation(recipe.load().evaluation["dev"], 4, WORK)
    batches = [load_rows(source, *plan.batch(cursor)) for cursor in range(len(plan))]
    assert [rows["weight"].sum() for rows in batches] == [4, 3]
    tokenizer = Tokenizer.load(recipe.tokenizer)
    pairs = [(record["context"], text) for record in RECORDS[:7] for text in record["choices"]]
    total = sum(len(tokenizer.encode([a], [b], 24).ids) for a, b in pairs)
    assert sum(MultipleChoice().tokens(rows) for rows in batches) == total
    assert EncoderTask.tokens is MultipleChoice.tokens
    unweighted = sum(int(rows["mask"].sum()) for rows in batches)  # sabotage: padding rows count
    assert unweighted > total


def test_the_digest_knows_labels_and_texts(recipe, capsys):
    before = recipe.load().train.digest
    assert recipe.load().train.digest == before
    path = recipe.dataset + "/train.jsonl"
    for change in ({"label": 2}, {"context": "the dog"}):
        with open(path, "w") as out:
            out.writelines(json.dumps({**row, **(change if i == 4 else {})}) + "\n" for i, row in enumerate(RECORDS))
        assert recipe.load().train.digest != before


def test_one_plan_for_evaluation(recipe, capsys):
    source = recipe.load().evaluation["dev"]
    rows = load_rows(source, *EvaluationPlan(7, 7).batch(0))
    check_laid(rows, np.arange(7), Tokenizer.load(recipe.tokenizer))


# ---- layouts ----

LAYOUTS = {
    "swag": (
        {"sent1": "The fox.", "sent2": "It", "ending0": "jumps", "ending1": "sleeps", "label": 1},
        ["It jumps", "It sleeps"],
    ),
    "hellaswag": ({"ctx": "The fox.", "endings": ["It jumps", "It sleeps"], "label": "1"}, ["It jumps", "It sleeps"]),
    "race": (
        {"article": "The fox.", "question": "Who?", "options": ["The fox", "The dog"], "label": 1},
        ["Who? The fox", "Who? The dog"],
    ),
    "question": ({"question": "The fox.", "choices": ["a", "b"], "label": 1}, ["a", "b"]),
    "copa": ({"premise": "The fox.", "choice1": "a", "choice2": "b", "label": 1}, ["a", "b"]),
    "eleven": (
        {"context": "The fox.", **{f"ending{i}": str(i) for i in [10, *range(10)]}, "label": 1},
        [str(i) for i in range(11)],
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(tmp_path, name):
    row, candidates = LAYOUTS[name]
    write(tmp_path / "train.jsonl", [row])
    assert Choices.of(read(tmp_path / "train.jsonl")) == Choices(["The fox."], [candidates], [1])


def test_parquet(tmp_path, recipe, capsys):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "train.parquet")
    assert Choices.of(read(tmp_path / "train.parquet")) == Choices.of(read(recipe.dataset + "/train.jsonl"))


# ---- what cannot be read ----

WRONG = {
    "label too large": ({"label": 3}, "train.jsonl line 5: label 3 is none of 0 to 2. Number the choices from 0."),
    "label negative": ({"label": -1}, "train.jsonl line 5: label -1 is none of 0 to 2"),
    "label a letter": ({"label": "B"}, "train.jsonl line 5: label 'B' is none of 0 to 2"),
    "label true": ({"label": True}, "train.jsonl line 5: label True is none of 0 to 2"),
    "label missing": ({"label": None}, "train.jsonl line 5: label None is none of 0 to 2"),
    "a choice too few": ({"choices": ["a", "b"]}, "train.jsonl line 5: 2 choices, the first record has 3"),
    "no list": ({"choices": "abc"}, "train.jsonl line 5: choices holds 'abc', no list of texts"),
    "no text": ({"choices": ["a", 1, "c"]}, "train.jsonl line 5: choices holds ['a', 1, 'c'], no list of texts"),
    "no context": ({"context": None}, "train.jsonl line 5: context is None, no text"),
}


def fails(message, make):
    with pytest.raises(UserError) as error:
        make()
    assert message in str(error.value)


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_record_is_named(recipe, name, tmp_path):
    change, message = WRONG[name]
    write(tmp_path / "data" / "train.jsonl", [{**row, **(change if i == 4 else {})} for i, row in enumerate(RECORDS)])
    fails(message, recipe.load)


def test_wrong_tables(recipe, tmp_path):
    train, dev = tmp_path / "data" / "train.jsonl", tmp_path / "data" / "validation.jsonl"
    write(dev, [{**row, "choices": row["choices"][:2], "label": 0} for row in RECORDS])
    fails("choices per record differ: train 3, validation 2", recipe.load)
    write(train, [{"context": "a", "label": 0}])
    fails(f"{train}: its columns are context, label. Name them context, choices", recipe.load)
    write(train, [{"context": "a", "choices": ["b"], "label": 0}])
    fails(f"{train} line 1: 1 choices", recipe.load)
    dev.unlink()
    fails("no split 'validation'", recipe.load)
    fails("neither a known data set nor a path", ChoiceText(tokenizer=recipe.tokenizer).load)
