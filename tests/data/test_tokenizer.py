"""Tokenizers: the ids that Hugging Face's libraries give, every word's tag, every window of a context."""

import json

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from lepjax.core.errors import UserError
from lepjax.data import datasets
from lepjax.data.tokenizer import Tokenizer
from tests.data.encodings import FILES, rows

WORDS = ["the", "London", "unaffable", "Ärger", "北京大学", "can't", "3.14", "\u200b", "\u0301", "😀", "a b", "x" * 120]
WORDS += ["[SEP]", "ﬀ", "…", ",", "'s", "antidisestablishmentarianism"]
TEXT = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=20
)
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4)
LENGTHS = st.integers(4, 40)


# ---- the same ids ----


def check_golden(tokenizer, golden):
    encoded = tokenizer.encode([str(text) for text in golden["texts"]])
    wanted = [ids[mask == 1].tolist() for ids, mask in zip(golden["input_ids"], golden["attention_mask"], strict=True)]
    assert rows(encoded) == wanted
    assert encoded.ids.dtype == encoded.type_ids.dtype == np.int32 and encoded.starts.dtype == np.int64
    assert not encoded.type_ids.any() and encoded.cut == 0


def test_golden(bert, minilm):
    check_golden(bert, np.load(minilm / "golden.npz"))
    assert (bert.size, bert.cls, bert.sep, bert.pad, bert.mask, bert.unk) == (30522, 101, 102, 0, 103, 100)
    assert bert.special_ids == (0, 100, 101, 102, 103)
    assert [file.name for file in bert.files] == list(FILES)


@pytest.mark.parametrize("change", [{"do_lower_case": False}, {"do_lower_case": False, "strip_accents": True}])
def test_sabotage_another_case_is_noticed(folder, minilm, change):
    (folder / "tokenizer.json").unlink()
    golden = np.load(minilm / "golden.npz")
    check_golden(Tokenizer.load(folder), golden)
    (folder / "tokenizer_config.json").write_text(json.dumps(change))
    with pytest.raises(AssertionError):
        check_golden(Tokenizer.load(folder), golden)


@pytest.mark.parametrize("name", ["sst2", "chnsenticorp"])
def test_the_vocabulary_alone_gives_the_same_ids(folder, bert, test_data, name):
    (folder / "tokenizer.json").unlink()
    data = datasets.load(name, "validation", data_dir=str(test_data), say=lambda line: None)
    built = Tokenizer.load(folder)
    texts = [*data.columns["text"], *WORDS]
    one, other = bert.encode(texts), built.encode(texts)
    assert np.array_equal(one.ids, other.ids) and np.array_equal(one.starts, other.starts)
    assert (built.size, built.special_ids, built.pad) == (bert.size, bert.special_ids, bert.pad)
    assert built.decode(one[0]) == bert.decode(one[0]) and built.digest != bert.digest


def test_chinese_characters_are_words_of_their_own(folder):
    (folder / "tokenizer.json").unlink()
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "北京", "北", "京", "abc"]
    (folder / "vocab.txt").write_text("\n".join(pieces), encoding="utf-8", newline="\r\n")
    assert rows(Tokenizer.load(folder).encode(["北京 ABC"])) == [[2, 6, 7, 8, 3]]
    (folder / "tokenizer_config.json").write_text('{"tokenize_chinese_chars": false}')
    assert rows(Tokenizer.load(folder).encode(["北京 ABC"])) == [[2, 5, 8, 3]]


# ---- cutting ----


def check_cut(tokenizer, library, texts, pairs, length):
    library.enable_truncation(length)
    wanted = library.encode_batch(list(zip(texts, pairs, strict=True)) if pairs else texts)
    found = tokenizer.encode(texts, pairs, length)
    assert rows(found) == [one.ids for one in wanted]
    assert found.type_ids.tolist() == [kind for one in wanted for kind in one.type_ids]
    assert found.cut == sum(bool(one.overflowing) for one in wanted)
    assert found.lengths.max() <= length


@given(PAIRS, LENGTHS)
def test_texts_and_pairs_are_cut_as_the_library_cuts(bert, bert_reference, pairs, length):
    texts, others = map(list, zip(*pairs, strict=True))
    check_cut(bert, bert_reference, texts, None, length)
    check_cut(bert, bert_reference, texts, others, length)


