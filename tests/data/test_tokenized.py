"""Text as the tokens of a real tokenizer: what is read, what is kept on disk, and what is said about what cannot be."""

import gzip
import json

import numpy as np
import pytest

from lepjax.core.errors import UserError
from lepjax.data import corpus, fetch, tokenized
from lepjax.data.quarantine import REFUSE
from lepjax.data.tables import Origin, Table
from lepjax.data.tokenized import Subwords, TokenizedText
from tests.words import LETTERS, bytes_of_roberta, word_pieces

STORIES = [
    f"The fox {i} jumps over the lazy dog.\nWho sleeps in the shade?\n\n  Zwölf {LETTERS[i]}.\n" for i in range(26)
]
END = corpus.BOUNDARY


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def load(cache):
    """A recipe of few tokens, loaded."""

    def load(path, **fields):
        return TokenizedText(
            path=str(path), cache=str(cache), **{"length": 16, "vocabulary": 300, "dev": 0.2, **fields}
        ).load()

    return load


@pytest.fixture
def stories(tmp_path):
    path = tmp_path / "stories.txt"
    path.write_text(f"\n{END}\n".join(text.rstrip("\n") for text in STORIES) + "\n", encoding="utf-8")
    return path


def tokens_of(splits):
    return np.concatenate([splits.train.tokens, splits.evaluation["dev"].tokens])


# ---- text to tokens and back ----


@pytest.mark.parametrize("kind", ["trained", "folder"])
def test_round_trip(load, stories, tmp_path, kind):
    tokenizer = "" if kind == "trained" else bytes_of_roberta(tmp_path / "roberta")
    splits = load(stories, tokenizer=tokenizer)
    end = {"trained": END, "folder": "</s>"}[kind]
    expected = "".join(text.rstrip("\n") + end for text in STORIES[:-1]) + STORIES[-1].rstrip("\n") + "\n" + end
    assert splits.vocabulary.decode(tokens_of(splits)) == expected
    assert len(splits.evaluation["dev"].tokens) == round(0.2 * len(tokens_of(splits)))
    assert splits.train.shift and not splits.evaluation["dev"].shift
    assert splits.vocabulary.decode(splits.vocabulary.encode(STORIES[3])) == STORIES[3]
    assert any(f"{len(splits.train.tokens):,} tokens" in note for note in splits.notes)


def test_text_cannot_write_special_tokens(load, stories):
    vocabulary = load(stories).vocabulary
    injected = vocabulary.encode(f"a {END} b")
    assert vocabulary.end not in injected and vocabulary.decode(injected) == f"a {END} b"


def test_the_end_can_be_named(load, stories, tmp_path):
    folder = bytes_of_roberta(tmp_path / "roberta")
    assert load(stories, tokenizer=folder).vocabulary.end == 2
    assert load(stories, tokenizer=folder, end="<pad>").vocabulary.end == 1
    with pytest.raises(UserError, match=rf"{folder}: the tokenizer has no <x>\. Name one of its tokens: --data\.end"):
        load(stories, tokenizer=folder, end="<x>")


def test_gpt2_tokens_are_known(load, stories, test_data):
    splits = load(stories, tokenizer=str(test_data / "tokenizers" / "gpt2"))
    assert splits.vocabulary.encode("Hello world").tolist() == [15496, 995]
    assert splits.vocabulary.size == 50257 and splits.vocabulary.end == 50256
    assert splits.train.tokens.dtype == np.uint16


def test_a_trained_tokenizer_is_the_same_anew(load, stories, cache):
    first = tokens_of(load(stories))
    for file in (cache / "vocabularies").rglob("tokenizer.json"):
        file.unlink()
    np.testing.assert_array_equal(tokens_of(load(stories)), first)


# ---- forms of text ----


