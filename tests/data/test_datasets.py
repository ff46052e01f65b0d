"""Data sets by name and path: the columns, the labels, the splits."""

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from lepjax.core.errors import UserError
from lepjax.data.datasets import Dataset, load, slice_off
from lepjax.data.known import KNOWN
from tests.data.written import fails, quiet, write

# ---- real data sets ----

COUNTS = {
    "sst2": {"train": 67_349, "validation": 872},
    "cola": {"train": 8551, "validation": 1043},
    "mrpc": {"train": 3668, "validation": 408, "test": 1725},
    "rte": {"train": 2490, "validation": 277},
    "stsb": {"train": 5749, "validation": 1500},
    "ag_news": {"train": 10_001, "test": 7600},
    "conll2003": {"train": 14_041, "validation": 3250, "test": 3453},
    "chnsenticorp": {"train": 9600, "validation": 1200},
    "resume_ner_zh": {"train": 3821, "validation": 463, "test": 477},
}
CLASSES = {  # rows of each class, as the data's own descriptions give them
    ("sst2", "train"): [29_780, 37_569],
    ("sst2", "validation"): [428, 444],
    ("ag_news", "train"): [2509, 2458, 2496, 2538],
    ("ag_news", "test"): [1900] * 4,
    ("chnsenticorp", "train"): [4801, 4799],
    ("chnsenticorp", "validation"): [607, 593],
}


@pytest.mark.parametrize("name", COUNTS)
def test_official_counts(test_data, name):
    found = load(name, data_dir=str(test_data), say=quiet)
    assert {split: len(data) for split, data in found.items()} == COUNTS[name]
    for split, data in found.items():
        assert data.source.startswith(f"local file {test_data}")
        if name == "stsb":
            scores = data.scores()
            assert data.labels == () and data.kind == "regression" and scores.dtype == np.float32
            assert scores.min() == 0 and scores.max() == 5
            continue
        ids = data.label_ids()
        assert ids.dtype == np.int32 and set(ids) == set(range(len(data.labels))) or name == "resume_ner_zh"
        if (name, split) in CLASSES:
            assert np.bincount(ids).tolist() == CLASSES[name, split]


def test_sabotage_classes_in_another_order_are_noticed(test_data):
    data = load("ag_news", "train", data_dir=str(test_data), say=quiet)
    wrong = Dataset(data.name, data.split, data.source, data.columns, data.labels[::-1])
    assert np.bincount(wrong.label_ids()).tolist() != CLASSES["ag_news", "train"]


@pytest.mark.parametrize("folder", ["", "glue"])
def test_data_sets_that_share_a_folder(test_data, folder):
    data = load("cola", "dev", data_dir=str(test_data / folder), say=quiet)
    assert data.split == "validation" and len(data) == 1043
    assert data[0] == {"text": "The sailors rode the breeze clear of the rocks.", "label": "1"}
    assert data.labels == ("unacceptable", "acceptable")


def test_pairs_tags_and_other_splits(test_data):
    rte = load("rte", "train[:2]", data_dir=str(test_data / "glue"), say=quiet)
    assert rte[0]["text_pair"] == "Weapons of Mass Destruction Found in Iraq."
    assert [rte.labels[i] for i in rte.label_ids()] == ["not_entailment", "entailment"]
    conll = load("conll2003", "test", data_dir=str(test_data), say=quiet)
    assert conll.kind == "tagging" and len(conll.label_ids()) == 46_435
    assert len(load("sst2", "train_sentences", data_dir=str(test_data), say=quiet)) == 6920
    resume = load(str(test_data / "resume_ner_zh"), "dev", say=quiet)  # as one's own files
    assert set(resume.labels) == set(KNOWN["resume_ner_zh"].labels)


# ---- splits ----


