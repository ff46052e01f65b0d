"""Which batch a step reads."""

from __future__ import annotations

import pathlib

from lepjax.core.errors import UserError
from lepjax.run import files

SKIPPED = "skipped_ranges.json"
Jumps = list[tuple[int, int]]  # (step, cursor), oldest first: from this step on, batch = cursor + (t - step)


def cursor_after(jumps: Jumps, step: int) -> int:
    """The next batch of the plan after `step` steps. Of the jumps that are not after it the newest counts."""
    begun, cursor = next((jump for jump in reversed(jumps) if jump[0] <= step), (0, 0))
    return cursor + step - begun


def read_jumps(run: pathlib.Path) -> Jumps:
    """Where a run passed over batches; for most runs nowhere. Raises `UserError` where the file holds something else."""
    file = run / SKIPPED
    found = files.read_json(file) if file.exists() else []
    pairs = isinstance(found, list) and all(isinstance(one, list) and len(one) == 2 for one in found)
    if not pairs or not all(type(number) is int and number >= 0 for one in found for number in one):
        raise UserError("is no list of [step, cursor]", where=str(file))
    return [(step, cursor) for step, cursor in found]