@given(PAIRS, LENGTHS.filter(lambda length: length > 4))
def test_the_same_for_roberta(roberta, roberta_reference, pairs, length):
    pairs = [(f" {a}", f" {b}") for a, b in pairs]  # the reference puts a space before each text
    texts, others = map(list, zip(*pairs, strict=True))
    check_cut(roberta, roberta_reference, texts, None, length)
    check_cut(roberta, roberta_reference, texts, others, length)


def test_sabotage_a_pair_cut_otherwise_is_noticed(bert, bert_reference, monkeypatch):
    pair = ["a b c d e f g h"], ["a b c d"]
    check_cut(bert, bert_reference, *pair, 10)
    for wrong in ((3, 4), (5, 2)):  # right are 4 and 3
        cut = tuple(np.array([length]) for length in wrong)
        monkeypatch.setattr("lepjax.data.tokenizer._longest_first", lambda *_, cut=cut: cut)
        with pytest.raises(AssertionError):
            check_cut(bert, bert_reference, *pair, 10)


def test_real_pairs(bert, bert_reference, test_data):
    data = datasets.load("mrpc", "dev", data_dir=str(test_data), say=lambda line: None)
    check_cut(bert, bert_reference, data.columns["text"], data.columns["text_pair"], 48)


def test_lengths_that_hold_nothing(bert):
    for arguments in ((["a"], None, 2), (["a"], ["b"], 3)):
        with pytest.raises(UserError, match="max_length: . tokens hold nothing but . special tokens"):
            bert.encode(*arguments)
    with pytest.raises(UserError, match="pairs: 1 texts and 2 second texts"):
        bert.encode(["a"], ["b", "c"])


def test_what_the_file_says_of_padding_is_switched_off(bert, minilm):
    library = tokenizers.Tokenizer.from_file(str(minilm / "tokenizer.json"))
    assert library.padding and library.truncation, "or this shows nothing"
    assert rows(bert.encode(["a"])) == [[101, 1037, 102]]
    assert len(bert.encode(["a " * 400], max_length=512)[0]) == 402


def test_nothing_to_encode(bert):
    assert len(bert.encode([])) == 0 and len(bert.encode([], [])) == 0
    assert rows(bert.encode([""])) == [[101, 102]]
    assert len(bert.encode_words([])) == 0 and rows(bert.encode_words([[]])) == [[101, 102]]
    assert len(bert.encode_qa([], [])) == 0


# ---- words ----


def check_words(encoded, sentences):
    """Each word has one first token, in order."""
    per_row = np.array([encoded.first[a:b].sum() for a, b in zip(encoded.starts, encoded.starts[1:], strict=False)])
    assert np.array_equal(per_row, encoded.kept)
    assert encoded.kept.tolist() == [len(words) for words in sentences]
    assert encoded.cut == 0


@pytest.mark.parametrize("name", ["conll2003", "resume_ner_zh"])
def test_every_tag_has_one_token(bert, test_data, name):
    for split, data in datasets.load(name, data_dir=str(test_data), say=lambda line: None).items():
        encoded = bert.encode_words(data.columns["tokens"], max_length=512)
        check_words(encoded, data.columns["tokens"])
        assert encoded.first.sum() == len(data.label_ids()), split


def test_sabotage_a_lost_first_token_is_noticed(bert):
    sentences = [["EU", "rejects"], ["unaffable"]]
    encoded = bert.encode_words(sentences)
    check_words(encoded, sentences)
    for at in np.flatnonzero(encoded.first):
        encoded.first[at] = False
        with pytest.raises(AssertionError):
            check_words(encoded, sentences)
        encoded.first[at] = True
    with pytest.raises(AssertionError):
        check_words(bert.encode_words(sentences, max_length=3), sentences)


WORD = st.sampled_from([word for word in WORDS if word not in ("\u200b", "\u0301", "[SEP]")])


@given(st.lists(st.lists(WORD, max_size=8), min_size=1, max_size=4), LENGTHS)
def test_words_are_tokenised_as_the_library_does(bert, bert_reference, sentences, length):
    check_library_words(bert, bert_reference, sentences, length)


@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=8), min_size=1, max_size=4), LENGTHS)
def test_the_same_words_for_roberta(roberta, roberta_reference, sentences, length):
    check_library_words(roberta, roberta_reference, sentences, length)