def test_one_a_list_or_all(sst2):
    train, dev = load("sst2", ["train", "valid"], data_dir="sst2", say=quiet)
    assert (len(train), len(dev), dev.split) == (3, 1, "validation")
    assert list(load("sst2", data_dir=".", say=quiet)) == ["train", "validation"]
    assert load("sst2", "dev", data_dir=".", say=quiet) == dev
    fails("sst2: no split 'tests'. Known: train, validation", "sst2", "tests", data_dir=".")


@pytest.mark.parametrize(
    ("asked", "rows"),
    [
        ("train[:100]", range(100)),
        ("train[990:]", range(990, 1000)),
        ("train[90%:]", range(900, 1000)),
        ("train[:33%]", range(330)),
        ("train[-5:]", range(995, 1000)),
        ("train[10%:20%]", range(100, 200)),
        ("train[:]", range(1000)),
    ],
)
def test_slices(here, asked, rows):
    write(here / "my" / "train.csv", "text,label\n" + "".join(f"row {i},{i % 2}\n" for i in range(1000)))
    data = load("my", asked, say=quiet)
    assert data.columns["text"] == [f"row {i}" for i in rows] and data.split == asked
    assert data.where(0) == f"my/train.csv line {rows[0] + 2}"


def test_slices_that_are_none(sst2):
    for asked, message in {
        "train[:4]": "train[:4]: there are 3 rows",
        "train[2:1]": "train[2:1]: no row of 3",
        "train[:200%]": "there are 3 rows",
        "train[1]": "'train[1]': is no split",
        "train[": "is no split",
        "": "is no split",
    }.items():
        fails(message, "sst2", asked, data_dir=".")


def test_matched_is_the_validation_of_mnli(here):
    for name in ("train", "dev_matched", "dev_mismatched", "test_matched"):
        write(here / f"{name}.tsv", f"index\tsentence1\tsentence2\tgold_label\n0\t{name}\tb\tneutral\n")
    found = load("mnli", data_dir=".", say=quiet)
    assert {split: data[0]["text"] for split, data in found.items()} == {
        "train": "train",
        "validation": "dev_matched",
        "validation_mismatched": "dev_mismatched",
        "test": "test_matched",
    }
    assert found["train"].label_ids().tolist() == [1]  # the files of GLUE's own site write names, others numbers


def test_shards(here):
    for shard in range(2):
        write(here / "my" / f"train-{shard:05}-of-00002.jsonl", json.dumps({"text": f"{shard}", "label": shard}))
        write(here / "my" / "validation" / f"{shard:04}.jsonl", json.dumps({"text": f"v{shard}", "label": 0}))
    found = load("my", say=quiet)
    assert found["train"].columns["text"] == ["0", "1"] and found["validation"].columns["text"] == ["v0", "v1"]
    assert found["train"].where(1) == "my/train-00001-of-00002.jsonl line 1"
    (here / "my" / "train-00000-of-00002.jsonl").unlink()
    fails("my: 1 of 2 shards of the split train", "my", "train")


def test_several_files_for_a_split(sst2):
    write(sst2 / "sst2" / "valid.csv", "sentence,label\na,1\n")
    fails("sst2: several files for the split validation: dev.tsv, valid.csv. Keep one", "sst2", data_dir=".")


# ---- one's own tables ----


def test_usual_columns(here):
    for header, texts in {
        "sentence\tlabel": ["text"],
        "text\tlabels": ["text"],
        "sentence1\tsentence2\tlabel": ["text", "text_pair"],
        "premise\thypothesis\tlabel": ["text", "text_pair"],
        "question\tsentence\tlabel": ["text", "text_pair"],
        "id\tquestion1\tquestion2\tis_duplicate": ["text", "text_pair"],
        "label\ttext": ["text"],
    }.items():
        names = header.split("\t")
        write(here / "t.tsv", header + "\n" + "\t".join("x" if n in ("label", "labels") else n for n in names) + "\n")
        assert list(load("t.tsv", "train", say=quiet).columns) == [*texts, "label"]


