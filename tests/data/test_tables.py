"""Tables in files: what is read is what was written, and what cannot be read is told with its line."""

import csv
import gzip
import io
import itertools
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from lepjax.core.errors import UserError
from lepjax.data import tables
from lepjax.data.tables import read_table

COUNTER = itertools.count()
NAMES = ["sentence", "label"]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
LINE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r\0"), max_size=12)
JSON = st.recursive(st.none() | st.booleans() | st.integers() | TEXT, lambda x: st.lists(x, max_size=3), max_leaves=4)


def rows_of(cell):
    return st.lists(st.tuples(cell, cell), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Writes bytes to a fresh file, packed where its name ends in .gz."""
    folder = tmp_path_factory.mktemp("tables")

    def write(name, data):
        path = folder / str(next(COUNTER)) / name
        path.parent.mkdir()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write


def transposed(rows):
    return {name: [row[i] for row in rows] for i, name in enumerate(NAMES)}


def as_csv(rows, **options):
    out = io.StringIO(newline="")
    csv.writer(out, **options).writerows([NAMES, *rows])
    return out.getvalue()


# ---- round trips ----


@given(rows_of(LINE), st.sampled_from(["\n", "\r\n"]), st.sampled_from(["t.tsv", "t.tsv.gz"]), st.booleans())
def test_tsv(written, rows, ending, name, mark):
    text = ending.join(["\t".join(row) for row in [NAMES, *rows]]) + ending
    assert read_table(written(name, ("\ufeff" * mark + text).encode())) == transposed(rows)


@given(rows_of(CELL), st.sampled_from(["\n", "\r\n"]), st.sampled_from(["t.csv", "t.csv.gz"]))
def test_csv(written, rows, ending, name):
    assert read_table(written(name, as_csv(rows, lineterminator=ending).encode())) == transposed(rows)


@given(rows_of(JSON), st.booleans(), st.sampled_from(["t.jsonl", "t.jsonl.gz", "t.json"]))
def test_json_lines(written, rows, ascii_only, name):
    rows = rows * 2  # one line alone in a .json file is an object and no list
    lines = [json.dumps(dict(zip(NAMES, row, strict=True)), ensure_ascii=ascii_only) for row in rows]
    assert read_table(written(name, "\n".join(lines).encode())) == transposed(rows)


@given(rows_of(JSON), st.booleans(), st.sampled_from(["t.json", "t.json.gz"]))
def test_json(written, rows, nested, name):
    objects = [dict(zip(NAMES, row, strict=True)) for row in rows]
    data = json.dumps({"version": 1, "data": objects} if nested else objects, indent=1).encode()
    assert read_table(written(name, data)) == transposed(rows)


@given(rows_of(TEXT | st.none()))
def test_parquet(written, rows):
    path = written("t.parquet", b"")
    parquet.write_table(pa.table(transposed(rows), schema=pa.schema([(name, pa.string()) for name in NAMES])), path)
    assert read_table(path) == transposed(rows)


def test_parquet_keeps_types(written):
    columns = {"tokens": [["a", "b"], []], "label": [1, -1], "score": [0.5, None]}
    path = written("t.parquet", b"")
    parquet.write_table(pa.table(columns), path)
    assert read_table(path) == columns


def test_only_line_feeds_end_a_line(written):
    odd = "a\u2028b\x0bc\x1cd\x85e"
    assert read_table(written("t.tsv", f"text\tlabel\n{odd}\t1\n".encode()))["text"] == [odd]
    assert read_table(written("t.jsonl", json.dumps({"text": odd}, ensure_ascii=False).encode()))["text"] == [odd]
    assert len(f"{odd}".splitlines()) > 1  # sabotage: as `splitlines` would have it


def test_a_long_document(written):
    text = "x" * 300_000
    assert read_table(written("t.csv", f"text,label\n{text},1\n".encode()))["text"] == [text]


# ---- where a row stands ----


def check_lines(table, text):
    """Each row's text stands where its origin says."""
    lines = text.split("\n")
    for row, value in enumerate(table.columns["sentence"]):
        path, unit, number = table.origin(row).rsplit(" ", 2)
        assert unit == "line" and value.split("\n")[0] in lines[int(number) - 1]


@given(st.lists(st.text('ab,"\n', min_size=1, max_size=9), min_size=1, max_size=6))
def test_a_row_of_several_lines_begins_where_it_is_said_to(written, values):
    rows = [(f"<{number}>{value}", "1") for number, value in enumerate(values)]
    text = as_csv(rows, lineterminator="\n")
    check_lines(tables.read(written("t.csv", text.encode())), text.replace('""', '"'))


def test_sabotage_a_line_that_is_off_by_one_is_noticed(written):
    text = as_csv([("<0>", "1"), ("<1>\nb", "0"), ("<2>", "0")], lineterminator="\n")
    table = tables.read(written("t.csv", text.encode()))
    check_lines(table, text)
    for wrong in (table.origin.at + 1, np.arange(2, 5)):  # the second: counting rows instead of lines
        with pytest.raises((AssertionError, IndexError)):
            check_lines(tables.Table(table.columns, tables.Origin.single(f"{table.origin.file} line", wrong)), text)


def test_files_are_joined_with_their_lines(written):
    paths = [written("t.tsv", f"sentence\tlabel\n{text}\t1\nb\t0\n".encode()) for text in "ac"]
    table = tables.joined([tables.read(path) for path in paths])
    assert table.columns["sentence"] == ["a", "b", "c", "b"]
    assert table.origin(3) == f"{paths[1]} line 3"
    assert table.origin.select([2, 0])(0) == f"{paths[1]} line 2"
    with pytest.raises(UserError, match="line 2: columns text; .* has sentence, label"):
        tables.joined([table, tables.read(written("t.tsv", b"text\na\n"))])


# ---- what cannot be read ----


BAD = {
    "empty": ("t.tsv", b"", ": the file is empty"),
    "blank": ("t.csv", b" \n\n", ": the file is empty"),
    "empty gzip": ("t.jsonl.gz", b"", ": the file is empty"),
    "empty parquet": ("t.parquet", b"", ": the file is empty"),
    "header alone": ("t.tsv", b"sentence\tlabel\n", ": there is a header and no row"),
    "blank header": ("t.tsv", b"\na\t1\n", " line 1: '' in column 1 is no column's name"),
    "blank csv header": ("t.csv", b"\na,1\n", " line 1: '' in column 1 is no column's name"),
    "no header": ("t.tsv", b"a fine film\t1\nbad\t0\n", " line 1: '1' in column 2 is no column's name"),
    "twice": ("t.csv", b"text,text\na,b\n", " line 1: two columns are named 'text'"),
    "missing column": ("t.tsv", b"sentence\tlabel\na\t1\nb\n", " line 3: 1 instead of 2 columns (sentence, label)"),
    "extra column": ("t.tsv", b"sentence\tlabel\na\tb\t1\n", " line 2: 3 instead of 2 columns"),
    "blank line": ("t.tsv", b"sentence\tlabel\na\t1\n\nb\t1\n", " line 3: 1 instead of 2 columns"),
    "csv column": ("t.csv", b'sentence,label\n"a\nb",1\nc\n', " line 4: 1 instead of 2 columns"),
    "csv blank line": ("t.csv", b"sentence,label\na,1\n\nb,1\n", " line 3: 0 instead of 2 columns"),
    "csv quote": ("t.csv", b'sentence,label\n"a"b,1\n', " line 2: is no CSV"),
    "csv open quote": ("t.csv", b'sentence,label\na,1\n"b,1\nc,1\n', " line 3: is no CSV"),
    "not UTF-8": ("t.tsv", b"sentence\tlabel\na\t1\nb\xe9\t1\n", " line 3: byte 0xe9 at offset 20 is not UTF-8"),
    "not UTF-8 gzip": ("t.csv.gz", b"a,b\n\xff,1\n", " line 2: byte 0xff"),
    "JSON": ("t.jsonl", b'{"text": "a"}\n{"text": "b"\n', " line 2: is no JSON"),
    "JSON blank line": ("t.jsonl", b'{"text": "a"}\n\n{"text": "b"}\n', " line 2: is no JSON"),
    "JSON number": ("t.jsonl", b'{"text": "a"}\n5\n', " line 2: a JSON int instead of an object"),
    "JSON missing": (
        "t.jsonl",
        b'{"text": "a", "label": 1}\n{"text": "b"}\n',
        " line 2: unlike the first row it lacks label",
    ),
    "JSON extra": ("t.jsonl", b'{"text": "a"}\n{"b": 1, "c": 2}\n', "first row it lacks text and adds b, c"),
    "JSON half character": (
        "t.jsonl",
        b'{"text": "\\ud83d\\ude00"}\n{"text": "\\ud83d"}\n',
        " line 2: half a character",
    ),
    "JSON depth": ("t.json", b"[" * 200_000, ": is no JSON"),
    "JSON huge number": ("t.jsonl", b'{"a": 1' + b"0" * 5000 + b"}", " line 1: is no JSON"),
    "JSON document": ("t.json", b'[{"text": "a"},\n {"text": }]', " line 2: is no JSON"),
    "JSON object": ("t.json", b'{"text": ["a"]}', ": neither a list of objects nor"),
    "JSON no rows": ("t.json", b"[]", ": there is no row"),
    "JSON row": ("t.json", b'[{"text": "a"}, "b"]', " row 2: a JSON str instead of an object"),
    "no table": ("t.xlsx", b"PK", ": is no table. Use one of .tsv, .csv, .jsonl, .json, .parquet"),
    "no parquet": ("t.parquet", b"PAR1 and no more", ": is no Parquet file, or damaged"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read(written, name):
    file, data, message = BAD[name]
    path = written(file, data)
    with pytest.raises(UserError) as error:
        read_table(path)
    assert f"{path}{message}" in str(error.value) or message in str(error.value) and "line" in str(error.value)
    assert "\n" not in str(error.value)


def test_half_a_character_apart_all_surrogate_pairs_are_read(written):
    assert read_table(written("t.jsonl", b'{"text": "\\ud83d\\ude00"}'))["text"] == ["\U0001f600"]


def test_a_gzip_file_cut_short(written):
    path = written("t.tsv.gz", b"sentence\tlabel\n" + bytes(range(32, 127)) * 20 + b"\t1\n")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="t.tsv.gz: not a complete gzip file"):
        read_table(path)


def test_a_parquet_file_cut_short_or_damaged(written):
    path = written("t.parquet", b"")
    table = pa.table({"text": [f"row {i}" for i in range(500)]})
    parquet.write_table(table, path, write_page_checksum=True, compression="none", use_dictionary=False)
    whole = path.read_bytes()
    assert read_table(path) == table.to_pydict()
    at = whole.index(b"row 300")
    for damaged in (whole[:-100], whole[: len(whole) // 2], whole[:at] + b"raw" + whole[at + 3 :]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="t.parquet: is no Parquet file, or damaged"):
            read_table(path)


def test_parquet_names_and_rows(written):
    path = written("t.parquet", b"")
    parquet.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    with pytest.raises(UserError, match="there is no row"):
        read_table(path)
    parquet.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), path)
    with pytest.raises(UserError, match="two columns have the same name"):
        read_table(path)


def test_no_file(tmp_path):
    with pytest.raises(UserError, match="missing.tsv: no such file"):
        read_table(tmp_path / "missing.tsv")
    with pytest.raises(UserError, match="no such file"):
        read_table(tmp_path)


# ---- real files ----


def test_glues_tsv_is_not_quoted(test_data):
    path = test_data / "glue" / "mrpc_train.tsv.gz"
    found = read_table(path)
    assert list(map(len, found.values())) == [3668] * 3
    text = gzip.decompress(path.read_bytes()).decode()
    quoted = list(csv.reader(io.StringIO(text), delimiter="\t"))
    assert '"' in "".join(found["sentence1"]) and len(quoted) != 3669  # sabotage: a reader that knows quotes loses rows
