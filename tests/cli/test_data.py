"""`lepjax data show`: the records of a step, as the loader will read them, and where they came from."""

import json
import re

import jax
import numpy as np
import pytest

from lepjax.cli import main as command
from lepjax.core.errors import CONFIGURATION, DONE, guarded
from lepjax.core.serialise import to_json
from lepjax.data.batching import Buckets, Fixed, Packed
from lepjax.data.buckets import BucketPlan
from lepjax.data.labelled import LabelledText
from lepjax.experiment import Steps, planned
from lepjax.models.bert import Bert
from lepjax.tasks.classification import Classification
from tests.labelled import labelled
from tests.tiny import tiny
from tests.words import WORDS, word_pieces

FILE = """
from lepjax.data.batching import Buckets, Fixed, Packed
from lepjax.experiment import Experiment
from tests.cli.test_data import texts
from tests.tiny import tiny

def experiment() -> Experiment:
    return texts(Fixed(16))

def bucketed() -> Experiment:
    return texts(Buckets(lengths=(8, 16)))

def packed() -> Experiment:
    return texts(Packed(length=24, slots=3))

def windows() -> Experiment:
    return tiny(mesh="data=1")
"""
LINE = re.compile(
    r"row (?P<row>\d+)( slot (?P<slot>\d+))?  record (?P<record>\d+)  epoch (?P<epoch>\d+)  "
    r'.*train\.tsv line (?P<line>\d+)  (?P<label>odd|even)  "(?P<text>.*)"'
)


def texts(batching):
    data = LabelledText(
        batch_size=4, tokenizer="words", max_length=16, batching=batching, dataset="texts", data_dir="texts"
    )
    return labelled(data=data, length=Steps(40), task=Classification(("even", "odd")))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    word_pieces(tmp_path / "words")
    noise = np.random.default_rng(0)
    sentences = [" ".join(noise.choice(WORDS, noise.integers(2, 12))) for _ in range(30)]
    rows = [f"{sentence}\t{'odd' if len(sentence) % 2 else 'even'}" for sentence in sentences]
    (tmp_path / "texts").mkdir()
    for split in ("train", "dev"):
        (tmp_path / "texts" / f"{split}.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n")
    (tmp_path / "small.py").write_text(FILE)
    return tmp_path


def show(*arguments, capsys):
    code = guarded(lambda: command.run(["data", "show", *map(str, arguments)]))
    out = capsys.readouterr()
    return code, out.out, out.err


def expected(experiment, step):
    """{(row, slot): (record, epoch)} of a batch."""
    order = planned(experiment, experiment.data.load())
    ids, epochs = order.plan.batch(step)
    places = [place for place in np.ndindex(ids.shape) if ids[place] >= 0]
    return {(p[0], p[1] if len(p) > 1 else None): (int(ids[p]), int(epochs[p])) for p in places}


def told(out):
    rows = {}
    for line in out.splitlines()[1:]:
        if line.endswith("padding"):
            continue
        match = LINE.fullmatch(line)
        assert match, line
        slot = int(match["slot"]) if match["slot"] else None
        rows[int(match["row"]), slot] = (int(match["record"]), int(match["epoch"]))
    return rows


VARIANTS = {"experiment": Fixed(16), "bucketed": Buckets(lengths=(8, 16)), "packed": Packed(length=24, slots=3)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_record_of_a_step_with_its_line(folder, capsys, variant):
    written = (folder / "texts" / "train.tsv").read_text().splitlines()
    experiment = texts(VARIANTS[variant])
    for step in (0, 7, 8, 39):
        code, out, err = show(f"small.py:{variant}", "--step", step, capsys=capsys)
        assert code == DONE, err
        assert out.startswith(f"step {step} reads batch {step} of plan ")
        assert told(out) == expected(experiment, step)
        for match in filter(None, map(LINE.fullmatch, out.splitlines())):
            sentence, label = written[int(match["line"]) - 1].split("\t")
            assert int(match["line"]) == int(match["record"]) + 2
            assert label == match["label"] and sentence == match["text"]
    assert not (folder / "runs").exists()


def test_nothing_is_compiled_and_no_weights_are_read(folder, capsys, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("must not happen")

    monkeypatch.setattr(Bert, "weights", refuse)
    monkeypatch.setattr(Bert, "build", refuse)
    monkeypatch.setattr(jax, "jit", refuse)
    assert show("small.py", "--step=3", capsys=capsys)[0] == DONE


def test_a_run_directory_that_skipped_data(folder, capsys):
    run = folder / "run"
    run.mkdir()
    experiment = texts(Fixed(16))
    (run / "experiment.json").write_text(json.dumps(to_json(experiment)))
    (run / "plan.json").write_text('{"passes": 1.0}')
    (run / "skipped_ranges.json").write_text("[[5, 9]]")
    code, out, _ = show(run, "--step", 6, capsys=capsys)
    assert code == DONE and out.startswith("step 6 reads batch 10 of plan")
    assert told(out) == expected(experiment, 10) != expected(experiment, 6)


def test_windows_are_decoded(folder, capsys):
    code, out, _ = show("small.py:windows", "--step", 0, capsys=capsys)
    rows = out.splitlines()[1:]
    assert code == DONE and len(rows) == 8
    record = int(re.match(r"row 0  record (\d+)", rows[0])[1])
    source = tiny().data.load().train
    shown = bytes(source.rows(np.array([record]), np.array([0]))["tokens"][0].astype(np.uint8)).decode()
    assert rows[0].endswith(f'"{" ".join(shown.split())}"')


MISTAKES = {
    ("small.py", "--step", "40"): "--step: there is no step 40. The run has steps 0 to 39.",
    ("small.py", "--step", "-1"): "--step: '-1' is no step. Use a whole number from 0.",
    ("small.py", "--step", "1.5"): "--step: '1.5' is no step",
    ("small.py", "--step", "²"): "--step: '²' is no step",
    ("small.py",): "--step: no step. Use a whole number from 0.",
    ("small.py", "--step"): "--step: needs a value",
    ("--step", "3"): "data show: no experiment",
    ("smal.py", "--step", "3"): "smal.py: no such experiment file. Did you mean small.py?",
    ("words", "--step", "3"): "words: is no run directory",
    ("small.py", "--step", "3", "--data.batch-size", "0"): "experiment: batch size 0",
    ("small.py", "--step", "3", "--data.data-dir", "none"): "none (no such folder)",
}


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_a_mistake_is_one_line(folder, capsys, arguments):
    code, out, err = show(*arguments, capsys=capsys)
    assert code == CONFIGURATION and out == ""
    lines = [line for line in err.splitlines() if "from local file" not in line]  # what data were read
    assert len(lines) == 1 and MISTAKES[arguments] in lines[0], err
    code = guarded(lambda: command.run(["data", "shwo", "small.py"]))
    assert code == CONFIGURATION and "data: no command 'shwo'. Use: lepjax data show" in capsys.readouterr().err


def test_sabotage_another_order_is_noticed(folder, capsys, monkeypatch):
    right = expected(texts(Fixed(16)), 3)
    honest = BucketPlan.batch
    monkeypatch.setattr(BucketPlan, "batch", lambda self, cursor: honest(self, cursor + 1))
    assert told(show("small.py", "--step", 3, capsys=capsys)[1]) != right
