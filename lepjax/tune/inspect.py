"""What a folder of labelled text holds, found out before anything is trained: each finding with its evidence."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import unicodedata
from collections.abc import Sequence

import numpy as np

from lepjax.core.errors import UserError, nearest
from lepjax.data import fetch
from lepjax.data.datasets import Dataset
from lepjax.data.heldout import HELD_OUT, cut, keys, sorted_out
from lepjax.data.quarantine import REFUSE

TASKS = ("classification",)
IMBALANCED = 3.0
"""From so many times as many records in the largest class as in the smallest, classes count as unbalanced."""
HELD_SHARE = 0.2
"""Of a file that comes without a split to score on."""
SAMPLED = 2_000_000
"""Characters of which the scripts are told."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was found. `warning`: the person who owns the data should look at it."""

    what: str
    found: str
    warning: bool = False

    def __str__(self) -> str:
        return f"{self.what:<10} {'! ' if self.warning else ''}{self.found}"


@dataclasses.dataclass(frozen=True)
class Inspection:
    """A folder, and what is known of it. `held`: what is scored at the end, `dev` or `test`."""

    path: str
    """What `data.heldout.FolderText` reads: the folder, or its one file."""
    train: Dataset
    held: dict[str, Dataset]
    held_out: float
    """Share of the training records that was cut off to be scored; 0: the folder has such a split."""
    counts: tuple[int, ...]
    """Training records of each class."""
    scripts: dict[str, float]
    """Share of the letters, the commonest script first."""
    findings: tuple[Finding, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return self.train.labels

    @property
    def imbalance(self) -> float:
        """Records of the largest class for one of the smallest."""
        return max(self.counts) / max(min(self.counts), 1)

    @property
    def pairs(self) -> list[str] | None:
        return self.train.columns.get("text_pair")


def inspect(folder: str, task: str = "classification") -> Inspection:
    """Reads all splits. Raises `UserError` in one line for a folder that cannot be fine-tuned on."""
    if task not in TASKS:
        raise UserError(f"no automatic recipe for {task!r}", where="--task", fix=nearest(task, TASKS))
    path = one_path(folder)
    found, without = sorted_out(path, REFUSE)
    train = found.get("train")
    if train is None:
        fix = "Name a file after it (train.tsv), with a column of labels."
        raise UserError("no labelled training split", where=path, fix=fix)
    check_classes(train)
    held = {
        ("dev" if split == "validation" else split): d for split, d in found.items() if split in ("validation", "test")
    }
    for data in held.values():
        data.label_ids()  # a label that training never sees is told with its line
    share = 0.0
    if not held:
        share = HELD_SHARE
        train, held["dev"] = cut(train, share, HELD_OUT)
    counts = tuple(int(n) for n in np.bincount(train.label_ids(), minlength=len(train.labels)))
    shares = scripts(_texts(train))
    findings = (
        *_rows(train, held, share),
        *(_left_out(data) for data in without.values()),
        *_classes(train, counts),
        _scripts(shares),
        *_repeated(train),
        *(finding for name, data in held.items() for finding in _leaked(train, name, data)),
    )
    return Inspection(path, train, held, share, counts, shares, findings)


def one_path(folder: str) -> str:
    """The folder, or where its only table is not named after a split, that file. Raises `UserError` where there is none."""
    path = pathlib.Path(folder).expanduser()
    if not path.exists():
        raise UserError("no such folder", where=str(path), fix="Name a folder with train.tsv, or a file.")
    if path.is_file():
        return str(path)
    tables = fetch.files_in(path)
    files = [file for own in tables.values() for file in own]
    if not files:
        suffixes = ", ".join(fetch.SUFFIXES)
        raise UserError("holds no table", where=str(path), fix=f"Put train and dev files there ({suffixes}, or .gz).")
    return str(files[0]) if len(files) == 1 and not set(tables) & set(fetch.SPLITS) else str(path)


def check_classes(train: Dataset) -> None:
    """Raises `UserError` for what is no classification."""
    where = f"{train.name} train"
    if all(label in (None, "") for label in train.columns.get("label", ("words",))):
        raise UserError("the column of labels is empty", where=where, fix="Write the class of each text into it.")
    if train.kind != "classification":
        other = {"regression": "labels are numbers with a fraction", "tagging": "words are tagged"}
        fix = "autotune classifies texts; for this write an experiment, as those in experiments/ are."
        raise UserError(f"{other.get(train.kind, train.kind)}: a task of {train.kind}", where=where, fix=fix)
    classes, rows = len(set(train.label_ids().tolist())), len(train)
    if classes < 2:
        raise UserError(f"all labels are {train.labels[0]!r}", where=where, fix="There must be two classes at least.")
    if classes > rows / 2:
        found = f"{classes:,} different labels in {rows:,} rows"
        raise UserError(found, where=where, fix="Classes need several rows each: is the right column named label?")


def _rows(train: Dataset, held: dict[str, Dataset], share: float) -> list[Finding]:
    parts = [f"{name} {len(data):,}" for name, data in {"train": train, **held}.items()]
    cut_off = f"; dev is {share:.0%} of one file, class by class" if share else ""
    kind = "pairs of texts" if "text_pair" in train.columns else "single texts"
    columns = ", ".join(train.columns)
    return [
        Finding("task", f"classification of {kind} (columns {columns})"),
        Finding("rows", ", ".join(parts) + cut_off),
    ]


def _left_out(data: Dataset) -> Finding:
    what = "all its labels are empty or -1" if "label" in data.columns else "it has no column of labels"
    return Finding("unlabelled", f"the {len(data):,} rows of {data.split} are left out: {what}")


def _classes(train: Dataset, counts: Sequence[int]) -> list[Finding]:
    order = np.argsort([-count for count in counts], kind="stable")
    shown = ", ".join(f"{train.labels[i]} {counts[i]:,}" for i in order[:12])
    more = f", ... ({len(counts)} classes)" if len(counts) > 12 else ""
    ratio = max(counts) / max(min(counts), 1)
    majority = max(counts) / sum(counts)
    found = f"{len(counts)}: {shown}{more}; always saying the commonest is right in {majority:.1%}"
    findings = [Finding("classes", found)]
    if ratio >= IMBALANCED:
        findings.append(Finding("imbalance", f"the largest class has {ratio:.1f} times the rows of the smallest", True))
    return findings


def scripts(texts: Sequence[str]) -> dict[str, float]:
    """Share of the letters by script, as Unicode names them (LATIN, CJK, CYRILLIC, ...), the commonest first."""
    letters: collections.Counter[str] = collections.Counter()
    seen = 0
    for text in texts:
        letters.update(text)
        seen += len(text)
        if seen > SAMPLED:
            break
    counts: collections.Counter[str] = collections.Counter()
    for letter, count in letters.items():
        if letter.isalpha():
            counts[unicodedata.name(letter, "UNKNOWN").partition(" ")[0]] += count
    total = max(sum(counts.values()), 1)
    return {script: count / total for script, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))}