def test_the_same_documents_in_every_form(load, tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    rows = [{"id": i, "text": text} for i, text in enumerate(STORIES)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet", row_group_size=5)
    shards = tmp_path / "shards"
    shards.mkdir()
    for i, part in enumerate((rows[:10], rows[10:])):
        parquet.write_table(pa.Table.from_pylist(part), shards / f"train-{i:05}-of-00002.parquet")
    other = tmp_path / "other"
    other.mkdir()
    for i, part in enumerate((rows[:7], rows[7:])):
        parquet.write_table(pa.Table.from_pylist(part), other / f"00{i}_00000.parquet")
    vocabulary = bytes_of_roberta(tmp_path / "roberta")
    names = ["a.jsonl", "b.jsonl.gz", "c.parquet", "shards", "other"]
    found = [tokens_of(load(tmp_path / name, tokenizer=vocabulary)) for name in names]
    for one in found[1:]:
        np.testing.assert_array_equal(one, found[0])


def test_splits_of_a_folder(load, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "TinyStories-train.txt").write_text("".join(STORIES[:20]), encoding="utf-8")
    (folder / "TinyStories-valid.txt").write_text("".join(STORIES[20:]), encoding="utf-8")
    splits = load(folder)
    assert splits.vocabulary.decode(splits.train.tokens) == "".join(STORIES[:20]) + END
    assert splits.vocabulary.decode(splits.evaluation["dev"].tokens) == "".join(STORIES[20:]) + END


def test_a_long_document_is_cut_between_lines(load, tmp_path, test_data, monkeypatch):
    path, gpt2 = tmp_path / "long.txt", str(test_data / "tokenizers" / "gpt2")
    text = "".join(STORIES)
    path.write_text(text, encoding="utf-8")
    whole = tokens_of(load(path, tokenizer=gpt2))
    monkeypatch.setattr(corpus, "STRETCH", 100)
    monkeypatch.setattr(tokenized, "STRETCH", 100)
    plain, table = list(corpus.corpora(str(path))["train"].read(REFUSE)), list(corpus._cut(text))
    for stretches in (plain, table):
        assert len(stretches) > 10 and "".join(part for part, _ in stretches) == text
        assert [last for _, last in stretches] == [False] * (len(stretches) - 1) + [True]
    monkeypatch.setattr(tokenized, "FORMAT", 0)  # another key
    np.testing.assert_array_equal(tokens_of(load(path, tokenizer=gpt2)), whole)


def test_the_hub_and_tfds(load, monkeypatch):
    asked = []

    def source(wanted):
        asked.append(wanted.known)
        table = Table({"text": STORIES}, Origin.single("hub row", range(len(STORIES))))
        return dict.fromkeys(("train", "validation"), fetch.Part("the hub", lambda sieve: table))

    monkeypatch.setitem(fetch.SOURCES, "hub", source)
    monkeypatch.setitem(fetch.SOURCES, "tfds", source)
    first, second = load("hub:owner/stories/data"), load("tfds:lm1b")
    assert (asked[0].hub, asked[0].config, asked[1].tfds) == ("owner/stories", "data", "lm1b")
    assert first.vocabulary.decode(first.evaluation["dev"].tokens) == END.join(STORIES) + END
    assert second.train.digest == first.train.digest
    with pytest.raises(UserError, match="hub:stories: is no owner/repository/folder"):
        load("hub:stories")


# ---- what is kept ----


@pytest.fixture
def counted(monkeypatch):
    """How often text is tokenised."""
    calls = []
    stream = Subwords.stream
    monkeypatch.setattr(Subwords, "stream", lambda *args: calls.append(1) or stream(*args))
    return calls


def test_a_hit_gives_the_same_windows(load, stories, counted, tmp_path):
    first, second = load(stories), load(stories)
    assert len(counted) == 1
    assert isinstance(second.train.tokens, np.memmap) and not second.train.tokens.flags.writeable
    assert second.train.digest == first.train.digest
    assert second.evaluation["dev"].digest == first.evaluation["dev"].digest
    ids, epochs = np.array([0, 3, 5]), np.array([0, 1, 2])
    for name, rows in first.train.rows(ids, epochs).items():
        np.testing.assert_array_equal(rows, second.train.rows(ids, epochs)[name])
    load(stories, length=8, dev=0.4)
    moved = tmp_path / "moved.txt"
    stories.rename(moved)
    assert load(moved).train.digest == first.train.digest
    assert len(counted) == 1, "neither the length nor the place of the text matter"
    moved.write_text("one\n" + moved.read_text(encoding="utf-8"), encoding="utf-8")
    assert load(moved).train.digest != first.train.digest
    load(moved, tokenizer=bytes_of_roberta(tmp_path / "roberta"))
    assert len(counted) == 3


DAMAGE = {
    "bit": lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
    "cut": lambda data: data[: len(data) // 2],
    "odd": lambda data: data[:-1],
    "longer": lambda data: data + b"\0\0",
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_noticed_and_mended(load, stories, cache, counted, capsys, name):
    first = load(stories).train.digest
    (binary,) = (cache / "tokens").glob("*.bin")
    good = binary.read_bytes()
    binary.unlink()  # not written in place: `first` still maps it
    binary.write_bytes(DAMAGE[name](good))
    assert load(stories).train.digest == first and len(counted) == 2
    assert binary.read_bytes() == good
    assert f"lepjax: {binary}: is damaged; tokenising {stories} anew" in capsys.readouterr().err


def test_a_damaged_record(load, stories, cache, counted, capsys):
    load(stories)
    (record,) = (cache / "tokens").glob("*.json")
    for text in ("", "[]", "{}", '{"tokens": 1, "dtype": "object", "sha256": ""}'):
        record.write_text(text)
        load(stories)
        assert "is damaged" in capsys.readouterr().err
    assert len(counted) == 5


def test_sabotage_an_unverified_cache_would_be_used(load, stories, cache, monkeypatch):
    first = load(stories).train.digest
    (binary,) = (cache / "tokens").glob("*.bin")
    good = binary.read_bytes()
    binary.unlink()
    binary.write_bytes(DAMAGE["bit"](good))
    monkeypatch.setattr(tokenized, "_verified", lambda binary, record: (np.memmap(binary, np.uint16, mode="r"), []))
    assert load(stories).train.digest != first


def test_bad_text_leaves_no_file_and_what_was_there(load, tmp_path, cache):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in STORIES))
    load(path, tokenizer=bytes_of_roberta(tmp_path / "roberta"))
    before = {file: file.read_bytes() for file in cache.rglob("*") if file.is_file()}
    path.write_text("\n".join(json.dumps({"text": text}) for text in [*STORIES, None]))
    with pytest.raises(UserError, match=rf"{path} line 27: text is None, no text"):
        load(path, tokenizer=str(tmp_path / "roberta"))
    assert {file: file.read_bytes() for file in cache.rglob("*") if file.is_file()} == before


# ---- errors in one line ----


def refused(load, path, message, **fields):
    with pytest.raises(UserError) as error:
        load(path, **fields)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_what_cannot_be_read(load, stories, tmp_path):
    refused(load, tmp_path / "missing", f"{tmp_path}/missing: no such file or folder. Pass --data.path")
    refused(load, "", "data.path: no such file or folder")
    refused(load, stories, "data.dev: 1.5 is no share", dev=1.5)
    refused(load, stories, "data.vocabulary: 256 tokens. Use 257 or more", vocabulary=256)
    refused(load, stories, f"{tmp_path}/none: no such folder", tokenizer=str(tmp_path / "none"))
    refused(load, stories, "no tokenizer", tokenizer=str(tmp_path))
    refused(load, stories, "tokens are too few for windows of 4096", length=4096)
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(load, empty, f"{empty}: no text (.txt, .text, .tsv")
    (empty / "a.txt").write_text("")
    refused(load, empty, "there is no text")


def test_damaged_text(load, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ntwo\nthr\xe9e\n")
    refused(load, path, f"{path} line 3: byte 0xe9 at offset 11 is not UTF-8")
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress("".join(STORIES).encode())[:-9])
    refused(load, path, f"{path}: not a complete gzip file")
    path = tmp_path / "a.tsv"
    path.write_text("id\tbody\n1\tone\n")
    refused(load, path, f"{path}: no column 'text'. Known: body, id.")


def test_damaged_parquet(load, tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pa.Table.from_pylist([{"text": "one"}, {"text": None}]), path)
    refused(load, path, f"{path} row 2: text is None, no text")
    parquet.write_table(pa.Table.from_pylist([{"texts": "one"}]), path)
    refused(load, path, f"{path}: no column 'text'. Did you mean texts?")
    path.write_bytes(path.read_bytes()[:50])
    refused(load, path, f"{path}: is no Parquet file, or damaged")


def test_missing_shards(load, tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    (folder / "train-00000-of-00002.jsonl").write_text('{"text": "one"}\n')
    refused(load, folder, "1 of 2 shards of the split train")


def test_a_tokenizer_without_an_end(load, stories, tmp_path):
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "vocab.json").write_text('{"a": 0, "b": 1}')
    (folder / "merges.txt").write_text("#version: 0.2\n")
    refused(load, stories, f"{folder}: the tokenizer has no <|endoftext|> or <|end_of_text|>", tokenizer=str(folder))


def test_word_pieces_serve_too(load, stories, tmp_path):
    splits = load(stories, tokenizer=word_pieces(tmp_path / "bert"))
    assert splits.vocabulary.decode(splits.vocabulary.encode("The fox jumps")) == "the fox jumps"


def test_a_folder_that_cannot_be_written(stories, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written \(Not a directory\)\. Pass --data\.cache"):
        TokenizedText(path=str(stories), length=16, cache=str(tmp_path / "file")).load()
