"""What a run took from outside: which folder, and which commit of it."""

from __future__ import annotations

from typing import Any

from lepjax.core import fields, hub
from lepjax.data.source import Splits
from lepjax.experiment import Experiment

NAMED = ("pretrained", "tokenizer")  # fields that `hub.folder` resolves


def sources(experiment: Experiment, splits: Splits) -> dict[str, Any]:
    """{field: {name, folder, commit}} of what has a name in the experiment, and what the data says of itself.

    The commit is None where the folder does not tell it.
    """
    found: dict[str, Any] = {"data": list(splits.notes)}
    for path, _, value in fields.walk(experiment):
        if path.rpartition(".")[2] in NAMED and isinstance(value, str) and value:
            folder = hub.located(value)
            commit = hub.commit(folder) if folder is not None else None
            found[path] = {"name": value, "folder": str(folder.resolve()) if folder else None, "commit": commit}
    return found