LANGUAGES = {
    "LATIN": "a language in Latin letters",
    "CJK": "Chinese",
    "HANGUL": "Korean",
    "CYRILLIC": "a language in Cyrillic letters",
    "ARABIC": "a language in Arabic letters",
}


def language(shares: dict[str, float]) -> str:
    """A guess from the scripts alone: kana beside Chinese characters is Japanese."""
    if not shares:
        return "no letters at all"
    if shares.get("HIRAGANA", 0.0) + shares.get("KATAKANA", 0.0) > 0.1:
        return "Japanese"
    first = next(iter(shares))
    return LANGUAGES.get(first, f"a language in {first.capitalize()} letters")


def _scripts(shares: dict[str, float]) -> Finding:
    parts = ", ".join(f"{script.capitalize()} {share:.1%}" for script, share in list(shares.items())[:3])
    return Finding("language", f"{language(shares)} (letters: {parts or 'none'})", not shares)


def _texts(data: Dataset) -> list[str]:
    return [*data.columns["text"], *data.columns.get("text_pair", ())]


def _repeated(train: Dataset) -> list[Finding]:
    by_key: dict[str, set[int]] = collections.defaultdict(set)
    names = keys(train)
    for key, label in zip(names, train.label_ids(), strict=True):
        by_key[key].add(int(label))
    findings = []
    if len(by_key) < len(names):
        findings.append(Finding("repeated", f"{len(names) - len(by_key):,} training rows repeat the text of another"))
    disputed = [key for key, labels in by_key.items() if len(labels) > 1]
    if disputed:
        row = names.index(disputed[0])
        found = f"{len(disputed):,} texts have two labels, such as {train.where(row)}"
        findings.append(Finding("disputed", found, True))
    if blank := sum(not key.strip() for key in names):
        findings.append(Finding("blank", f"{blank:,} training rows have no text", True))
    return findings


def _leaked(train: Dataset, name: str, data: Dataset) -> list[Finding]:
    known = set(keys(train))
    rows = [row for row, key in enumerate(keys(data)) if key in known]
    if not rows:
        return [Finding("leakage", f"none of the {len(data):,} texts of {name} is a training text")]
    share = len(rows) / len(data)
    found = f"{len(rows):,} of the {len(data):,} texts of {name} ({share:.1%}) are training texts"
    return [Finding("leakage", f"{found}, such as {data.where(rows[0])}: its score is too good by what they add", True)]
