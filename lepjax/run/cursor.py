"""Which batch a step reads."""

from __future__ import annotations

import pathlib

from lepjax.core.errors import UserError
from lepjax.run import files

SKIPPED = "skipped_ranges.json"


def cursor_of(directory: pathlib.Path, step: int) -> int:
    """Batch `step`, unless the run has skipped data: [[s, c], ...] says that from step s on, step t reads c + (t - s).

    Of the entries that are not after `step` the last in the list counts: a run appends one whenever it skips. Raises
    `UserError` where the file holds something else.
    """
    file = directory / SKIPPED
    ranges = files.read_json(file) if file.exists() else []
    pairs = isinstance(ranges, list) and all(isinstance(one, list) and len(one) == 2 for one in ranges)
    if not pairs or not all(type(number) is int and number >= 0 for one in ranges for number in one):
        raise UserError("is no list of [step, cursor]", where=str(file))
    begun, cursor = next((one for one in reversed(ranges) if one[0] <= step), (0, 0))
    return cursor + step - begun
