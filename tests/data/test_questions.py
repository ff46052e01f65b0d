"""Questions with passages in windows: where the answers stand, and how predicted answers are scored."""

import dataclasses
import json

import numpy as np
import pytest

from lepjax.core.errors import UserError
from lepjax.data.batching import Buckets, Packed
from lepjax.data.datasets import Dataset
from lepjax.data.loader import load_rows
from lepjax.data.questions import QuestionText
from lepjax.data.source import Work
from lepjax.data.tokenizer import Tokenizer
from lepjax.run.answers import answers, best_span, exact_match, f1
from tests.words import WORDS, bytes_of_roberta, word_pieces

CONTEXT = "The quick brown Fox, it says, jumps over the lazy  dog.  The dog sleeps in the shade and does what dogs do."
ASKED = [
    ("Who jumps?", ["Fox"]),
    ("Where does it sleep?", ["in the shade", "the shade"]),
    ("What does the fox do?", ["jumps over the lazy  dog"]),
    ("Who?", ["The quick brown Fox"]),
    ("What?", ["what dogs do."]),
]


@pytest.fixture(params=[word_pieces, bytes_of_roberta])
def tokenizer(tmp_path, request):
    return Tokenizer.load(request.param(tmp_path / "tokenizer"))


def data_of(asked, context=CONTEXT):
    columns = {
        "id": [f"q{i}" for i in range(len(asked))],
        "question": [question for question, _ in asked],
        "context": [context] * len(asked),
        "answer_text": [list(texts) for _, texts in asked],
        "answer_start": [[context.index(text) for text in texts] for _, texts in asked],
    }
    return Dataset("test", "train", "memory", columns)


def random_questions(count, seed):
    """Answers are random runs of characters of random texts: they may begin in the middle of a word, or with a space."""
    random = np.random.default_rng(seed)
    parts = []
    for _ in range(count):
        context = " ".join(random.choice([*WORDS, "  ", "ünreadable"], random.integers(1, 60)))
        begin, stop = np.sort(random.integers(0, len(context) + 1, 2))
        parts.append(data_of([("Who does what?", [context[begin:stop]] if stop > begin else [])], context).columns)
    columns = {name: [part[name][0] for part in parts] for name in parts[0]}
    for row, texts in enumerate(columns["answer_text"]):
        if texts:
            columns["answer_start"][row] = [columns["context"][row].index(texts[0])]
    return Dataset("random", "train", "memory", columns)


def windows(data, tokenizer, length=40, stride=12):
    return QuestionText(max_length=length, stride=stride).windows(data, tokenizer)


def of_window(source, window):
    """(tokens, offsets, start, end) of a window."""
    here = slice(source.starts[window], source.starts[window + 1])
    return (
        source.flat["tokens"][here],
        source.offsets[here],
        *(int(source.columns[n][window]) for n in ("start", "end")),
    )


# ---- where answers stand ----


def test_the_answer_is_what_the_tokens_between_start_and_end_say(tokenizer):
    data = data_of(ASKED)
    source = windows(data, tokenizer)
    found = dict.fromkeys(range(len(ASKED)), 0)
    assert len(source) > len(ASKED), "there are passages of several windows"
    for window, question in enumerate(source.example):
        _, offsets, start, end = of_window(source, window)
        if start:
            assert CONTEXT[offsets[start, 0] : offsets[end, 1]].strip() == ASKED[question][1][0].strip()
            found[question] += 1
        else:
            assert (start, end) == (0, 0)
    assert all(found.values()) and sum(found.values()) < len(source)


def sharing(source, window):
    """The places of the tokens that share a character with the answer (spaces around it do not count)."""
    question = source.example[window]
    texts, starts = (source.data.columns[name][question] for name in ("answer_text", "answer_start"))
    text = texts[0] if texts else ""
    begin = starts[0] + len(text) - len(text.lstrip()) if text.strip() else 0
    stop = begin + len(text.strip())
    offsets = of_window(source, window)[1]
    return [place for place, (a, b) in enumerate(offsets) if a >= 0 and max(a, begin) < min(b, stop)]


def expected(source, window):
    """By definition: all tokens that share a character with the answer, if they are all in the window."""
    needed = {
        tuple(of_window(source, other)[1][place])
        for other in np.flatnonzero(source.example == source.example[window])
        for place in sharing(source, other)
    }
    here = sharing(source, window)
    whole = {tuple(of_window(source, window)[1][place]) for place in here} == needed
    return (here[0], here[-1]) if here and whole else (0, 0)


def check_places(source):
    for window in range(len(source)):
        assert of_window(source, window)[2:] == expected(source, window)


