"""Masked windows: what is hidden is a function of seed, record and epoch, in the shares of the BERT paper."""

import gzip
import json

import numpy as np
import pytest

from lepjax.core.errors import UserError
from lepjax.data import masked
from lepjax.data.documents import MaskedTextFile, read_documents, split_off
from lepjax.data.masked import MaskedWindows, Masking, draws, stream
from lepjax.data.tokenizer import Tokenizer
from tests.words import SPECIAL, bytes_of_roberta, word_pieces

LENGTH, RECORDS = 42, 200
BODY = LENGTH - 2


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.load(word_pieces(tmp_path_factory.mktemp("words")))


def windows(tokenizer, tokens=None, length=LENGTH, seed=0):
    if tokens is None:
        tokens = np.random.default_rng(0).integers(len(SPECIAL), tokenizer.size, RECORDS * BODY).astype(np.int32)
    return MaskedWindows(tokens, length, Masking.of(tokenizer, seed, "test"), tokenizer, "test")


def rows_of(source, ids, epochs=0):
    return source.rows(np.asarray(ids), np.broadcast_to(epochs, len(ids)))


def restored(rows):
    """The rows with every token that was asked for in its place again."""
    tokens = rows["tokens"].copy()
    row, at = np.nonzero(rows["label_weight"])
    tokens[row, rows["places"][row, at]] = rows["label"][row, at]
    return tokens


# ---- what a window is ----


def test_shapes_and_dtypes(tokenizer):
    rows = rows_of(windows(tokenizer), [3, 5, 199])
    k = round(0.15 * BODY)
    expected = {
        "tokens": (np.int32, (3, LENGTH)),
        "mask": (np.bool_, (3, LENGTH)),
        "places": (np.int32, (3, k)),
        "label": (np.int32, (3, k)),
        "label_weight": (np.float32, (3, k)),
    }
    assert {name: (array.dtype.type, array.shape) for name, array in rows.items()} == expected
    assert rows["label_weight"].all() and rows["mask"].all()


@pytest.mark.parametrize("cut", [1, 17, BODY])
def test_the_windows_tile_the_tokens(tokenizer, cut):
    """Every token once, in order, enclosed; the last window is filled up with padding that is masked."""
    tokens = np.random.default_rng(1).integers(5, tokenizer.size, 3 * BODY + cut).astype(np.int32)
    source = windows(tokenizer, tokens)
    assert len(source) == 4
    rows = rows_of(source, np.arange(4))
    inner = restored(rows)
    np.testing.assert_array_equal(inner[:, 0], tokenizer.cls)
    ends = rows["mask"].sum(1) - 1
    assert ends.tolist() == [LENGTH - 1] * 3 + [cut + 1]
    np.testing.assert_array_equal(inner[np.arange(4), ends], tokenizer.sep)
    np.testing.assert_array_equal(np.concatenate([row[1:end] for row, end in zip(inner, ends, strict=True)]), tokens)
    assert (inner[~rows["mask"]] == tokenizer.pad).all()
    assert rows["label_weight"][3].sum() == max(1, round(0.15 * cut))


def test_only_what_is_asked_for_is_changed(tokenizer):
    source = windows(tokenizer)
    rows = rows_of(source, np.arange(RECORDS))
    original = source.tokens.reshape(RECORDS, BODY)
    np.testing.assert_array_equal(restored(rows)[:, 1:-1], original)
    changed = rows["tokens"][:, 1:-1] != original
    asked = np.zeros((RECORDS, LENGTH), bool)
    np.put_along_axis(asked, rows["places"], True, axis=1)
    assert (asked.sum(1) == rows["places"].shape[1]).all(), "no place twice"
    assert not (changed & ~asked[:, 1:-1]).any()


def test_special_tokens_are_never_asked_for(tokenizer):
    """Separators inside a window, and windows of nothing else."""
    tokens = np.full(4 * BODY, tokenizer.sep, np.int32)
    tokens[: 2 * BODY : 2] = 40
    rows = rows_of(windows(tokenizer, tokens), np.arange(4))
    asked = rows["label_weight"] > 0
    assert (rows["label"][asked] == 40).all()
    assert asked.sum(1).tolist() == [round(0.15 * BODY / 2)] * 2 + [0, 0]
    assert (rows["places"][~asked] == 0).all() and (rows["label"][~asked] == 0).all()


# ---- how it is hidden ----


