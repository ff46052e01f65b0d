"""Records that cannot be used: refused at once, or set aside, counted and told."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from lepjax.core.errors import UserError

SHOWN = 200  # characters of a bad record that are kept


@dataclasses.dataclass(frozen=True)
class Quarantined:
    """A record that was set aside."""

    file: str
    unit: str
    """What `number` counts, from 1: `line`, `row` or `record`."""
    number: int
    offset: int | None
    """Bytes of the (unpacked) file before the record's first line, where it is known."""
    reason: str
    raw: str
    """The start of the record as it stands there."""

    @property
    def place(self) -> str:
        return f"{self.file} {self.unit} {self.number}"

    def to_json(self) -> dict[str, Any]:
        where = {"file": self.file, self.unit: self.number, "offset": self.offset}
        return {**where, "reason": self.reason, "raw": self.raw}


class Sieve:
    """Readers hand it every record that they cannot use. This one refuses the first."""

    @property
    def dropped(self) -> tuple[Quarantined, ...]:
        return ()

    def drop(self, error: UserError, place: str, raw: str, offset: int | None = None) -> None:
        """place: `data/train.tsv line 812`. Returns where the reader may go on with the next record."""
        raise error


REFUSE = Sieve()


class Skipping(Sieve):
    """Sets up to `most` records aside, over all files of a data set."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._dropped: list[Quarantined] = []

    @property
    def dropped(self) -> tuple[Quarantined, ...]:
        return tuple(self._dropped)

    def drop(self, error: UserError, place: str, raw: str, offset: int | None = None) -> None:
        where, _, number = place.rpartition(" ")
        file, _, unit = where.rpartition(" ")
        raw = raw[:SHOWN].encode("utf-8", "backslashreplace").decode()  # bytes that are not UTF-8 as \\udc80 to \\udcff
        self._dropped.append(Quarantined(file, unit, int(number), offset, error.found, raw))
        if len(self._dropped) > self.most:
            first = self._dropped[0]
            raise UserError(
                f"{first.reason}; with it {len(self._dropped)} records up to {place} cannot be used, "
                f"{self.most} may be skipped",
                where=first.place,
                fix="Mend the files, or raise --data.bad-records.most.",
            )


@dataclasses.dataclass(frozen=True)
class BadRecords:
    """What becomes of records that cannot be used. It decides between an error and going on, never what is a good record."""

    def sieve(self) -> Sieve:
        """A fresh one, for all files of a data set."""
        raise TypeError(f"{type(self).__name__} must define sieve")


@dataclasses.dataclass(frozen=True)
class Refuse(BadRecords):
    """The first is an error that names file and line."""

    def sieve(self) -> Sieve:
        return REFUSE


@dataclasses.dataclass(frozen=True)
class Skip(BadRecords):
    """They are left out, counted, and listed in the run's quarantine.jsonl."""

    most: int = 100
    """Records that may be skipped, over all splits; one more is an error."""

    def __post_init__(self) -> None:
        if self.most < 0:
            raise UserError(f"{self.most}", where="data.bad_records.most", fix="Use 0 or more.")

    def sieve(self) -> Sieve:
        return Skipping(self.most)


def told(dropped: Sequence[Quarantined]) -> tuple[str, ...]:
    """One line for people; none where no record was set aside."""
    if not dropped:
        return ()
    count = f"{len(dropped):,} record{'s' * (len(dropped) > 1)}"
    first = dropped[0]
    return (
        f"skipped {count} that cannot be used, the first at {first.place}: {first.reason} (all in quarantine.jsonl)",
    )
