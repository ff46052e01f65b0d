"""Tables in files: TSV, CSV, JSON lines, JSON and Parquet, with the place of every row kept for error messages."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lepjax.core.errors import UserError
from lepjax.data.text import read_text

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


def read_table(path: str | os.PathLike[str]) -> dict[str, list[Any]]:
    """{column: values} of a .tsv, .csv, .jsonl, .json (each also .gz) or .parquet file.

    TSV and CSV hold strings; TSV knows no quoting, as in GLUE's files, CSV follows RFC 4180. JSON and Parquet values are as
    they are. Raises `UserError` naming file and line for what is empty, damaged, not UTF-8, or has rows that do not fit.
    """
    return read(path).columns


def read(path: str | os.PathLike[str]) -> Table:
    """`read_table`, with the origin of each row."""
    file = existing(path)
    suffix = suffix_of(file)
    if suffix == ".parquet":
        return _parquet(file)
    if suffix not in READERS:
        fix = f"Use one of {', '.join([*READERS, '.parquet'])}; all but Parquet may be packed as .gz."
        raise UserError("is no table", where=str(file), fix=fix)
    return READERS[suffix](file, contents(file))


def existing(path: str | os.PathLike[str]) -> pathlib.Path:
    """The file at `path`, whose environment variables are expanded."""
    file = pathlib.Path(os.path.expandvars(path)).expanduser()
    if not file.is_file():
        raise UserError("no such file", where=str(file))
    return file


def suffix_of(file: pathlib.Path) -> str:
    """The suffix that tells the format: `.tsv` for train.tsv and train.tsv.gz."""
    return pathlib.Path(file.name.lower().removesuffix(".gz")).suffix


def contents(file: pathlib.Path) -> str:
    """The text of a file. Raises `UserError` for an empty one."""
    text = read_text(str(file)).removeprefix("\ufeff")  # Excel marks its files as UTF-8
    if not text.strip():
        raise UserError("the file is empty", where=str(file))
    return text


def lines_of(text: str) -> list[str]:
    """The lines without their ends. Only \\n and \\r\\n end a line: a text may hold U+2028 and its like."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines] if lines[0].endswith("\r") else lines


def _tsv(file: pathlib.Path, text: str) -> Table:
    first, *lines = lines_of(text)
    names = _header(file, first.split("\t"))
    fix = "TSV has no quoting: replace tabs and line breaks inside a text by spaces."
    rows = [line.split("\t") for line in lines]
    return _rows(file, names, rows, range(2, len(rows) + 2), fix)


def _csv(file: pathlib.Path, text: str) -> Table:
    csv.field_size_limit(2**31 - 1)  # a document may be longer than csv's 128 KiB
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows, begins = [], [1]
    try:
        for row in reader:
            rows.append(row)
            begins.append(reader.line_num + 1)
    except csv.Error as error:
        raise UserError(
            f"is no CSV ({error})", where=f"{file} line {begins[-1]}", fix="Quote it as RFC 4180."
        ) from error
    names = _header(file, rows[0])
    return _rows(file, names, rows[1:], begins[1:-1], "Quote texts that hold commas or line breaks.")


def _header(file: pathlib.Path, names: list[str]) -> list[str]:
    where = f"{file} line 1"
    fix = "The first line names the columns."
    for number, name in enumerate(names or [""], 1):
        if not name.strip() or NUMBER.fullmatch(name):
            raise UserError(f"{name!r} in column {number} is no column's name", where=where, fix=fix)
        if name in names[: number - 1]:
            raise UserError(f"two columns are named {name!r}", where=where, fix=fix)
    return names


def _rows(file: pathlib.Path, names: list[str], rows: list[list[str]], lines: Sequence[int], fix: str) -> Table:
    if not rows:
        raise UserError("there is a header and no row", where=str(file))
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(names):
            found = f"{len(row)} instead of {len(names)} columns ({', '.join(names)})"
            raise UserError(found, where=f"{file} line {line}", fix=fix)
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    return Table(columns, Origin.single(f"{file} line", lines))


def _json_lines(file: pathlib.Path, text: str) -> Table:
    objects = []
    for number, line in enumerate(lines_of(text), 1):
        try:
            objects.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise UserError(f"is no JSON ({error})", where=f"{file} line {number}") from error
    return _objects(file, objects, "line", text)


def _json(file: pathlib.Path, text: str) -> Table:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # many a .json file holds JSON lines
            return _json_lines(file, text)
        raise UserError(f"is no JSON ({error.msg})", where=f"{file} line {error.lineno}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"is no JSON ({error})", where=str(file)) from error
    rows = found.get("data") if isinstance(found, dict) else found  # as SQuAD has it
    if not isinstance(rows, list):
        raise UserError("neither a list of objects nor an object with such a list as 'data'", where=str(file))
    return _objects(file, rows, "row", text)


def _objects(file: pathlib.Path, objects: list[Any], unit: str, text: str) -> Table:
    if not objects:
        raise UserError("there is no row", where=str(file))
    halves = SURROGATE.search(text) is not None
    names: dict[str, None] = {}
    for number, found in enumerate(objects, 1):
        where = f"{file} {unit} {number}"
        if not isinstance(found, dict):
            raise UserError(f"a JSON {type(found).__name__} instead of an object", where=where)
        names = names or dict.fromkeys(found)
        if found.keys() != names.keys():
            missing, extra = sorted(names.keys() - found.keys()), sorted(found.keys() - names.keys())
            told = [f"{kind} {', '.join(keys)}" for kind, keys in (("lacks", missing), ("adds", extra)) if keys]
            raise UserError(f"unlike the first row it {' and '.join(told)}", where=where)
        if halves and any("\ud800" <= character <= "\udfff" for character in json.dumps(found, ensure_ascii=False)):
            raise UserError("half a character (a lone surrogate)", where=where)
    columns = {name: [found[name] for found in objects] for name in names}
    return Table(columns, Origin.single(f"{file} {unit}", range(1, len(objects) + 1)))


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


READERS: dict[str, Callable[[pathlib.Path, str], Table]] = {
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
