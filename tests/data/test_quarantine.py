"""Records that cannot be used: refused with their place, or set aside, counted, and without a trace in what is learned."""

import gzip
import json

import pytest

from lepjax.core.errors import UserError
from lepjax.data import conll, datasets, tables
from lepjax.data.choices import ChoiceText
from lepjax.data.documents import MaskedTextFile
from lepjax.data.labelled import LabelledText
from lepjax.data.quarantine import REFUSE, Skip, Skipping
from lepjax.data.tokenized import TokenizedText
from tests.words import bytes_of_roberta, word_pieces

TSV = [b"sentence\tlabel", *(b"the fox jumps %d\t%d" % (i, i % 2) for i in range(6))]
CSV = [b"sentence,label", *(b'"the fox, %d",%d' % (i, i % 2) for i in range(6))]
JSONL = [*(b'{"sentence": "the fox %d", "label": %d}' % (i, i % 2) for i in range(6))]
CONLL = [b"the O\nfox B-PER\n", b"lazy O\n", b"dog B-LOC\nsleeps O\n"]
GOOD = {"train.tsv": TSV, "train.csv": CSV, "train.jsonl": JSONL, "train.conll": CONLL}

# name: (file, the record that is put into the middle, what is said of it)
FAULTS = {
    "bad utf-8, tsv": ("train.tsv", b"the f\xffx\t1", "byte 0xff at offset {at+5} is not UTF-8"),
    "bad utf-8, csv": ("train.csv", b'"the f\xe9x",1', "byte 0xe9 at offset {at+6} is not UTF-8"),
    "bad utf-8, jsonl": (
        "train.jsonl",
        b'{"sentence": "\xc3", "label": 1}',
        "byte 0xc3 at offset {at+14} is not UTF-8",
    ),
    "bad utf-8, conll": ("train.conll", b"f\xffx B-PER\n", "byte 0xff at offset {at+1} is not UTF-8"),
    "too few columns, tsv": ("train.tsv", b"the fox", "1 instead of 2 columns (sentence, label)"),
    "too many columns, tsv": ("train.tsv", b"the\tfox\t1", "3 instead of 2 columns"),
    "too many columns, csv": ("train.csv", b"the, fox,1", "3 instead of 2 columns"),
    "an empty line, csv": ("train.csv", b"", "0 instead of 2 columns"),
    "a quote that is not closed": ("train.csv", b'"the fox,1', "is no CSV"),
    "a quote inside": ("train.csv", b'"the "big" fox",1', "is no CSV"),
    "NUL, tsv": ("train.tsv", b"the\0fox\t1", "a NUL byte"),
    "NUL, csv": ("train.csv", b"\0\0\0\0,1", "a NUL byte"),
    "NUL, jsonl": ("train.jsonl", b"\0\0\0", "a NUL byte"),
    "NUL, conll": ("train.conll", b"fox\0 O\n", "a NUL byte"),
    "half a line, jsonl": ("train.jsonl", b'{"sentence": "the f', "is no JSON"),
    "a mark inside, jsonl": ("train.jsonl", b'\xef\xbb\xbf{"sentence": "the", "label": 1}', "is no JSON"),
    "a list, jsonl": ("train.jsonl", b"[1]", "a JSON list instead of an object"),
    "a missing key": ("train.jsonl", b'{"sentence": "the fox"}', "unlike the first row it lacks label"),
    "half a character": ("train.jsonl", b'{"sentence": "\\ud83d", "label": 1}', "half a character"),
    "a deep nest": ("train.jsonl", b"[" * 200_000, "is no JSON"),
    "a number as text": ("train.jsonl", b'{"sentence": 7, "label": 1}', "sentence is 7, no text"),
    "no tag": ("train.conll", b"the O\nfox\ndog O\n", "1 column: a word without a tag"),
}


def written(folder, name, records, packed=False):
    data = b"\n".join(records) + b"\n"
    path = folder / (name + ".gz" * packed)
    path.write_bytes(gzip.compress(data) if packed else data)
    return path


def loaded(path, sieve):
    return datasets.load(str(path), "train", say=lambda line: None, sieve=sieve)


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("packed", [False, True])
def test_a_bad_record_is_refused_or_set_aside(tmp_path, name, packed):
    file, bad, reason = FAULTS[name]
    good = GOOD[file]
    path = written(tmp_path, file, good, packed)
    clean = loaded(path, REFUSE)
    path = written(tmp_path, file, [*good[:2], bad, *good[2:]], packed)
    before = b"\n".join(good[:2]) + b"\n"
    line, at = before.count(b"\n") + 1 + (name == "no tag"), len(before) + 6 * (name == "no tag")
    reason = reason.replace("{at+", "{").format(*range(at, at + 20)) if "{at" in reason else reason
    with pytest.raises(UserError) as error:
        loaded(path, REFUSE)
    assert str(error.value).startswith(f"{path} line {line}: ") and reason in str(error.value)
    sieve = Skipping(most=1)
    kept = loaded(path, sieve)
    assert kept.columns == clean.columns and kept.digest == clean.digest
    assert kept.where(len(kept) - 1) != clean.where(len(clean) - 1)  # the lines after it have moved
    (told,) = sieve.dropped
    assert (told.file, told.unit, told.number) == (str(path), "line", line) and reason in told.reason
    if name not in ("a number as text",):
        assert told.offset == at
        assert told.raw.encode()[:3] == bad.split(b"\n")[name == "no tag"].replace(b"\xff", b"\\udcff")[:3]
    assert json.loads(json.dumps(told.to_json()))["line"] == line