def test_named_columns(here):
    write(here / "t.csv", "review,stars,text\ngreat,good,1\nbad,poor,2\n")
    data = load("t.csv", "train", text=("review",), label="stars", say=quiet)
    assert data.columns == {"text": ["great", "bad"], "label": ["good", "poor"]}
    assert data.labels == ("good", "poor") and data.label_ids().tolist() == [0, 1]
    assert load("t.csv", "train", text="review", say=quiet).kind == "text"
    fails("t.csv: no column 'star'. It has review, stars, text", "t.csv", text=("review",), label="star")
    fails("text: 3 columns of text", "t.csv", text=("review", "stars", "text"))
    write(here / "t.csv", "review,stars\ngreat,good\n")
    fails("t.csv: none of its columns is known to hold text: review, stars. Name the columns", "t.csv")


def test_a_test_split_may_lack_labels(here):
    write(here / "my" / "train.csv", "review,stars\ngreat,good\n")
    for name in ("test", "dev"):
        write(here / "my" / f"{name}.csv", "review\nwell\n")
    options = {"text": ("review",), "label": "stars"}
    test = load("my", "test", say=quiet, **options)
    assert test.columns == {"text": ["well"]} and test.labels == ("good",)
    fails("my/dev.csv: no column 'stars'", "my", "dev", **options)


def test_labels_are_those_of_the_training_split(here):
    write(here / "my" / "train.csv", "text,label\na,10\nb,9\nc,-1\n")
    write(here / "my" / "dev.csv", "text,label\na,9\nb,0\n")
    dev = load("my", "dev", say=quiet)
    assert dev.labels == ("-1", "9", "10")
    with pytest.raises(UserError, match=r"my/dev.csv line 3: label '0' is not one of '-1', '9', '10'. Mend the file."):
        dev.label_ids()
    (here / "my" / "train.csv").unlink()
    write(here / "my" / "test.csv", "text,label\na,5\n")
    assert load("my", "dev", say=quiet).labels == ("0", "5", "9")


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (["b", "a", "b"], ("a", "b")),
        (["2", "10"], ("2", "10")),
        (["2", "x"], ("2", "x")),
        (["1.0", "0.0"], ("0.0", "1.0")),
        (["1.5", "2"], ()),
        (["3", "0.25", "oops"], ()),
    ],
)
def test_labels_of_a_table(here, values, labels):
    write(here / "t.csv", "text,label\n" + "".join(f"a,{value}\n" for value in values))
    write(here / "t.jsonl", "\n".join(json.dumps({"text": "a", "label": _typed(value)}) for value in values))
    for name in ("t.csv", "t.jsonl"):
        data = load(name, "train", say=quiet)
        assert data.labels == labels
        if labels:
            assert [labels[i] for i in data.label_ids()] == values
        elif "oops" not in values:
            assert data.scores().tolist() == [float(value) for value in values]


def _typed(value):
    try:
        return json.loads(value)
    except ValueError:
        return value


def test_a_folder_without_splits(here):
    write(here / "my" / "reviews.tsv", "text\tlabel\na\t1\n")
    fails("my: neither my/train.*, nor my_train.*, nor train.*", "my")
    fails("reviews", "my")
    fails("nowhere (no such folder): neither sst2/train.*", "sst2", data_dir="nowhere")
    assert len(load("my", "train", data_dir="my/reviews.tsv", say=quiet)) == 1
    fails("neither a known data set nor a path. Did you mean sst2?", "sst3")
    fails("dataset: neither a known data set nor a path", "")


# ---- labels ----