def shares(tokenizer, seed=0):
    """(hidden, replaced, shown) of the places asked for, with the tokens that replace."""
    rows = rows_of(windows(tokenizer, seed=seed), np.arange(RECORDS))
    shown = np.take_along_axis(rows["tokens"], rows["places"], 1)
    mask, same = shown == tokenizer.mask, shown == rows["label"]
    return mask.mean(), (~mask & ~same).mean(), same.mean(), shown[~mask & ~same]


def check_shares(tokenizer):
    n = RECORDS * round(0.15 * BODY)
    chance = 0.1 / (tokenizer.size - len(SPECIAL))  # a random token may be the one that stood there
    for found, expected in zip(shares(tokenizer)[:3], (0.8, 0.1 - chance, 0.1 + chance), strict=True):
        assert abs(found - expected) < 4 * np.sqrt(expected * (1 - expected) / n)


def test_the_shares_are_those_of_the_paper(tokenizer, monkeypatch):
    check_shares(tokenizer)
    monkeypatch.setattr(masked, "MASKED", 0.9)  # sabotage
    with pytest.raises(AssertionError):
        check_shares(tokenizer)


def test_replacements_are_words_of_the_whole_vocabulary(tokenizer):
    replaced = np.concatenate([shares(tokenizer, seed)[3] for seed in range(12)])
    assert replaced.min() >= len(SPECIAL)
    assert set(replaced) == set(range(len(SPECIAL), tokenizer.size))


def test_every_place_is_as_likely(tokenizer):
    source = windows(tokenizer)
    counts = sum(
        np.bincount(rows_of(source, np.arange(RECORDS), e)["places"].ravel(), minlength=LENGTH) for e in range(10)
    )
    assert counts[0] == counts[-1] == 0
    expected = 10 * RECORDS * round(0.15 * BODY) / BODY
    assert (abs(counts[1:-1] - expected) < 5 * np.sqrt(expected)).all()


# ---- a function of seed, record and epoch ----


def check_pure(source):
    """A record looks the same whoever else is asked for, in whatever order, and however often."""
    ids, epochs = np.array([7, 3, 3, 150, 7, 0]), np.array([0, 0, 1, 2, 0, 9])
    together = source.rows(ids, epochs)
    for i in [5, 2, 0, 4, 1, 3]:
        alone = source.rows(ids[i : i + 1], epochs[i : i + 1])
        for name, array in together.items():
            np.testing.assert_array_equal(alone[name][0], array[i])


def test_rows_do_not_depend_on_which_others_are_asked_for(tokenizer):
    check_pure(windows(tokenizer))


def test_sabotage_one_stream_for_the_batch(tokenizer, monkeypatch):
    def of_batch(seed, ids, epochs, count, purpose):
        stream = np.random.Philox(key=[seed, int(epochs[0])], counter=[0, 0, int(ids[0]), 0])
        return stream.random_raw(len(ids) * count).reshape(len(ids), count)

    monkeypatch.setattr(masked, "draws", of_batch)
    with pytest.raises(AssertionError):
        check_pure(windows(tokenizer))


def test_other_epochs_records_and_seeds_hide_other_tokens(tokenizer):
    same = windows(tokenizer, np.tile(np.arange(5, 5 + BODY, dtype=np.int32), 3))
    seen = [rows_of(same, [0, 1, 2], epoch)["tokens"][i].tolist() for epoch in range(3) for i in range(3)]
    other = windows(tokenizer, same.tokens, seed=1)
    seen += rows_of(other, [0, 1, 2])["tokens"].tolist()
    assert len({tuple(row) for row in seen}) == 12
    assert other.digest != same.digest == windows(tokenizer, same.tokens).digest


def test_the_draws_are_these_everywhere():
    """Golden: a resumed run must hide the same tokens with another numpy, on another machine."""
    found = draws(3, np.array([0, 5]), np.array([0, 2]), 2, 1)
    assert found.dtype == np.uint64 and found.tolist() == GOLDEN


GOLDEN = [[13652367922584412156, 15649216603714737163], [6584290619860881006, 12456152438796071981]]


# ---- what cannot be masked ----


def fails(message, make):
    with pytest.raises(UserError) as error:
        make()
    assert message in str(error.value)


def test_what_cannot_be_windows(tokenizer):
    fails("data.length: windows of 2 tokens. Use at least 3.", lambda: windows(tokenizer, length=2))
    fails("test: there is no text", lambda: windows(tokenizer, np.zeros(0, np.int32)))
    fails("data.mask_seed: -1. Use a whole number from 0", lambda: windows(tokenizer, seed=-1))