def test_random_answers_stand_where_they_should(tokenizer):
    source = windows(random_questions(120, 0), tokenizer)
    check_places(source)
    answered = (source.columns["start"] > 0).sum()
    assert 50 < answered < len(source) - 50


def test_sabotage_windows_that_cut_the_answer(tokenizer):
    """Whatever part of the answer a window has."""
    source = windows(random_questions(120, 0), tokenizer)
    parts = [sharing(source, window) or [0] for window in range(len(source))]
    columns = {"start": np.array([part[0] for part in parts]), "end": np.array([part[-1] for part in parts])}
    with pytest.raises(AssertionError):
        check_places(dataclasses.replace(source, columns=columns))


def test_batches(tmp_path):
    tokenizer = Tokenizer.load(word_pieces(tmp_path / "words"))
    source = windows(data_of(ASKED), tokenizer)
    arranged, plan = Buckets(lengths=(40,)).training(source, 4, 0, Work(1.0, lambda length: 1.0))
    rows = load_rows(arranged, *plan.batch(0))
    shapes = {name: (array.dtype.type, array.shape) for name, array in rows.items()}
    assert shapes == {
        "tokens": (np.int32, (4, 40)),
        "token_types": (np.int32, (4, 40)),
        "mask": (np.bool_, (4, 40)),
        "start": (np.int32, (4,)),
        "end": (np.int32, (4,)),
        "weight": (np.float32, (4,)),
    }
    assert (rows["tokens"][:, 0] == tokenizer.cls).all() and set(rows["token_types"][rows["mask"]]) == {0, 1}
    with pytest.raises(UserError, match=r"data\.batching: windows of passages cannot be packed"):
        Packed(40).training(source, 4, 0, Work(1.0, lambda length: 1.0))


# ---- the recipe ----


def nested(context=CONTEXT, asked=ASKED, shift=0):
    questions = [
        {
            "id": f"q{i}",
            "question": question,
            "answers": [{"text": text, "answer_start": context.index(text) + shift} for text in texts],
        }
        for i, (question, texts) in enumerate(asked)
    ]
    return {"version": "1.1", "data": [{"title": "Fox", "paragraphs": [{"context": context, "qas": questions}]}]}


def flat(context=CONTEXT, asked=ASKED, shift=0):
    return [
        {
            "id": f"q{i}",
            "question": question,
            "context": context,
            "answers": {"text": texts, "answer_start": [context.index(text) + shift for text in texts]},
        }
        for i, (question, texts) in enumerate(asked)
    ]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def recipe(tmp_path):
    folder = word_pieces(tmp_path / "words")
    (tmp_path / "squad").mkdir()
    return QuestionText(dataset="squad", data_dir=str(tmp_path), tokenizer=folder, max_length=40, stride=12)


def test_load(recipe, tmp_path, capsys):
    (tmp_path / "squad" / "train-v1.1.json").write_text(json.dumps(nested()))
    (tmp_path / "squad" / "dev.jsonl").write_text(lines(flat()))
    splits = recipe.load()
    assert splits.train.digest == splits.evaluation["dev"].digest
    assert splits.largest_token == 75 and splits.labels == ()
    assert splits.notes[0].startswith(f"train: 5 questions in {len(splits.train)} windows, local file ")


def fails(message, make):
    with pytest.raises(UserError) as error:
        make()
    assert message in str(error.value) and "\n" not in str(error.value)


def test_what_is_wrong_with_the_data(recipe, tmp_path, capsys):
    train, dev = tmp_path / "squad" / "train.jsonl", tmp_path / "squad" / "dev.jsonl"
    dev.write_text(lines(flat()))
    train.write_text(lines([*flat()[:2], *flat(shift=1)[2:]]))
    fails(f"{train} line 3 (id q2): the answer 'jumps over the lazy dog' does not stand at", recipe.load)
    train.write_text(lines({k: v for k, v in row.items() if k != "answers"} for row in flat()))
    fails("squad train: question answering data without answers", recipe.load)
    train.write_text("question\n")
    fails(f"{train} line 1: is no JSON", recipe.load)
    train.unlink()
    fails("no split 'train'", recipe.load)


# ---- SQuAD's scores ----