def check_library_words(tokenizer, library, sentences, length):
    library.enable_truncation(length)
    wanted = library.encode_batch(sentences, is_pretokenized=True)
    found = tokenizer.encode_words(sentences, length)
    assert rows(found) == [one.ids for one in wanted]
    words = [[None, *one.word_ids] for one in wanted]
    first = [now is not None and now != before for ids in words for before, now in zip(ids, ids[1:], strict=False)]
    assert found.first.tolist() == first
    kept = [len(set(ids) - {None}) for ids in words]
    assert found.kept.tolist() == kept and found.cut == sum(map(len, sentences)) - sum(kept)


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=8))
def test_a_word_without_tokens_counts(bert, words):
    check_words(bert.encode_words([words, ["\u200b"]], 2000), [words, ["\u200b"]])
    encoded = bert.encode_words([["a", "\u200b", "b"]])
    assert rows(encoded) == [[101, 1037, 100, 1038, 102]]
    assert encoded.first.tolist() == [False, True, True, True, False]


# ---- questions ----


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4), st.integers(16, 30), st.integers(0, 4))
@settings(max_examples=50)
def test_windows_are_the_librarys(bert, bert_reference, pairs, length, stride):
    questions, contexts = (list(column) for column in zip(*pairs, strict=True))
    check_windows(bert, bert_reference, [q[:5] for q in questions], contexts, length, stride)


def check_windows(tokenizer, library, questions, contexts, length, stride):
    library.enable_truncation(length, stride=stride, strategy="only_second")
    found = tokenizer.encode_qa(questions, contexts, length, stride)
    wanted, example = [], []
    for i, pair in enumerate(zip(questions, contexts, strict=True)):
        one = library.encode(*pair)
        wanted += [one, *one.overflowing]
        example += [i] * (1 + len(one.overflowing))
    assert rows(found) == [one.ids for one in wanted]
    assert found.example.tolist() == example
    assert found.type_ids.tolist() == [kind for one in wanted for kind in one.type_ids]
    offsets = [
        o if text == 1 else (-1, -1) for one in wanted for o, text in zip(one.offsets, one.sequence_ids, strict=True)
    ]
    assert [tuple(pair) for pair in found.offsets.tolist()] == offsets


CONTEXT = "Der Ärger 😀 of London's fog, unaffable as ever. " * 6


def test_offsets_are_characters(bert, roberta):
    for tokenizer in (bert, roberta):
        found = tokenizer.encode_qa(["Where?", "When?"], [CONTEXT, "In 1999."], 40, 8)
        seen = np.zeros(len(CONTEXT), bool)
        for window in np.flatnonzero(found.example == 0):
            at = slice(*found.starts[window : window + 2])
            for begin, end in found.offsets[at][found.offsets[at][:, 0] >= 0]:
                seen[begin:end] = True
        assert all(char == " " for char, was in zip(CONTEXT, seen, strict=True) if not was), (
            "every character is in a window"
        )
        assert len(CONTEXT.encode()) > len(CONTEXT), "or bytes would do"
    check_windows(roberta, tokenizers.Tokenizer.from_str(roberta.inner.to_str()), ["Where?"], [CONTEXT], 40, 8)


def test_an_answer_is_found_by_its_characters(bert):
    begin = CONTEXT.index("unaffable")
    found = bert.encode_qa(["What?"], [CONTEXT], 64, 16)
    first = np.flatnonzero(found.offsets[:, 0] == begin)[0]
    last = np.flatnonzero(found.offsets[:, 1] == begin + len("unaffable"))[0]
    assert bert.decode(found.ids[first : last + 1]) == "unaffable"
    with pytest.raises(AssertionError):  # sabotage: offsets one token late
        shifted = np.roll(found.offsets, 1, axis=0)
        assert np.flatnonzero(shifted[:, 0] == begin)[0] == first


def test_questions_too_long_for_a_window(bert):
    found = bert.encode_qa(["why " * 100], ["a"])
    assert found.cut == 1 and len(found[0]) == 64 + 1 + 3
    with pytest.raises(UserError, match="stride: windows of 80 tokens leave 13 for the context, which is not above 16"):
        bert.encode_qa(["why " * 100], ["a"], 80, 16)
    with pytest.raises(UserError, match="contexts: 1 questions and 0 contexts"):
        bert.encode_qa(["a"], [])
