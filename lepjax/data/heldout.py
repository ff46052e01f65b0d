"""A folder of labelled text whose held-out parts are cut from its training split, class by class."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np

from lepjax.core.errors import UserError
from lepjax.data import datasets
from lepjax.data.datasets import Dataset
from lepjax.data.labelled import TextData
from lepjax.data.plan import permuted
from lepjax.data.quarantine import Sieve

SPLITS = {"validation": "dev", "test": "test"}
NONE = (None, "", "-1", -1.0)
"""How a column of labels says that a record has none."""
HELD_OUT, TUNE = 0, 1  # seeds of the two cuts


@dataclasses.dataclass(frozen=True)
class FolderText(TextData):
    """A folder or file of labelled texts. Whoever searches sees a slice of the training split (`tune`) and nothing else;
    whoever trains the winner sets `tune` to 0, trains on all of it, and scores `dev` and `test`, those that there are.
    """

    dataset: str = ""
    """A folder or file of TSV, CSV, JSONL, JSON or Parquet files."""
    held_out: float = 0.0
    """Share of the training split that is `dev`, where the folder has no other split."""
    tune: float = 0.0
    """Share of what is left that is set aside to choose by (`tune`); 0: none, and the held-out splits are scored."""

    def parts(self, sieve: Sieve) -> tuple[Dataset, dict[str, Dataset], dict[str, Dataset]]:
        found = labelled(self.dataset, sieve)
        train = found["train"].usable(sieve)
        scored = {SPLITS[split]: data for split, data in found.items() if split in SPLITS}
        if self.held_out:
            train, scored["dev"] = cut(train, self.held_out, HELD_OUT)
        if self.tune:
            train, chosen = cut(train, self.tune, TUNE)
            return train, {"tune": chosen}, {}
        return train, scored, {}


def labelled(path: str, sieve: Sieve) -> dict[str, Dataset]:
    """{split: data set} of a path, without the splits that have no labels."""
    return sorted_out(path, sieve)[0]


def sorted_out(path: str, sieve: Sieve) -> tuple[dict[str, Dataset], dict[str, Dataset]]:
    """({split: data set} with labels, the same without) of a path."""
    found = datasets.load(path, say=lambda line: None, sieve=sieve)
    without = {split: data for split, data in found.items() if not _has_labels(data)}
    return {split: data for split, data in found.items() if split not in without}, without


def _has_labels(data: Dataset) -> bool:
    """Whether there is a column of them that says something. Tests whose labels are secret are exported with none in it, or
    with -1 in every row; a training split is taken by its word, and so is a -1 that it has too.
    """
    if "label" not in data.columns:
        return "tags" in data.columns
    says = (label not in NONE or str(label) in data.labels for label in data.columns["label"])
    return data.split == "train" or any(says)


def keys(data: Dataset) -> list[str]:
    """Equal for records that a person would call the same text: case and spaces do not count."""
    parts = [data.columns[name] for name in ("text", "text_pair") if name in data.columns]
    return ["\t".join(" ".join(text.casefold().split()) for text in texts) for texts in zip(*parts, strict=True)]


def cut(data: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """(rest, slice): about `share` of every class, at least one record on each side where there are two different ones.

    Records with the same text stay together: one on each side would be a leak. A function of share, seed and data.
    """
    if not 0.0 < share < 1.0:
        raise UserError(f"a share of {share}", where=f"{data.name} {data.split}", fix="Use one between 0 and 1.")
    same: dict[str, list[int]] = collections.defaultdict(list)
    for row, key in enumerate(keys(data)):
        same[key].append(row)
    labels, groups = data.label_ids(), list(same.values())
    by_class: dict[int, list[list[int]]] = collections.defaultdict(list)
    for index in permuted(len(groups), seed, 0, np.arange(len(groups))):
        by_class[int(labels[groups[index][0]])].append(groups[index])
    taken: list[int] = []
    for own in by_class.values():
        wanted, count = share * sum(map(len, own)), 0
        for group in own[: len(own) - 1]:  # one of them stays
            if count and count + len(group) / 2 > wanted:
                break
            taken += group
            count += len(group)
    if not taken:
        raise UserError("too few different records to cut", where=f"{data.name} {data.split}", fix="Add records.")
    chosen = np.isin(np.arange(len(data)), taken)
    return data.select(np.flatnonzero(~chosen)), data.select(np.flatnonzero(chosen))