def test_what_is_no_tokenizer_of_an_encoder(tmp_path):
    folder = tmp_path / "words"
    word_pieces(folder)
    pieces = (folder / "vocab.txt").read_text().replace("[MASK]\n", "[HIDE]\n")
    (folder / "vocab.txt").write_text(pieces)
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox\n" * 20)
    recipe = MaskedTextFile(path=str(text), tokenizer=str(folder), length=16)
    fails(f"{folder}: there is no [MASK] token. Use the tokenizer of a masked language model.", recipe.load)
    roberta = tmp_path / "bytes"
    bytes_of_roberta(roberta)
    vocabulary = json.loads((roberta / "vocab.json").read_text())
    (roberta / "vocab.json").write_text(json.dumps({k.replace("s>", "z>"): v for k, v in vocabulary.items()}))
    recipe = MaskedTextFile(path=str(text), tokenizer=str(roberta), length=16)
    fails(f"{roberta}: texts are not enclosed as [CLS] text [SEP]", recipe.load)


# ---- a text file as documents ----

TEXT = "The quick fox.\nIt jumps.\n\nThe dog sleeps.\n \t\nWho?\nWhat?\nWhere?\n\n\n"
DOCUMENTS = [["The quick fox.", "It jumps."], ["The dog sleeps."], ["Who?", "What?", "Where?"]]


def test_empty_lines_separate_documents(tmp_path):
    for name, data in {
        "text.txt": TEXT.encode(),
        "dos.txt": TEXT.replace("\n", "\r\n").encode(),
        "text.txt.gz": gzip.compress(TEXT.encode()),
    }.items():
        (tmp_path / name).write_bytes(data)
        assert read_documents(str(tmp_path / name)) == DOCUMENTS, name


def test_a_table_has_a_document_per_row(tmp_path, capsys):
    rows = ["\n\n".join(document) for document in DOCUMENTS]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"title": "t", "text": row}) + "\n" for row in rows))
    for path in (tmp_path / "train.jsonl", tmp_path):
        assert read_documents(str(path)) == DOCUMENTS
    (tmp_path / "train.jsonl").write_text('{"body": "x"}\n')
    fails("no column 'text'", lambda: read_documents(str(tmp_path)))
    assert "rows, from local file" in capsys.readouterr().err


def test_the_cut_is_by_lines():
    assert split_off(DOCUMENTS, 0.5) == (DOCUMENTS[:2], DOCUMENTS[2:])
    assert split_off(DOCUMENTS, 1 / 3) == ([*DOCUMENTS[:2], ["Who?"]], [["What?", "Where?"]])
    fails("data.dev: 1.0 is no share of the text", lambda: split_off(DOCUMENTS, 1.0))


@pytest.mark.parametrize("tokenizer_of", [word_pieces, bytes_of_roberta])
def test_load_with_a_tokenizer(tmp_path, tokenizer_of):
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 20)
    folder = tokenizer_of(tmp_path / "tokenizer")
    splits = MaskedTextFile(path=str(text), tokenizer=folder, length=16, dev=0.25).load()
    tokenizer = Tokenizer.load(folder)
    assert splits.largest_token == tokenizer.size - 1
    first = stream(tokenizer, ["The quick fox.\nIt jumps."])
    assert first[-1] == tokenizer.sep and splits.train.tokens[: len(first)].tolist() == first.tolist()
    assert (splits.train.tokens == tokenizer.sep).sum() == 45 and (
        splits.evaluation["dev"].tokens == tokenizer.sep
    ).sum() == 15
    assert splits.notes[-1] == f"tokenizer: {tokenizer.size} tokens, {folder}"
    assert splits.notes[0].startswith("train: ") and f"documents, {text}" in splits.notes[0]
    again = MaskedTextFile(path=str(text), tokenizer=folder, length=16, dev=0.25).load()
    assert again.train.digest == splits.train.digest != splits.evaluation["dev"].digest


def test_what_cannot_be_read(tmp_path):
    fails("data.path: no such file. Pass --data.path with a file.", MaskedTextFile().load)
    (tmp_path / "text.txt").write_bytes(b"fine\n\xff\n")
    fails("text.txt line 2: byte 0xff", MaskedTextFile(path=str(tmp_path / "text.txt")).load)
    (tmp_path / "text.txt").write_text("\n\n")
    folder = word_pieces(tmp_path / "words")
    fails("text.txt (train): there is no text", MaskedTextFile(path=str(tmp_path / "text.txt"), tokenizer=folder).load)