@pytest.mark.parametrize(("predicted", "right", "exact", "overlap"), [
    ("Fox", ["Fox"], 1, 1),
    ("the  fox!", ["A Fox."], 1, 1),  # articles, case, punctuation and spaces do not count
    ("quick fox", ["quick brown fox"], 0, 0.8),
    ("the quick brown fox", ["dog", "brown fox"], 0, 0.8),
    ("dog", ["fox"], 0, 0),
    ("fox fox", ["fox"], 0, 2 / 3),  # a word counts as often as both have it
    ("theft", ["ft"], 0, 0),  # only whole words are articles
    ("U.S.", ["us"], 1, 1),
    ("well-known", ["well known"], 0, 0),
    ("", [], 1, 1),
    ("fox", [], 0, 0),
    ("", ["fox"], 0, 0),
    ("the", ["a"], 1, 1),  # nothing is left of either
    ("", ["the", "fox"], 0, 0),  # an answer of which nothing is left is none where there is another
])  # fmt: skip
def test_scores_by_hand(predicted, right, exact, overlap):
    assert exact_match(predicted, right) == exact
    assert f1(predicted, right) == pytest.approx(overlap)


def check_best_span(longest=5):
    random = np.random.default_rng(0)
    for _ in range(200):
        length = random.integers(1, 12)
        logits, allowed = random.normal(size=(length, 2)), random.random(length) < 0.7
        spans = [
            (logits[a, 0] + logits[b, 1], a, b)
            for a in range(length)
            for b in range(a, min(a + 5, length))
            if allowed[a] and allowed[b]
        ]
        score, first, last = best_span(logits, allowed, longest)
        assert (score, first, last) == max(spans, default=(-np.inf, 0, 0))


def test_the_best_span():
    check_best_span()
    with pytest.raises(AssertionError):  # sabotage: longer answers
        check_best_span(longest=6)


def logits_for(source, wanted):
    """Batches of two windows, with logits that are 0 but for {window: [(token, start, end), ...]}."""
    for ids in np.append(np.arange(len(source)), np.full(len(source) % 2, -1)).reshape(-1, 2):
        width = max(source.lengths[ids[ids >= 0]]) + 3
        logits = np.zeros((2, width, 2), np.float32)
        for row, window in enumerate(ids):
            for token, start, end in wanted.get(window, ()):
                logits[row, token] = start, end
        logits[:, -1] = 99  # padding
        yield ids, {}, logits


def test_the_best_window_answers(tmp_path):
    tokenizer = Tokenizer.load(word_pieces(tmp_path / "words"))
    source = windows(data_of(ASKED[:2]), tokenizer, length=30)
    first, second = np.flatnonzero(source.example == 0)[:2]
    held = {w: np.flatnonzero(of_window(source, w)[1][:, 0] >= 0) for w in range(len(source))}

    def text(window, a, b):
        offsets = of_window(source, window)[1]
        return CONTEXT[offsets[a, 0] : offsets[b, 1]]

    a, b = held[first][2], held[second][5]
    wanted = {first: [(a, 3, 0), (a + 2, 0, 3)], second: [(b, 4, 0), (b + 1, 0, 3), (0, 50, 50)]}
    found = answers(source, logits_for(source, wanted), longest=30)
    assert found[0] == text(second, b, b + 1) and len(found) == 2
    assert answers(source, logits_for(source, {first: [(a, 3, 0), (a + 2, 0, 3)]}), 30)[0] == text(first, a, a + 2)
    short = answers(source, logits_for(source, {first: [(a, 3, 0), (a + 2, 0, 3.5)]}), 2)[0]
    assert short in (text(first, a + 1, a + 2), text(first, a + 2, a + 2)), "no answer is longer than two tokens"


def test_no_answer_must_beat_every_window(tmp_path):
    tokenizer = Tokenizer.load(word_pieces(tmp_path / "words"))
    source = windows(data_of([*ASKED[:1], ("Why?", [])]), tokenizer, length=30)
    mine = np.flatnonzero(source.example == 1)
    everywhere = {window: [(0, 1, 1)] for window in mine}
    assert answers(source, logits_for(source, everywhere), 30)[1] == ""
    assert answers(source, logits_for(source, {w: everywhere[w] for w in mine[1:]}), 30)[1] != ""


def test_the_right_logits_score_one(tokenizer):
    source = windows(data_of(ASKED), tokenizer)
    places = [of_window(source, window)[2:] for window in range(len(source))]
    wanted = {w: [(start, 9, 0), (end, 0, 9)] for w, (start, end) in enumerate(places) if start < end}
    wanted |= {w: [(start, 9, 9)] for w, (start, end) in enumerate(places) if start == end > 0}
    right = source.data.columns["answer_text"]
    for row, predicted in enumerate(answers(source, logits_for(source, wanted), longest=30)):
        assert exact_match(predicted, right[row]) == f1(predicted, right[row]) == 1
