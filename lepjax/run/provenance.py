"""Which records a batch holds, for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from lepjax.data.source import Shown, Source, Splits
from lepjax.experiment import Planned

WIDTH = 100  # characters of a text that are shown


def rows_of(order: Planned, splits: Splits, cursor: int) -> Iterator[str]:
    """A line per record of batch `cursor`: its row (packed: and slot), id, epoch, origin, label and text."""
    ids, epochs = order.plan.batch(cursor)
    for place in np.ndindex(ids.shape):
        record, epoch = int(ids[place]), int(epochs[place])
        row = f"row {place[0]}" + (f" slot {place[1]}" if ids.ndim == 2 else "")
        if record >= 0:
            shown = of_record(order.source, record, epoch)
            told = [row, f"record {record}", f"epoch {epoch}", shown.where, labelled(shown.label, splits.labels)]
            yield "  ".join([*filter(None, told), f'"{shortened(text_of(shown, splits))}"'])
        elif ids.ndim == 1:
            yield f"{row}  padding"


def of_record(source: Source, record: int, epoch: int) -> Shown:
    """What the source says of a record, or the tokens of its row."""
    if hasattr(source, "shown"):
        return source.shown(record, epoch)
    rows = source.rows(np.array([record]), np.array([epoch]))
    return Shown(tokens=rows["tokens"][0] if "tokens" in rows else None, label=rows.get("label", [None])[0])


def text_of(shown: Shown, splits: Splits) -> str:
    """The text, or the tokens, decoded where there is a vocabulary."""
    if shown.text or shown.tokens is None:
        return shown.text
    if splits.vocabulary is not None:
        return splits.vocabulary.decode(shown.tokens)
    return " ".join(map(str, shown.tokens))


def labelled(label: Any, names: tuple[str, ...]) -> str:
    """Names in place of class ids."""
    if label is None or isinstance(label, str):
        return label or ""
    values = np.atleast_1d(label)
    classes = bool(names) and np.issubdtype(values.dtype, np.integer)
    return " ".join(names[value] if classes and 0 <= value < len(names) else f"{value:g}" for value in values)


def shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"
