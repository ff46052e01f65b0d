"""Docstrings of a library as text, and word pieces that are the same in every process."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from lepjax.core.errors import UserError
from lepjax.data import wordpiece
from lepjax.data.docstrings import Docstrings, docstrings
from lepjax.data.quarantine import REFUSE
from lepjax.data.stdlib import read_library, sides
from lepjax.data.tokenizer import Tokenizer

ROOT = pathlib.Path(__file__).parent.parent.parent
TEXTS = [
    f"Return the {a} of {b}s, or None where no {b} has one." for a in ("name", "size", "owner") for b in ("file", "row")
]

CODE = '''
"""About the module."""
import re
x = "no docstring"

class Parser:
    """Parses rows.

    For example:
        x = 1
    """
    name: str
    """a note under a field is no docstring"""

    async def read(self):
        """Reads."""
        def inner(): "Inner."

def bare(): pass
def empty(): ""
'''


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_which_strings_are_docstrings():
    assert set(docstrings(CODE.encode())) == {
        "About the module.",
        "Parses rows.\n\nFor example:\n    x = 1",
        "Reads.",
        "Inner.",
    }


def test_what_does_not_parse_has_none(recwarn):
    for source in (b"def broken(:\n", b'"""Cut off', b"print 'two'", b"\xff", b"(" * 10_000, b"-" * 100_000 + b"1"):
        assert list(docstrings(source)) == []
    assert list(docstrings(b'"""An \\d escape."""')) == [r"An \d escape."]
    assert not recwarn.list


# ---- the recipe ----


@pytest.fixture
def folder(tmp_path):
    library = tmp_path / "library"
    for i in range(60):
        (library / f"package_{i:02}").mkdir(parents=True)
        lines = [f'def f_{i}_{k}():\n    """Does {i} and {k}: {TEXTS[k % 6]}"""\n' for k in range(12)]
        (library / f"package_{i:02}" / "code.py").write_text("".join(lines))
    (library / "test").mkdir()
    (library / "test" / "test_f.py").write_text('"""Tests nobody reads."""\n')
    return library


def parts(folder):
    """{split: its docstrings}"""
    train, evaluation, where = Docstrings(folder=str(folder), heldout=0.3).documents(REFUSE)
    assert where == str(folder)
    return {"train": list(train), **{name: list(texts) for name, texts in evaluation.items()}}


def test_the_split_is_that_of_the_library(folder):
    found = parts(folder)
    _, heldout = sides(read_library(folder), 0.3)
    packages = {name: {int(text.split()[1]) for text in texts} for name, texts in found.items()}
    assert packages["heldout"] == {int(name[-2:]) for name in heldout}
    assert packages["train"] == set(range(60)) - packages["heldout"]
    assert sum(map(len, found.values())) == 60 * 12, "nothing is lost"


def check_no_leak(train, heldout):
    assert heldout and not set(train) & set(heldout)


def test_a_docstring_of_the_training_part_is_not_held_out(folder):
    packages = read_library(folder)
    _, heldout = sides(packages, 0.3)
    train = next(name for name in sorted(packages) if name not in (*heldout, "test"))
    copied = parts(folder)["heldout"][0]
    with open(folder / train / "code.py", "a") as file:
        file.write(f'def copied():\n    """{copied}"""\n')
    found = parts(folder)
    assert copied in found["train"]
    check_no_leak(found["train"], found["heldout"])
    with pytest.raises(AssertionError):  # sabotage: with what the recipe leaves out
        check_no_leak(found["train"], [*found["heldout"], copied])


def test_load(folder, cache):
    splits = Docstrings(folder=str(folder), heldout=0.3, length=32, vocabulary=150).load()
    assert set(splits.evaluation) == {"heldout"}
    place = pathlib.Path(splits.notes[-1].split(", ")[-1])
    tokenizer = Tokenizer.load(place)
    assert place.parent == cache / "lepjax" / "vocabularies" and splits.largest_token == tokenizer.size - 1 < 150
    text = tokenizer.decode(splits.train.tokens)
    assert "does 0 and 2 : return the size of files" in text and "nobody" not in text
    assert not (splits.train.tokens == tokenizer.unk).any()
    assert (splits.train.tokens == tokenizer.sep).sum() == len(parts(folder)["train"])
    again = Docstrings(folder=str(folder), heldout=0.3, length=32, vocabulary=150).load()
    assert again.train.digest == splits.train.digest
    given = Docstrings(folder=str(folder), heldout=0.3, length=32, tokenizer=str(place)).load()
    assert given.train.digest == splits.train.digest, "the folder that the note names is the same tokenizer"
    np.testing.assert_array_equal(given.evaluation["heldout"].tokens, splits.evaluation["heldout"].tokens)


def test_a_folder_without_python(tmp_path):
    with pytest.raises(UserError, match=r"no \.py files"):
        Docstrings(folder=str(tmp_path)).load()


# ---- word pieces ----


def test_special_tokens_first_then_characters_then_words():
    pieces = wordpiece.train(TEXTS, 60)
    assert pieces[:5] == wordpiece.SPECIAL and len(pieces) == len(set(pieces)) == 60
    letters = {letter for text in TEXTS for letter in text.lower() if letter != " "}
    assert letters <= set(pieces) and "##e" in pieces and "the" in pieces
    tokenizer = Tokenizer.load(wordpiece.stored(pieces))
    assert (tokenizer.pad, tokenizer.unk, tokenizer.cls, tokenizer.sep, tokenizer.mask) == (0, 1, 2, 3, 4)
    assert tokenizer.decode(tokenizer.encode(["The OWNER of rows"]).ids) == "the owner of rows"
    assert tokenizer.unk in tokenizer.encode(["%"]).ids


def test_a_stored_vocabulary_is_never_written_again(cache):
    folder = wordpiece.stored(["a", "b"])
    assert (folder / "vocab.txt").read_text() == "a\nb\n" and len(list(folder.iterdir())) == 1
    before = (folder / "vocab.txt").stat().st_mtime_ns
    assert wordpiece.stored(["a", "b"]) == folder != wordpiece.stored(["b", "a"])
    assert (folder / "vocab.txt").stat().st_mtime_ns == before


def test_where_nothing_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot be written .* Set XDG_CACHE_HOME"):
        wordpiece.stored(["a"])
    with pytest.raises(UserError, match=r"data\.vocabulary: 5 word pieces"):
        wordpiece.given_or_trained("", TEXTS, 5)


OURS = "from lepjax.data.wordpiece import train; print(*train(texts, 80))"
PLAIN = """
import tokenizers
t = tokenizers.BertWordPieceTokenizer()
t.train_from_iterator(texts, vocab_size=80, min_frequency=0, show_progress=False)
print(*sorted(t.get_vocab(), key=t.get_vocab().get))
"""


def trained_in_processes(code):
    """What fresh processes print, with one thread and with several."""
    source = f"texts = {TEXTS!r}\n{code}"
    running = []
    for threads in ("1", "1", "4"):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAYON_NUM_THREADS": threads}
        command = [sys.executable, "-c", source]
        running.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    return [process.communicate(timeout=60)[0] for process in running]


def test_the_vocabulary_is_the_same_in_every_process():
    first, *others = trained_in_processes(OURS)
    assert first.split() == list(wordpiece.train(TEXTS, 80))
    assert others == [first, first]


def test_sabotage_the_library_alone_numbers_them_at_random():
    assert len(set(trained_in_processes(PLAIN))) > 1