def test_half_a_last_line(tmp_path):
    cuts = {"train.tsv": 10, "train.csv": 10, "train.jsonl": 5, "train.conll": 4}
    for file, cut in cuts.items():
        whole = written(tmp_path, file, GOOD[file])
        clean = loaded(whole, REFUSE)
        whole.write_bytes(whole.read_bytes()[:-cut])
        sieve = Skipping(most=1)
        kept = loaded(whole, sieve)
        assert len(sieve.dropped) == 1 and kept.columns == clean.head(len(clean) - 1).columns, file


def test_a_mark_at_the_start_is_no_fault(tmp_path):
    for file, records in GOOD.items():
        clean = loaded(written(tmp_path, file, records), REFUSE)
        marked = written(tmp_path, file, [b"\xef\xbb\xbf" + records[0], *records[1:]])
        assert loaded(marked, REFUSE).columns == clean.columns
    bad = written(tmp_path, "train.tsv", [b"\xef\xbb\xbf" + TSV[0], b"one", *TSV[1:]])
    sieve = Skipping(1)
    loaded(bad, sieve)
    assert sieve.dropped[0].offset == 3 + len(TSV[0]) + 1


def test_labels_and_tags_outside_the_set(tmp_path):
    for split in ("train", "validation"):
        written(tmp_path, f"{split}.tsv", TSV if split == "train" else [*TSV, b"the dog\t7", b"the who\tnan"])
    recipe = LabelledText(dataset="sst2", data_dir=str(tmp_path), tokenizer=word_pieces(tmp_path / "words"))
    with pytest.raises(UserError, match=r"validation.tsv line 8: label '7' is not one of '0', '1'"):
        recipe.load()
    splits = LabelledText(**{**vars(recipe), "bad_records": Skip()}).load()
    assert [(bad.number, bad.reason) for bad in splits.quarantined] == [
        (8, "label '7' is not one of '0', '1'"),
        (9, "label 'nan' is not one of '0', '1'"),
    ]
    assert len(splits.evaluation["dev"]) == 6
    assert "skipped 2 records" in splits.notes[-1] and "validation.tsv line 8: label '7'" in splits.notes[-1]


def test_tagged_sentences_per_line(tmp_path):
    path = written(
        tmp_path, "train.tsv", [b"the fox\tO B-PER", b"the fox\tO", b"a\tb\tc", b"two  spaces\tO O", b"dog\tO"]
    )
    sieve = Skipping(3)
    assert conll.read(path, sieve).columns == {"tokens": [["the", "fox"], ["dog"]], "tags": [["O", "B-PER"], ["O"]]}
    assert [bad.number for bad in sieve.dropped] == [2, 3, 4]
    assert sieve.dropped[0].reason == "2 words and 1 tags"


def test_tags_of_another_length_and_answers_elsewhere(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"tokens": ["a", "b"], "tags": ["O", "O"]}\n{"tokens": ["a", "b"], "tags": ["O"]}\n')
    sieve = Skipping(1)
    assert len(loaded(path, sieve)) == 1 and "no list of as many tags" in sieve.dropped[0].reason
    answers = [{"text": ["a"], "answer_start": [0]}, {"text": ["a"], "answer_start": [1]}, 7, None]
    rows = [{"id": "1", "question": "what", "context": "a b", "answers": answer} for answer in answers]
    path.write_text("\n".join(map(json.dumps, rows)))
    sieve = Skipping(2)
    assert len(loaded(path, sieve)) == 2 and {bad.number for bad in sieve.dropped} == {2, 3}


def test_choices(tmp_path):
    good = {"context": "the fox", "choices": ["jumps", "sleeps"], "label": 1}
    rows = [good, {**good, "choices": ["jumps"]}, {**good, "label": 2}, {**good, "context": None}, good]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows if split == "train" else [good])))
    words = word_pieces(tmp_path / "words")
    splits = ChoiceText(dataset=str(tmp_path), tokenizer=words, bad_records=Skip(3)).load()
    assert len(splits.train) == 2 and sorted(bad.number for bad in splits.quarantined) == [2, 3, 4]


