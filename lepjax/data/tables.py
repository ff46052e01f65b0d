"""Tables in files: TSV, CSV, JSON lines, JSON and Parquet, with the place of every row kept for error messages."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from lepjax.core.errors import UserError
from lepjax.data.contents import Contents, contents
from lepjax.data.quarantine import REFUSE, Sieve

Record = tuple[int, str, list[str]]  # line on which a row begins, the row as it stands there, its cells
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # JSON can spell half a character, which no UTF-8 text can hold


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where each row came from: row i is number `at[i]` of `files[of[i]]` (`data/train.tsv line`). int64[rows] both."""

    files: tuple[str, ...]
    of: np.ndarray
    at: np.ndarray

    @staticmethod
    def single(name: str, at: Sequence[int] | np.ndarray) -> Origin:
        return Origin((name,), np.zeros(len(at), np.int64), np.asarray(at, np.int64))

    def __call__(self, row: int) -> str:
        return f"{self.files[self.of[row]]} {self.at[row]}"

    @property
    def file(self) -> str:
        """The first file."""
        return self.files[0].rpartition(" ")[0]

    def select(self, rows: Sequence[int] | np.ndarray) -> Origin:
        rows = np.asarray(rows, np.int64)
        return Origin(self.files, self.of[rows], self.at[rows])


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns of equal length."""

    columns: dict[str, list[Any]]
    origin: Origin

    def __len__(self) -> int:
        return len(self.origin.at)

    def screened(self, check: Callable[[int], None], sieve: Sieve) -> Table:
        """The rows for which `check` raises no `UserError`; the others go to the sieve."""
        bad: set[int] = set()
        for row in range(len(self)):
            try:
                check(row)
            except UserError as error:
                written = {name: column[row] for name, column in self.columns.items()}
                sieve.drop(error, self.origin(row), json.dumps(written, ensure_ascii=False, default=str))
                bad.add(row)
        if not bad:
            return self
        if len(bad) == len(self):
            raise UserError("no row is left", where=self.origin.file)
        rows = [row for row in range(len(self)) if row not in bad]
        columns = {name: [column[row] for row in rows] for name, column in self.columns.items()}
        return Table(columns, self.origin.select(rows))


def read_table(path: str | os.PathLike[str]) -> dict[str, list[Any]]:
    """{column: values} of a .tsv, .csv, .jsonl, .json (each also .gz) or .parquet file.

    TSV and CSV hold strings; TSV knows no quoting, as in GLUE's files, CSV follows RFC 4180. JSON and Parquet values are as
    they are. Raises `UserError` naming file and line for what is empty, damaged, not UTF-8, or has rows that do not fit.
    """
    return read(path).columns


def read(path: str | os.PathLike[str], sieve: Sieve = REFUSE) -> Table:
    """`read_table`, with the origin of each row. Rows that do not fit go to the sieve."""
    file = existing(path)
    suffix = suffix_of(file)
    if suffix == ".parquet":
        return _parquet(file)
    if suffix not in READERS:
        fix = f"Use one of {', '.join([*READERS, '.parquet'])}; all but Parquet may be packed as .gz."
        raise UserError("is no table", where=str(file), fix=fix)
    return READERS[suffix](contents(file), sieve)


def existing(path: str | os.PathLike[str]) -> pathlib.Path:
    """The file at `path`, whose environment variables are expanded."""
    file = pathlib.Path(os.path.expandvars(path)).expanduser()
    if not file.is_file():
        raise UserError("no such file", where=str(file))
    return file


def suffix_of(file: pathlib.Path) -> str:
    """The suffix that tells the format: `.tsv` for train.tsv and train.tsv.gz."""
    return pathlib.Path(file.name.lower().removesuffix(".gz")).suffix


def _tsv(file: Contents, sieve: Sieve) -> Table:
    fix = "TSV has no quoting: replace tabs and line breaks inside a text by spaces."
    lines = file.lines
    names = _header(file, lines[0], lines[0].split("\t"))
    rows = ((number, line, line.split("\t")) for number, line in enumerate(lines[1:], 2))
    return _rows(file, names, rows, fix, sieve)


def _csv(file: Contents, sieve: Sieve) -> Table:
    csv.field_size_limit(2**31 - 1)  # a document may be longer than csv's 128 KiB
    rows = _csv_rows(file, sieve)
    _, first, header = next(rows)
    names = _header(file, first, header)
    return _rows(file, names, rows, "Quote texts that hold commas or line breaks.", sieve)


def _csv_rows(file: Contents, sieve: Sieve) -> Iterator[Record]:
    """After a row that is no CSV the next line is tried: a quote that nobody closes must not swallow the file."""
    lines = file.physical
    at = 0
    while at < len(lines):
        reader = csv.reader(map(lines.__getitem__, range(at, len(lines))), strict=True)
        begin = at
        try:
            for row in reader:
                end = at + reader.line_num
                yield begin + 1, "".join(lines[begin:end]), row
                begin = end
            return
        except csv.Error as error:
            found = UserError(f"is no CSV ({error})", where=file.line(begin + 1), fix="Quote it as RFC 4180.")
            if not begin:
                raise found from error  # without a header there is no table
            file.drop(sieve, found, begin + 1, lines[begin])
        at = begin + 1


def _header(file: Contents, line: str, names: list[str]) -> list[str]:
    where = file.line(1)
    fix = "The first line names the columns."
    if error := file.damage(1, line):
        raise error
    for number, name in enumerate(names or [""], 1):
        if not name.strip() or NUMBER.fullmatch(name):
            raise UserError(f"{name!r} in column {number} is no column's name", where=where, fix=fix)
        if name in names[: number - 1]:
            raise UserError(f"two columns are named {name!r}", where=where, fix=fix)
    return names


def _rows(file: Contents, names: list[str], rows: Iterable[Record], fix: str, sieve: Sieve) -> Table:
    kept: list[list[str]] = []
    at: list[int] = []
    for number, raw, row in rows:
        error = file.damage(number, raw)
        if error is None and len(row) != len(names):
            found = f"{len(row)} instead of {len(names)} columns ({', '.join(names)})"
            error = UserError(found, where=file.line(number), fix=fix)
        if error is None:
            kept.append(row)
            at.append(number)
        else:
            file.drop(sieve, error, number, raw)
    if not kept:
        raise UserError("there is a header and no row", where=str(file.path))
    columns = dict(zip(names, map(list, zip(*kept, strict=True)), strict=True))
    return Table(columns, Origin.single(f"{file.path} line", at))


def _json_lines(file: Contents, sieve: Sieve) -> Table:
    def objects() -> Iterator[tuple[int, str, Any]]:
        for number, line in enumerate(file.lines, 1):
            try:
                if error := file.damage(number, line):
                    raise error
                found = _parsed(line, file.line(number))
            except UserError as bad:
                file.drop(sieve, bad, number, line)
            else:
                yield number, line, found

    return _objects(file, objects(), "line", sieve)


def _parsed(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"is no JSON ({error})", where=where) from error


def _json(file: Contents, sieve: Sieve) -> Table:
    try:
        found = json.loads(file.text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # many a .json file holds JSON lines
            return _json_lines(file, sieve)
        raise UserError(f"is no JSON ({error.msg})", where=file.line(error.lineno)) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"is no JSON ({error})", where=str(file.path)) from error
    if damage := file.first_damage():
        raise damage
    rows = found.get("data") if isinstance(found, dict) else found  # as SQuAD has it
    if not isinstance(rows, list):
        raise UserError("neither a list of objects nor an object with such a list as 'data'", where=str(file.path))
    return _objects(file, ((number, "", row) for number, row in enumerate(rows, 1)), "row", sieve)


def _objects(file: Contents, objects: Iterable[tuple[int, str, Any]], unit: str, sieve: Sieve) -> Table:
    halves = SURROGATE.search(file.text) is not None
    names: dict[str, None] = {}
    kept: list[dict[str, Any]] = []
    at: list[int] = []
    for number, raw, found in objects:
        where = f"{file.path} {unit} {number}"
        if isinstance(found, dict) and not names:
            names = dict.fromkeys(found)
        misfit = _misfit(found, names, halves, where)
        if misfit is None:
            kept.append(found)
            at.append(number)
        elif unit == "line":
            file.drop(sieve, misfit, number, raw)
        else:
            sieve.drop(misfit, where, json.dumps(found))
    if not kept:
        raise UserError("there is no row", where=str(file.path))
    columns = {name: [found[name] for found in kept] for name in names}
    return Table(columns, Origin.single(f"{file.path} {unit}", at))


def _misfit(found: Any, names: dict[str, None], halves: bool, where: str) -> UserError | None:
    """Why this is no row with these columns."""
    if not isinstance(found, dict):
        return UserError(f"a JSON {type(found).__name__} instead of an object", where=where)
    if found.keys() != names.keys():
        missing, extra = sorted(names.keys() - found.keys()), sorted(found.keys() - names.keys())
        told = [f"{kind} {', '.join(keys)}" for kind, keys in (("lacks", missing), ("adds", extra)) if keys]
        return UserError(f"unlike the first row it {' and '.join(told)}", where=where)
    if halves and any("\ud800" <= character <= "\udfff" for character in json.dumps(found, ensure_ascii=False)):
        return UserError("half a character (a lone surrogate)", where=where)
    return None


def _parquet(file: pathlib.Path) -> Table:
    import pyarrow as pa
    from pyarrow import parquet

    if not file.stat().st_size:
        raise UserError("the file is empty", where=str(file))
    try:
        table = parquet.ParquetFile(file, page_checksum_verification=True).read()
        columns = {name: column.to_pylist() for name, column in zip(table.column_names, table.columns, strict=True)}
    except UnicodeDecodeError as error:
        raise UserError(f"a text is not UTF-8 ({error.reason})", where=str(file)) from error
    except (pa.ArrowException, OSError, ValueError) as error:
        fix = "Download or copy it again."
        raise UserError(f"is no Parquet file, or damaged ({error})", where=str(file), fix=fix) from error
    if not table.num_rows:
        raise UserError("there is no row", where=str(file))
    if len(columns) < table.num_columns:
        raise UserError("two columns have the same name", where=str(file))
    return Table(columns, Origin.single(f"{file} row", range(1, table.num_rows + 1)))


READERS: dict[str, Callable[[Contents, Sieve], Table]] = {
    ".tsv": _tsv,
    ".csv": _csv,
    ".jsonl": _json_lines,
    ".json": _json,
}


def joined(tables: Sequence[Table]) -> Table:
    """The rows of several files of one split, in order."""
    first, *others = tables
    if not others:
        return first
    for other in others:
        if other.columns.keys() != first.columns.keys():
            found = f"columns {', '.join(other.columns)}; {first.origin(0)} has {', '.join(first.columns)}"
            raise UserError(found, where=other.origin(0))
    columns = {name: [value for table in tables for value in table.columns[name]] for name in first.columns}
    files = tuple(name for table in tables for name in table.origin.files)
    of = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    return Table(columns, Origin(files, of, np.concatenate([table.origin.at for table in tables])))
