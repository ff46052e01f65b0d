"""The standard library as a corpus, on a small library of our own: nothing leaks from train to held-out."""

import random

import numpy as np
import pytest

from lepjax.core.errors import UserError
from lepjax.data import stdlib
from lepjax.data.stdlib import StandardLibrary, groups, near_copies, read_library, split

WORDS = [f"{a}_{b}" for a in ("load", "parse", "send", "merge") for b in ("rows", "name", "socket", "tree", "bytes")]


def source(seed, lines=30):
    """Python-like text: long lines, no two files with a line in common."""
    rng = random.Random(seed)
    return "".join(f"    {rng.choice(WORDS)} = {rng.choice(WORDS)}({rng.random()!r})\n" for _ in range(lines)).encode()


PACKAGES = {f"package_{i:02}": [source(f"{i} {k}") for k in range(2)] for i in range(90)}
COPY = PACKAGES["package_07"][0].replace(b"load_", b"unload_", 1) + b"# and a line of its own\n"


def sides(packages, share=0.3):
    """{package: sides its files are on}, and both texts."""
    texts = dict(zip(("train", "heldout"), split(packages, share), strict=True))
    return {n: {s for s, text in texts.items() for f in files if f in text} for n, files in packages.items()}, texts


def test_the_split_is_by_package_and_loses_nothing():
    where, texts = sides(PACKAGES)
    assert all(len(s) == 1 for s in where.values()), "a package is on one side"
    assert 13 <= sum(s == {"heldout"} for s in where.values()) <= 41  # 27 of 90, and three standard deviations
    files = [file for package in PACKAGES.values() for file in package]
    assert sorted(sum((text.split(b"\0")[1:] for text in texts.values()), [])) == sorted(files)
    assert split(PACKAGES, 0.0)[1] == b""


def test_the_split_is_deterministic():
    shuffled = list(PACKAGES.items())
    random.Random(1).shuffle(shuffled)
    assert split(dict(shuffled), 0.3) == split(PACKAGES, 0.3)


def test_a_package_stays_on_its_side_when_another_is_added():
    before, _ = sides(PACKAGES)
    after, _ = sides({**PACKAGES, "newcomer": [source("new")]})
    assert {name: after[name] for name in before} == before


def check_copies_stay_together(share):
    """A near copy of package_07's file, in packages of many names: each must be where package_07 is."""
    seen = []
    for i in range(20):
        where, _ = sides({**PACKAGES, f"copy_{i}": [COPY]}, share)
        assert where[f"copy_{i}"] == where["package_07"]
        seen += where["package_07"]
    assert set(seen) == {"train", "heldout"}


def test_near_copies_stay_on_one_side(monkeypatch):
    check_copies_stay_together(0.3)
    monkeypatch.setattr(stdlib, "NEAR_COPY", 1.1)  # sabotage: nothing counts as a copy
    with pytest.raises(AssertionError):
        check_copies_stay_together(0.3)


def test_what_counts_as_a_near_copy():
    original = PACKAGES["package_07"][0]
    lines = original.splitlines(keepends=True)
    assert near_copies(PACKAGES) == set()
    for share, copied in [(0.4, False), (0.6, True)]:
        kept = b"".join(lines[: round(share * 30)]) + source("rest", lines=30 - round(share * 30))
        assert (near_copies({"a": [original], "b": [kept]}) == {("a", "b")}) is copied
    assert near_copies({"a": [original], "b": [source("long", 500) + original]}) == {("a", "b")}  # of the smaller file
    assert near_copies({"a": [original, original]}) == set()  # inside one package copies do no harm
    short = b"import os\n" * 30 + b"x = 1\n"
    assert near_copies({"a": [short], "b": [short]}) == set()


def test_groups_join_over_a_chain_of_copies():
    first, last = source("first"), source("last")
    packages = {"c": [first], "a": [first + last], "b": [last], "d": [source("other")]}
    assert groups(packages) == [["a", "b", "c"], ["d"]]


def test_large_packages_train():
    names = [name for name, where in sides(PACKAGES, 0.3)[0].items() if where == {"heldout"}]
    large = {**PACKAGES, names[0]: [source("large", 400)]}  # more than 2 % of the text
    where, _ = sides(large, 0.3)
    assert where.pop(names[0]) == {"train"}
    assert all(where[name] == {"heldout"} for name in names[1:])


@pytest.fixture
def folder(tmp_path):
    for name, files in PACKAGES.items():
        (tmp_path / name).mkdir()
        for k, file in enumerate(files):
            (tmp_path / name / f"file_{k}.py").write_bytes(file)
    (tmp_path / "module.py").write_bytes(b"zero = '\0'\n")  # a module is a package of one file; NUL is our boundary
    for path in ("site-packages/pip/a.py", "package_01/__pycache__/a.py", "dist-packages/b.py", "package_02/notes.txt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"third party")
    return tmp_path


def test_only_the_library_itself_is_read(folder):
    packages = read_library(folder)
    assert packages == {**PACKAGES, "module": [b"zero = ''\n"]}


def test_load(folder):
    splits = StandardLibrary(folder=str(folder), heldout=0.3, length=64).load()
    heldout = splits.evaluation["heldout"]
    texts = [bytes(source.tokens) for source in (splits.train, heldout)]
    assert texts == list(split(read_library(folder), 0.3)) and all(texts)
    assert b"third party" not in b"".join(texts)
    assert splits.train.shift and not heldout.shift and splits.vocabulary.size == 256
    again = StandardLibrary(folder=str(folder), heldout=0.3, length=64).load()
    assert (again.train.digest, again.evaluation["heldout"].digest) == (splits.train.digest, heldout.digest)
    (folder / "package_03" / "file_0.py").write_bytes(source("edited"))
    edited = StandardLibrary(folder=str(folder), heldout=0.3, length=64).load()
    assert (edited.train.digest, edited.evaluation["heldout"].digest) != (splits.train.digest, heldout.digest)


def test_a_folder_without_python(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match=f"{folder}: no .py files. Pass --data.folder"):
            StandardLibrary(folder=str(folder)).load()


@pytest.mark.full
def test_the_running_interpreters_own_library():
    splits = StandardLibrary().load()
    train, heldout = len(splits.train.tokens), len(splits.evaluation["heldout"].tokens)
    assert train > 5_000_000 and 0.01 < heldout / train < 0.15
    assert np.array_equal(splits.train.tokens[:1], [0])
