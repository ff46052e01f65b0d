"""One's own text and tokens: what is read, and what is said about what cannot be."""

import gzip
import pickle
import tracemalloc

import numpy as np
import pytest

from lepjax.core.errors import UserError
from lepjax.data.text import TextFile, TokenFiles, read_text
from lepjax.data.vocabulary import Bytes, Characters

TEXT = "Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich.\n" * 20


@pytest.fixture
def path(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path / "text.txt"


# ---- TextFile ----


@pytest.mark.parametrize(("characters", "kind"), [(False, Bytes), (True, Characters)], ids=["bytes", "characters"])
def test_the_text_is_split_once(path, characters, kind):
    splits = TextFile(path=str(path), length=16, dev=0.25, characters=characters).load()
    train, dev = splits.train.tokens, splits.evaluation["dev"].tokens
    assert isinstance(splits.vocabulary, kind)
    tokens = np.concatenate([train, dev])
    assert splits.vocabulary.decode(tokens) == TEXT
    assert len(train) == round(0.75 * len(tokens))
    assert splits.train.shift and not splits.evaluation["dev"].shift
    assert set(splits.evaluation) == {"dev"}


def test_a_gzip_file_is_the_same_text(path, tmp_path):
    packed = tmp_path / "text.txt.gz"
    packed.write_bytes(gzip.compress(TEXT.encode()))
    plain, unpacked = (TextFile(path=str(p), length=16).load() for p in (path, packed))
    assert unpacked.train.digest == plain.train.digest
    assert unpacked.evaluation["dev"].digest == plain.evaluation["dev"].digest


def test_a_variable_in_the_path(path, monkeypatch):
    monkeypatch.setenv("CORPUS", str(path.parent))
    assert read_text("$CORPUS/text.txt") == TEXT
    monkeypatch.setenv("HOME", str(path.parent))
    assert read_text("~/text.txt") == TEXT


def fails(path, message, **fields):
    with pytest.raises(UserError) as error:
        TextFile(path=str(path), **fields).load()
    assert message in str(error.value)


def test_no_file(tmp_path):
    fails(tmp_path / "missing.txt", f"{tmp_path / 'missing.txt'}: no such file. Pass --data.path")
    fails(tmp_path, "no such file")  # a folder
    fails("", "data.path: no such file")


def test_not_utf8(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"one\ntwo\nthr\xe9e\n")
    fails(tmp_path / "latin.txt", f"{tmp_path / 'latin.txt'} line 3: byte 0xe9 at offset 11 is not UTF-8")
    (tmp_path / "latin.txt").write_bytes(b"\xff\n")
    fails(tmp_path / "latin.txt", "line 1: byte 0xff at offset 0 is not UTF-8")


BROKEN = gzip.compress(TEXT.encode() + bytes(range(128)) * 3)
BREAKS = {
    "cut": BROKEN[: len(BROKEN) // 2],
    "no gzip": TEXT.encode(),
    "checksum": BROKEN[:-8] + bytes(8),
    "deflate": BROKEN[:10] + b"\xff" + BROKEN[11:],
}


@pytest.mark.parametrize("name", ["cut", "no gzip", "checksum", "deflate"])
def test_a_broken_gzip_file(tmp_path, name):
    (tmp_path / "text.gz").write_bytes(BREAKS[name])
    fails(tmp_path / "text.gz", f"{tmp_path / 'text.gz'}: not a complete gzip file")


def test_too_short(path, tmp_path):
    fails(path, f"{path} (dev): 6 tokens are too few for windows of 16", length=16, dev=0.005)
    (tmp_path / "empty.txt").write_bytes(b"")
    fails(tmp_path / "empty.txt", "0 tokens are too few")


def test_a_share_that_is_no_share(path):
    fails(path, "dev", length=16, dev=1.5)


# ---- vocabularies ----


@pytest.mark.parametrize("vocabulary", [Bytes(), Characters("".join(sorted(set(TEXT))))], ids=["bytes", "characters"])
def test_round_trip(vocabulary):
    tokens = vocabulary.encode(TEXT)
    assert vocabulary.decode(tokens) == TEXT
    assert np.issubdtype(tokens.dtype, np.integer) and tokens.max() < vocabulary.size
    assert vocabulary.decode(tokens.astype(np.int32)) == TEXT, "as a model writes them"
    assert vocabulary.decode(tokens[::-1]) != TEXT


def test_characters_are_nanogpts():
    vocabulary = Characters("".join(sorted(set("hello"))))
    assert vocabulary.characters == "ehlo" and vocabulary.size == 4
    assert vocabulary.encode("hello").tolist() == [1, 0, 2, 2, 3]
    with pytest.raises(UserError, match=r"vocabulary: characters \['w', 'ö'\] do not occur in the training text"):
        vocabulary.encode("wöhe")


def test_half_a_character_is_replaced():
    assert Bytes().decode(Bytes().encode("ö")[:1]) == "\ufffd"


# ---- TokenFiles ----


def saved(path, array, **options):
    np.save(path, array, **options)
    return str(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_tokens_stay_on_disk(tmp_path, dtype):
    tokens = (np.arange(1000) % 200).astype(dtype)
    train, dev = saved(tmp_path / "train.npy", tokens), saved(tmp_path / "dev.npy", tokens[:100])
    splits = TokenFiles(train=train, dev=dev, length=16).load()
    assert isinstance(splits.train.tokens, np.memmap) and isinstance(splits.evaluation["dev"].tokens, np.memmap)
    assert not splits.train.tokens.flags.writeable
    rows = splits.train.rows(np.array([3]), np.array([0]))
    np.testing.assert_array_equal(rows["tokens"][0], np.arange(48, 64))
    np.testing.assert_array_equal(rows["targets"][0], np.arange(49, 65))
    assert rows["tokens"].dtype == np.int32 and not isinstance(rows["tokens"], np.memmap)


def refused(tmp_path, path, message):
    good = saved(tmp_path / "good.npy", np.arange(100))
    TokenFiles(train=good, dev=good, length=8).load()
    for fields in ({"train": str(path), "dev": good}, {"train": good, "dev": str(path)}):
        with pytest.raises(UserError) as error:
            TokenFiles(**fields, length=8).load()
        assert message in str(error.value)


def test_wrong_dtype_or_rank(tmp_path):
    path = tmp_path / "tokens.npy"
    for array in (np.zeros(100), np.zeros(100, bool), np.array(["a"] * 100)):
        saved(path, array)
        refused(tmp_path, path, f"{path}: {array.dtype} of shape (100,). Save one integer array of one dimension")
    for shape in ((10, 10), ()):
        saved(path, np.zeros(shape, np.int32))
        refused(tmp_path, path, f"{path}: int32 of shape {shape}")


def test_loading_does_not_hold_all_tokens_in_memory(tmp_path):
    size = 2**21
    path = saved(tmp_path / "tokens.npy", np.arange(size, dtype=np.uint16))
    tracemalloc.start()
    try:
        TokenFiles(train=path, dev=path, length=16).load()
        assert tracemalloc.get_traced_memory()[1] < size, "half of the file's bytes"
    finally:
        tracemalloc.stop()


MARKS = []


class Bomb:
    """Unpickling it leaves a mark."""

    def __reduce__(self):
        return exec, (f"import {__name__}; {__name__}.MARKS.append(1)",)


def test_nothing_is_unpickled(tmp_path):
    path = tmp_path / "tokens.npy"
    saved(path, np.array([Bomb()] * 100, object), allow_pickle=True)
    refused(tmp_path, path, f"{path}: not a .npy file")
    path.write_bytes(pickle.dumps(Bomb()))
    refused(tmp_path, path, f"{path}: not a .npy file")
    assert MARKS == []
    np.load(path, allow_pickle=True)  # sabotage: the bomb is a live one
    assert MARKS == [1]


def test_a_file_cut_short(tmp_path):
    path = tmp_path / "tokens.npy"
    saved(path, np.arange(1000))
    path.write_bytes(path.read_bytes()[:700])
    refused(tmp_path, path, f"{path}: not a .npy file")


@pytest.mark.parametrize("kind", ["empty", "archive"])
def test_no_array_in_the_file(tmp_path, kind):
    path = tmp_path / "tokens.npy"
    np.savez(tmp_path / "tokens.npz", tokens=np.arange(100))
    path.write_bytes(b"" if kind == "empty" else (tmp_path / "tokens.npz").read_bytes())
    refused(tmp_path, path, str(path))


def test_no_token_file(tmp_path):
    refused(tmp_path, tmp_path / "missing.npy", f"{tmp_path / 'missing.npy'}: no such file")
