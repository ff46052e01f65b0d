"""Python's own standard library as a corpus: some 20 to 30 MB of real text on every machine that runs lepjax.

Train and held-out are split by top-level package, so that no file has a sibling on the other side, and packages that hold
near copies of each other's files stay together.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import pathlib
import sysconfig

import numpy as np

from lepjax.core.errors import UserError
from lepjax.data.source import Data, Splits
from lepjax.data.tokens import TokenWindows
from lepjax.data.vocabulary import Bytes

BOUNDARY = b"\0"  # stands before every file; Python source cannot hold it
NEAR_COPY = 0.5  # share of the smaller file's distinct lines that two files have in common
COMMON_LINE = 50  # a line in more files than this (a licence, an import) says nothing about copying
LARGE_PACKAGE = 0.02  # a package with more of the text than this always trains: `test` alone is half of it


@dataclasses.dataclass(frozen=True)
class StandardLibrary(Data):
    """The .py files of the running Python's standard library, byte by byte."""

    length: int = 128
    """Bytes per training window."""
    heldout: float = 0.08
    """Share of the packages that is held out (by a hash of their names)."""
    folder: str = ""
    """Where the library lies; empty: the running interpreter's own."""

    def load(self) -> Splits:
        folder = pathlib.Path(self.folder or sysconfig.get_paths()["stdlib"])
        texts = split(read_library(folder), self.heldout)
        train, heldout = (np.frombuffer(text, np.uint8) for text in texts)
        return Splits(
            train=TokenWindows(train, self.length, shift=True, where=str(folder)),
            evaluation={"heldout": TokenWindows(heldout, self.length, shift=False, where=f"{folder} (held out)")},
            vocabulary=Bytes(),
        )


def read_library(folder: pathlib.Path) -> dict[str, list[bytes]]:
    """{top-level package: its files' bytes}, sorted by path. Third-party packages and caches are left out."""
    packages: dict[str, list[bytes]] = collections.defaultdict(list)
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).parts
        if {"site-packages", "dist-packages", "__pycache__"} & set(parts) or not path.is_file():
            continue
        packages[parts[0].removesuffix(".py")].append(path.read_bytes().replace(b"\0", b""))
    if not packages:
        raise UserError("no .py files", where=str(folder), fix="Pass --data.folder with a folder of Python source.")
    return dict(packages)


def split(packages: dict[str, list[bytes]], share: float) -> tuple[bytes, bytes]:
    """(train, held-out) text. Deterministic in the packages' names and contents."""
    train, heldout = (
        b"".join(BOUNDARY + file for name in names for file in packages[name]) for names in sides(packages, share)
    )
    return train, heldout


def sides(packages: dict[str, list[bytes]], share: float) -> tuple[list[str], list[str]]:
    """Names of the packages that train, and of those that are held out."""
    sizes = {name: sum(map(len, files)) for name, files in packages.items()}
    largest = LARGE_PACKAGE * sum(sizes.values())
    train: list[str] = []
    heldout: list[str] = []
    for group in groups(packages):
        drawn = int.from_bytes(hashlib.sha256(group[0].encode()).digest()[:8], "big") / 2**64
        side = heldout if drawn < share and sum(sizes[name] for name in group) <= largest else train
        side.extend(group)
    return train, heldout


def groups(packages: dict[str, list[bytes]]) -> list[list[str]]:
    """Packages joined where one holds a near copy of a file of the other; each group sorted, groups by first name."""
    parent = {name: name for name in packages}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for a, b in near_copies(packages):
        first, second = sorted((root(a), root(b)))
        parent[second] = first
    joined: dict[str, list[str]] = collections.defaultdict(list)
    for name in sorted(packages):
        joined[root(name)].append(name)
    return [joined[name] for name in sorted(joined)]


def near_copies(packages: dict[str, list[bytes]]) -> set[tuple[str, str]]:
    """Pairs of packages that share at least `NEAR_COPY` of some file's distinct lines."""
    owners: dict[bytes, list[int]] = collections.defaultdict(list)
    names: list[str] = []
    distinct: list[int] = []
    for name, files in packages.items():
        for file in files:
            lines = {line.strip() for line in file.splitlines() if len(line) > 20}
            for line in lines:
                owners[line].append(len(names))
            names.append(name)
            distinct.append(len(lines))
    shared: collections.Counter[tuple[int, int]] = collections.Counter()
    for holders in owners.values():
        if 1 < len(holders) <= COMMON_LINE:
            shared.update((a, b) for a, b in itertools.combinations(holders, 2) if names[a] != names[b])
    return {
        (names[a], names[b])
        for (a, b), count in shared.items()
        if count >= 10 and count >= NEAR_COPY * min(distinct[a], distinct[b])
    }