def test_a_label_outside_the_set(sst2):
    lines = ["sentence\tlabel"] + ["a\t1"] * 810 + ["b\t2", "c\t3"]
    path = write(sst2 / "data" / "sst2" / "train.tsv", "\n".join(lines))
    data = load("sst2", "train", data_dir="data", say=quiet)
    with pytest.raises(UserError) as error:
        data.label_ids()
    assert str(error.value) == "data/sst2/train.tsv line 812: label '2' is not one of '0', '1'. Mend the file."
    for selected in (data.select(range(700, 812)), load("sst2", "train[50%:]", data_dir="data", say=quiet)):
        with pytest.raises(UserError, match="data/sst2/train.tsv line 812: label '2'"):
            selected.label_ids()
    assert data.head(810).label_ids().tolist() == [1] * 810
    write(path, "sentence\tlabel\na\tpositive\nb\tneutral\n")
    with pytest.raises(UserError, match="line 3: label 'neutral' is not one of 'negative', 'positive'"):
        load("sst2", "train", data_dir="data", say=quiet).label_ids()


def test_sabotage_an_origin_that_does_not_follow_the_rows_is_noticed(sst2):
    data = load("sst2", "train", data_dir=".", say=quiet)
    last = data.select([2])
    assert last.where(0) == "sst2/train.tsv line 4"
    stale = Dataset(last.name, last.split, last.source, last.columns, last.labels, last.spelling, data.origin)
    assert stale.where(0) != "sst2/train.tsv line 4"


def test_a_tag_outside_the_set(here):
    write(here / "conll2003" / "train.txt", "EU B-ORG\n\nPeter B-PER\nrejects B-XYZ\n")
    data = load("conll2003", "train", data_dir=".", say=quiet)
    with pytest.raises(UserError, match="conll2003/train.txt line 3: tag 'B-XYZ' is not one of 'O', 'B-PER', "):
        data.label_ids()


@pytest.mark.parametrize("value", ["high", "nan", "1e999", "", "1 2"])
def test_a_score_that_is_no_number(here, value):
    write(here / "stsb" / "train.csv", f"sentence1,sentence2,score\na,b,1.5\na,b,{value}\n")
    with pytest.raises(UserError, match=f"stsb/train.csv line 3: label {value!r} is no number"):
        load("stsb", "train", data_dir=".", say=quiet).scores()


def test_labels_in_json(here):
    for value, message in {
        "null": "label 'None' is not one of",
        '""': "label '' is not one of",
        "[1]": "label '[1]'",
    }.items():
        write(here / "t.jsonl", '{"text": "a", "label": 0}\n{"text": "b", "label": ' + value + "}\n")
        data = load("t.jsonl", "train", say=quiet)
        known = Dataset(data.name, data.split, data.source, data.columns, ("0", "1"), origin=data.origin)
        with pytest.raises(UserError) as error:
            known.label_ids()
        assert str(error.value).startswith(f"t.jsonl line 2: {message}")
    write(here / "t.jsonl", '{"text": "a"}\n{"text": 5}\n')
    fails("t.jsonl line 2: text is 5, no text", "t.jsonl")


def test_made_in_python():
    data = Dataset("mine", "train", "Python", {"text": ["a", "b", "c"], "label": [1, "no", "yes"]}, ("no", "yes"))
    assert data.label_ids().tolist() == [1, 0, 1] and len(data) == 3
    with pytest.raises(UserError, match="mine train row 3: label 'yes' is not one of 'no'"):
        Dataset("mine", "train", "Python", {"text": ["a"] * 3, "label": ["no", "no", "yes"]}, ("no",)).label_ids()
    with pytest.raises(UserError, match="mine train: no labels, only text"):
        Dataset("mine", "train", "Python", {"text": ["a"]}, ("no",)).label_ids()
    with pytest.raises(UserError, match="the labels are numbers, not classes"):
        Dataset("mine", "train", "Python", {"text": ["a"], "label": [0.5]}).label_ids()


