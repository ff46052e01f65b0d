"""Pairs of sentences: which belong together, how they are cut, and that a pair is a function of seed, record and epoch."""

import numpy as np
import pytest

from lepjax.core.errors import UserError
from lepjax.data import pairs as module
from lepjax.data.masked import Masking
from lepjax.data.pairs import Pairs, SentencePairs
from lepjax.data.tokenizer import Tokenizer
from tests.words import LETTERS, WORDS, word_pieces

SIZES = (4, 1, 6, 3, 2, 9)
RANDOM = np.random.default_rng(0)
# Every line is unlike all others, so that it can be found again.
DOCUMENTS = [
    [" ".join(RANDOM.choice(WORDS, RANDOM.integers(2, 9))) + f" {LETTERS[d]} {LETTERS[i]}" for i in range(n)]
    for d, n in enumerate(SIZES)
]
NUMBER = {line: (d, i) for d, lines in enumerate(DOCUMENTS) for i, line in enumerate(lines)}
LENGTH = 32


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.load(word_pieces(tmp_path_factory.mktemp("words")))


def source(tokenizer, documents=DOCUMENTS, length=LENGTH, seed=0, masked=False):
    masking = Masking.of(tokenizer, seed, "test") if masked else None
    return Pairs(documents, length, tokenizer, seed, masking, "test")


def read(tokenizer, rows, row):
    """(first line, second line) of a row, as ids without special tokens."""
    tokens, types, mask = rows["tokens"][row], rows["token_types"][row], rows["mask"][row]
    assert tokens[0] == tokenizer.cls and (tokens[~mask] == tokenizer.pad).all() and not types[~mask].any()
    halves = tokens[mask & (types == 0)], tokens[mask & (types == 1)]
    assert all(half[-1] == tokenizer.sep for half in halves)
    return halves[0][1:-1].tolist(), halves[1][:-1].tolist()


def everything(source, epochs):
    ids = np.tile(np.arange(len(source)), epochs)
    return ids, source.rows(ids, np.repeat(np.arange(epochs), len(source)))


def check_relations(tokenizer, source, epochs=20):
    """Every pair begins with its own line; what follows is the next line or one of another document, half and half."""
    by_ids = {tuple(tokenizer.encode([line]).ids[1:-1].tolist()): place for line, place in NUMBER.items()}
    firsts = [place for place in NUMBER.values() if place[1] + 1 < SIZES[place[0]]]
    assert len(source) == len(firsts)
    ids, rows = everything(source, epochs)
    met = set()
    for row, record in enumerate(ids):
        (document, line), second = (by_ids[tuple(half)] for half in read(tokenizer, rows, row))
        assert (document, line) == firsts[record]
        if rows["label"][row] == 0:
            assert second == (document, line + 1)
        else:
            assert second[0] != document
            met.add(second)
    share = rows["label"].mean()
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(len(ids))
    assert met == set(NUMBER.values()), "every line is somebody's random second"


def test_what_belongs_together(tokenizer, monkeypatch):
    check_relations(tokenizer, source(tokenizer))

    def off_by_one(sizes):  # sabotage: random lines of the same document
        firsts, low, high = neighbours(sizes)
        return firsts, low, high - 1

    neighbours = module._neighbours
    monkeypatch.setattr(module, "_neighbours", off_by_one)
    with pytest.raises(AssertionError):
        check_relations(tokenizer, source(tokenizer))


def test_in_a_single_document_any_other_line_is_random(tokenizer):
    documents = [[line for lines in DOCUMENTS for line in lines]]
    one = source(tokenizer, documents)
    ids, epochs = np.tile(np.arange(len(one)), 60), np.repeat(np.arange(60), len(one))
    relation, second = one.drawn(ids, epochs)
    assert (second[relation == 0] == ids[relation == 0] + 1).all()
    others = second[relation == 1] - ids[relation == 1]
    assert not np.isin(others, [0, 1]).any() and others.min() < 0
    assert set(second[relation == 1]) == set(range(len(documents[0])))


def check_pure(source):
    ids, epochs = np.array([7, 3, 3, 11, 7, 0]), np.array([0, 0, 1, 2, 0, 9])
    together = source.rows(ids, epochs)
    for i in [5, 2, 0, 4, 1, 3]:
        alone = source.rows(ids[i : i + 1], epochs[i : i + 1])
        for name, array in together.items():
            np.testing.assert_array_equal(alone[name][0], array[i])


@pytest.mark.parametrize("masked", [False, True])
def test_rows_do_not_depend_on_which_others_are_asked_for(tokenizer, masked):
    check_pure(source(tokenizer, masked=masked))


def test_sabotage_one_stream_for_the_batch(tokenizer, monkeypatch):
    def of_batch(seed, ids, epochs, count, purpose):
        return np.random.default_rng(int(ids[0])).integers(0, 2**63, (len(ids), count)).astype(np.uint64) * 2

    monkeypatch.setattr(module, "draws", of_batch)
    with pytest.raises(AssertionError):
        check_pure(source(tokenizer))


