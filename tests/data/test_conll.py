"""Tagged sentences in both layouts."""

import collections
import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepjax.core.errors import UserError
from lepjax.data import conll
from lepjax.data.conll import read_tagged

WORD = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=6).filter(
    lambda word: not word.startswith("-DOC") and word.strip() == word
)
SENTENCES = st.lists(
    st.lists(st.tuples(WORD, st.sampled_from(["O", "B-PER", "I-PER"])), min_size=1, max_size=5), min_size=1, max_size=4
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conll")

    def write(name, text):
        (folder / name).write_text(text, encoding="utf-8", newline="")
        return folder / name

    return write


def columns(sentences):
    return {"tokens": [[w for w, _ in s] for s in sentences], "tags": [[t for _, t in s] for s in sentences]}


@given(SENTENCES, st.sampled_from([" ", "\t", " NNP B-NP "]), st.sampled_from(["\n", "\r\n"]))
def test_words_per_line(file, sentences, between, ending):
    blocks = [ending.join(f"{word}{between}{tag}" for word, tag in sentence) for sentence in sentences]
    text = f"-DOCSTART- -X- O O{ending * 2}" + (ending * 2).join(blocks) + ending
    assert read_tagged(file("train.txt", text)) == columns(sentences)


@given(SENTENCES)
def test_sentences_per_line(file, sentences):
    lines = [" ".join(w for w, _ in s) + "\t" + " ".join(t for _, t in s) for s in sentences]
    path = file("train.tsv", "\n".join(lines))
    assert read_tagged(path) == columns(sentences)
    assert all(map(conll.looks_tagged, lines))
    assert [conll.read(path).origin(i) for i in range(len(lines))] == [
        f"{path} line {i + 1}" for i in range(len(lines))
    ]


def test_lines_are_counted(file):
    path = file("train.txt", "-DOCSTART- O\n\n\nEU B-ORG\nrejects O\n\n \nLondon B-LOC\n-DOCSTART- O\nEnd O\n")
    table = conll.read(path)
    assert table.columns["tokens"] == [["EU", "rejects"], ["London"], ["End"]]
    assert [table.origin(i) for i in range(3)] == [f"{path} line {n}" for n in (4, 8, 10)]


@pytest.mark.parametrize("header", ["sentence\tlabel", "text\t1", "a b\tO", "words\ttags", "one column"])
def test_a_header_is_no_tagged_sentence(header):
    assert not conll.looks_tagged(header)


BAD = {
    "one column": ("t.txt", "EU B-ORG\nrejects\n", " line 2: 1 column: a word without a tag"),
    "empty tag": ("t.txt", "EU\t\n", " line 1: 2 columns: a word without a tag"),
    "only documents": ("t.txt", "-DOCSTART- O\n\n", ": there is no sentence"),
    "empty": ("t.txt", "", ": the file is empty"),
    "tags too few": ("t.tsv", "E U\tB-ORG I-ORG\na b c\tO O\n", " line 2: 3 words and 2 tags. Give each word one tag"),
    "tags too many": ("t.tsv", "E\tB-ORG I-ORG\n", " line 1: 1 words and 2 tags"),
    "no tags": ("t.tsv", "E U\n", " line 1: 1 column instead of words<TAB>tags"),
    "three columns": ("t.tsv", "E\tO\tO\n", " line 1: 3 columns instead of words<TAB>tags"),
    "blank line": ("t.tsv", "E\tO\n\nF\tO\n", " line 2: 1 column instead"),
    "two spaces": ("t.tsv", "E  U\tO O O\n", " line 1: two spaces in a row"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit(file, name):
    kind, text, message = BAD[name]
    path = file(kind, text)
    with pytest.raises(UserError) as error:
        read_tagged(path)
    assert str(error.value).startswith(f"{path}{message}")


# ---- real files ----

COUNTS = {
    ("conll2003", "train.txt.gz"): (14041, 203_621),
    ("conll2003", "valid.txt.gz"): (3250, 51_362),
    ("conll2003", "test.txt.gz"): (3453, 46_435),
    ("resume_ner_zh", "train.tsv.gz"): (3821, None),
    ("resume_ner_zh", "dev.tsv.gz"): (463, None),
    ("resume_ner_zh", "test.tsv.gz"): (477, None),
}


def check_counts(found, sentences, words):
    assert len(found["tokens"]) == len(found["tags"]) == sentences
    lengths = [len(tokens) for tokens in found["tokens"]]
    assert lengths == [len(tags) for tags in found["tags"]]
    assert words is None or sum(lengths) == words


@pytest.mark.parametrize("name", COUNTS, ids="/".join)
def test_official_counts(test_data, name):
    check_counts(read_tagged(test_data.joinpath(*name)), *COUNTS[name])


def test_every_tag_is_where_it_was(test_data):
    path = test_data / "conll2003" / "test.txt.gz"
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")
    found = read_tagged(path)
    pairs = [(w, t) for s in zip(found["tokens"], found["tags"], strict=True) for w, t in zip(*s, strict=True)]
    assert [f"{word} {tag}" for word, tag in pairs] == [line for line in lines if line]
    assert collections.Counter(tag for _, tag in pairs)["B-LOC"] == 1668  # entities of type LOC in the test set


def test_sabotage_a_lost_word_or_tag_is_noticed(test_data):
    found = read_tagged(test_data / "conll2003" / "valid.txt.gz")
    check_counts(found, 3250, 51_362)
    for name in found:
        changed = {**found, name: [found[name][0][1:], *found[name][1:]]}
        with pytest.raises(AssertionError):
            check_counts(changed, 3250, 51_362)
    with pytest.raises(AssertionError):
        check_counts({name: column[:-1] for name, column in found.items()}, 3250, 51_362)