def test_the_digest_tells_contents_apart(sst2):
    data = load("sst2", "train", data_dir=".", say=quiet)
    (sst2 / "sst2").rename(sst2 / "elsewhere")
    assert load("sst2", "train", data_dir="elsewhere", say=quiet).digest == data.digest
    changed = [
        Dataset(data.name, data.split, data.source, {**data.columns, "label": ["1", "0", "0"]}, data.labels),
        Dataset(data.name, data.split, data.source, data.columns, data.labels[::-1]),
        data.head(2),
        data.select([1, 0, 2]),
    ]
    assert len({data.digest, *(other.digest for other in changed)}) == 5


def test_slicing_off(here):
    data = Dataset("mine", "train", "Python", {"text": [str(i) for i in range(1000)]})
    rest, part = slice_off(data, 0.1, seed=0)
    texts = [list(map(int, one.columns["text"])) for one in (rest, part)]
    assert sorted(texts[0] + texts[1]) == list(range(1000)) and list(map(len, texts)) == [900, 100]
    assert all(one == sorted(one) for one in texts)
    assert slice_off(data, 0.1, seed=0)[1].columns == part.columns != slice_off(data, 0.1, seed=1)[1].columns
    assert abs(np.mean(texts[1]) - 500) < 100, "from everywhere, not from one end"
    for share in (0.0, 1.0, -0.1, 0.0001):
        with pytest.raises(UserError, match="mine train: a share of"):
            slice_off(data, share, seed=0)


# ---- questions ----

CONTEXT = "  The quick brown fox jumps."
FLAT = {
    "id": "q1",
    "question": "Who?",
    "context": CONTEXT,
    "answers": {"text": ["fox", "brown fox"], "answer_start": [18, 12]},
}
NONE = {"id": "q2", "question": "Why?", "context": CONTEXT, "answers": {"text": [], "answer_start": []}}


def nested(*questions):
    qas = [
        {
            **q,
            "answers": [
                dict(zip(("text", "answer_start"), a, strict=True)) for a in zip(*q["answers"].values(), strict=True)
            ],
        }
        for q in questions
    ]
    paragraphs = [{"context": CONTEXT, "qas": [{k: v for k, v in qa.items() if k != "context"} for qa in qas]}]
    return {"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}


def test_questions_in_all_forms(here):
    write(here / "squad" / "train-v1.1.json", json.dumps(nested(FLAT, NONE)))
    write(here / "squad" / "dev-v1.1.json", json.dumps([FLAT, NONE]))
    parquet.write_table(pa.Table.from_pylist([FLAT, NONE]), here / "squad" / "test.parquet")
    found = load("squad", data_dir=".", say=quiet)
    for data in found.values():
        assert data.columns == found["train"].columns and data.kind == "question answering" and data.labels == ()
        assert data[0]["answer_text"] == ["fox", "brown fox"] and data[0]["answer_start"] == [18, 12]
        assert data[1]["answer_text"] == [] and data[1]["id"] == "q2"
    assert found["train"].where(1) == "squad/train-v1.1.json row 1"
    write(
        here / "one.jsonl",
        json.dumps({"question": "Who?", "context": CONTEXT, "answer_text": "fox", "answer_start": 18}),
    )
    assert load("one.jsonl", "train", say=quiet)[0]["answer_start"] == [18]


@pytest.mark.parametrize("start", [17, -3, 99, None, "x"])
def test_an_answer_that_is_not_there(here, start):
    wrong = {**FLAT, "answers": {"text": ["fox"], "answer_start": [start]}}
    for text in (json.dumps(nested(NONE, wrong)), json.dumps([NONE, wrong])):
        write(here / "t.json", text)
        fails("(id q1): the answer 'fox' does not stand at", "t.json")
    write(here / "t.json", json.dumps([{**FLAT, "answers": {"text": ["fox"], "answer_start": []}}]))
    fails("t.json row 1: 1 answers and 0 starts", "t.json")
    write(here / "t.json", json.dumps({"data": [{"paragraphs": [{"qas": [{"id": "q"}]}]}]}))
    fails("t.json row 1: not as in SQuAD's files (KeyError('context'))", "t.json")