def test_one_more_than_is_allowed(tmp_path):
    path = written(tmp_path, "train.tsv", [*TSV, b"one", b"two", b"three"])
    with pytest.raises(UserError) as error:
        loaded(path, Skip(2).sieve())
    message = str(error.value)
    assert message.startswith(f"{path} line 8: 1 instead of 2 columns") and "\n" not in message
    assert f"3 records up to {path} line 10 cannot be used, 2 may be skipped" in message
    assert len(loaded(path, Skip(3).sieve())) == 6
    with pytest.raises(UserError, match=r"^data.bad_records.most: -1. Use 0 or more"):
        Skip(-1)


def test_what_is_no_record_is_always_an_error(tmp_path):
    """Empty files, files without one good record, headers, and files that cannot be unpacked, are never skipped."""
    sieve = Skip(1000).sieve()
    for data, message in {
        b"": "the file is empty",
        b"\xef\xbb\xbf": "the file is empty",
        b" \n \n": "the file is empty",
        TSV[0]: "there is a header and no row",
        TSV[0] + b"\nthe fox\n": "there is a header and no row",
        b"sent\xffence\tlabel\n" + b"\n".join(TSV[1:]): "line 1: byte 0xff at offset 4 is not UTF-8",
        "\n".join(line.decode() for line in TSV).encode("utf-16"): "is in UTF-16. Save it as UTF-8",
    }.items():
        path = tmp_path / "train.tsv"
        path.write_bytes(data)
        with pytest.raises(UserError) as error:
            tables.read(path, sieve)
        assert str(path) in str(error.value) and message in str(error.value)
    packed = written(tmp_path, "train.tsv", TSV, packed=True)
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(UserError, match=rf"^{packed}: not a complete gzip file"):
        tables.read(packed, sieve)
    cut = tmp_path / "train.parquet"
    cut.write_bytes(b"PAR1")
    with pytest.raises(UserError, match=rf"^{cut}: is no Parquet file, or damaged"):
        tables.read(cut, sieve)


def test_an_open_quote_does_not_swallow_the_file(tmp_path):
    path = written(tmp_path, "train.csv", [CSV[0], b'"the fox,1', *(b"the dog %d,%d" % (i, i % 2) for i in range(50))])
    sieve = Skipping(1)
    assert len(tables.read(path, sieve)) == 50 and [bad.number for bad in sieve.dropped] == [2]


# ---- text ----


def test_documents(tmp_path):
    lines = [*(json.dumps({"text": f"the quick brown fox {i}"}).encode() for i in range(20)), b'{"text": 3}', b"half"]
    path = written(tmp_path, "train.jsonl", lines)
    words = word_pieces(tmp_path / "words")
    with pytest.raises(UserError, match=r"train.jsonl line 22: is no JSON"):
        MaskedTextFile(path=str(path), tokenizer=words).load()
    splits = MaskedTextFile(path=str(path), tokenizer=words, bad_records=Skip()).load()
    assert [bad.number for bad in splits.quarantined] == [22, 21]
    written(tmp_path, "train.jsonl", lines[:20])
    assert MaskedTextFile(path=str(path), tokenizer=words).load().train.digest == splits.train.digest


def test_kept_tokens_remember_what_was_left_out(tmp_path):
    """Tokens that were made while skipping are not taken for good ones by a run that refuses."""
    lines = [*(json.dumps({"text": f"the quick brown fox {i}"}).encode() for i in range(20)), b"half"]
    path = written(tmp_path, "train.jsonl", lines)
    options = {"path": str(path), "cache": str(tmp_path / "cache"), "length": 16, "dev": 0.2}
    options["tokenizer"] = bytes_of_roberta(tmp_path / "roberta")
    skipping = TokenizedText(**options, bad_records=Skip())
    first, again = skipping.load(), skipping.load()
    assert first.quarantined == again.quarantined and [bad.number for bad in again.quarantined] == [21]
    assert first.train.digest == again.train.digest and again.notes[-1].startswith("skipped 1 record")
    with pytest.raises(UserError, match=r"train.jsonl line 21: is no JSON"):
        TokenizedText(**options).load()
    with pytest.raises(UserError, match=r"train.jsonl line 21: is no JSON"):
        TokenizedText(**options, bad_records=Skip(0)).load()


def test_sabotage_a_reader_that_keeps_a_bad_record_is_noticed(tmp_path, monkeypatch):
    """Were bytes that are not UTF-8 replaced, the data would not be those of the good records."""
    file, bad, _ = FAULTS["bad utf-8, tsv"]
    clean = loaded(written(tmp_path, file, GOOD[file]), REFUSE)
    path = written(tmp_path, file, [*TSV[:2], bad, *TSV[2:]])
    monkeypatch.setattr("lepjax.data.contents._decoded", lambda data: (data.decode(errors="replace"), False))
    assert loaded(path, Skip().sieve()).digest != clean.digest