def test_epochs_and_seeds_draw_anew(tokenizer):
    one, other = source(tokenizer), source(tokenizer, seed=1)
    ids = np.arange(len(one))
    drawn = [one.drawn(ids, np.full_like(ids, epoch))[1].tolist() for epoch in range(3)]
    drawn.append(other.drawn(ids, np.zeros_like(ids))[1].tolist())
    assert len({tuple(row) for row in drawn}) == 4
    assert one.digest != other.digest and one.digest == source(tokenizer).digest


def test_evaluation_is_epoch_0(tokenizer):
    """What reports ask of a source: labels, and the pairs as a person reads them."""
    one = source(tokenizer)
    rows = one.rows(np.arange(len(one)), np.zeros(len(one), np.int64))
    np.testing.assert_array_equal(one.columns["label"], rows["label"])
    for row, text in enumerate(one.texts):
        first, second = text.split(" | ")
        assert read(tokenizer, rows, row) == tuple(
            tokenizer.encode([line]).ids[1:-1].tolist() for line in (first, second)
        )


# ---- how pairs are cut ----


@pytest.mark.parametrize(("first", "second", "kept"), [
    (3, 4, (3, 4)), (20, 4, (13, 4)), (4, 20, (4, 13)), (20, 20, (9, 8)), (9, 20, (9, 8)), (20, 8, (9, 8)), (0, 30, (0, 17)),
])  # fmt: skip
def test_the_longer_sentence_is_cut(tokenizer, first, second, kept):
    """20 places, 17 of them for words."""
    lines = ["the " * first, "fox " * second, "dog"]
    pairs = source(tokenizer, [lines, ["dog", "dog"]], length=20)
    relation, _ = pairs.drawn(np.zeros(20, np.int64), np.arange(20))
    rows = pairs.rows(np.zeros(1, np.int64), np.flatnonzero(relation == 0)[:1])
    assert tuple(map(len, read(tokenizer, rows, 0))) == kept
    assert rows["mask"].sum() == sum(kept) + 3


def test_masked_pairs(tokenizer):
    plain, masked = source(tokenizer), source(tokenizer, masked=True)
    (_, a), (_, b) = everything(plain, 4), everything(masked, 4)
    np.testing.assert_array_equal(b["relation"], a["label"])
    tokens = b["tokens"].copy()
    row, at = np.nonzero(b["label_weight"])
    assert not np.array_equal(tokens, a["tokens"])
    tokens[row, b["places"][row, at]] = b["label"][row, at]
    np.testing.assert_array_equal(tokens, a["tokens"])
    assert (b["label_weight"].sum(1) >= 1).all() and a["mask"][row, b["places"][row, at]].all()
    for name in ("mask", "token_types"):
        np.testing.assert_array_equal(a[name], b[name])


# ---- the recipe ----


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text("\n\n".join("\n".join(lines) for lines in DOCUMENTS))
    return str(tmp_path / "text.txt")


def test_load(text, tmp_path):
    folder = word_pieces(tmp_path / "words")
    splits = SentencePairs(path=text, tokenizer=folder, length=LENGTH, dev=0.36).load()
    assert (len(splits.train), len(splits.evaluation["dev"])) == (3 + 5 + 2 + 1, 8)  # 16 of 25 lines train
    assert splits.labels == ("next", "random") and splits.largest_token == Tokenizer.load(folder).size - 1
    assert splits.notes == (f"train: 11 pairs of lines, {text}", f"dev: 8 pairs of lines, {text}",
                            f"tokenizer: 76 tokens, {folder}")  # fmt: skip
    masked = SentencePairs(path=text, tokenizer=folder, length=LENGTH, dev=0.36, masked=True).load()
    assert masked.labels == () and masked.train.digest != splits.train.digest


def fails(message, make):
    with pytest.raises(UserError) as error:
        make()
    assert message in str(error.value)


def test_what_gives_no_pairs(tokenizer, text, tmp_path):
    fails("data.length: pairs of 4 tokens. Use at least 5.", lambda: source(tokenizer, length=4))
    for documents in ([], [["a"], ["b"]], [["a", "b"]]):
        fails(f"test: {sum(map(len, documents))} lines are too few for pairs", lambda d=documents: source(tokenizer, d))
    fails("data.path: no such file", SentencePairs().load)
    fails("data.dev: 0.0 is no share", SentencePairs(path=text, dev=0.0).load)
    folder = word_pieces(tmp_path / "words")
    fails("data.mask_seed: -1", SentencePairs(path=text, tokenizer=folder, mask_seed=-1).load)
    fails("text.txt (dev): 1 lines are too few", SentencePairs(path=text, tokenizer=folder, dev=0.04).load)
