"""A run that skips bad records says so, keeps them in a file, and goes on with the same batches."""

import dataclasses
import json

import pytest
from rich.console import Console

from lepjax.core.errors import UserError
from lepjax.data.batching import Fixed
from lepjax.data.labelled import LabelledText
from lepjax.data.quarantine import Skip
from lepjax.experiment import Steps, build
from lepjax.run.train import train
from lepjax.tasks.classification import Classification
from tests.labelled import SIZES, labelled
from tests.words import word_pieces

GOOD = [f"the fox jumps over dog {i}\t{i % 2}" for i in range(24)]
BAD = ["the fox", "half a l"]


@pytest.fixture
def experiment(tmp_path):
    (tmp_path / "train.tsv").write_text("\n".join(["text\tlabel", *GOOD[:10], BAD[0], *GOOD[10:], BAD[1]]))
    (tmp_path / "dev.tsv").write_text("\n".join(["text\tlabel", *GOOD]))
    recipe = LabelledText(
        batch_size=8,
        tokenizer=word_pieces(tmp_path / "words"),
        max_length=16,
        batching=Fixed(16),
        dataset=str(tmp_path),
        bad_records=Skip(2),
    )
    model = dataclasses.replace(labelled().model, architecture=dataclasses.replace(SIZES, layers=1))
    values = {"data": recipe, "model": model, "task": Classification(("0", "1")), "run_dir": str(tmp_path / "run")}
    return labelled(length=Steps(2), **values)


def test_a_run_keeps_what_it_skipped(experiment, tmp_path):
    with (tmp_path / "out.txt").open("w") as out:
        train(experiment, console=Console(file=out, width=200))
    kept = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert [(bad["line"], bad["reason"], bad["raw"]) for bad in kept] == [
        (12, "1 instead of 2 columns (text, label)", "the fox"),
        (27, "1 instead of 2 columns (text, label)", "half a l"),
    ]
    data = (tmp_path / "train.tsv").read_bytes()
    assert all(data[bad["offset"] :].startswith(bad["raw"].encode()) for bad in kept)
    assert all(bad["file"] == str(tmp_path / "train.tsv") for bad in kept)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    words = str(tmp_path / "words")
    assert manifest["sources"]["data.tokenizer"] == {"name": words, "folder": words, "commit": None}
    assert manifest["sources"]["data"][-1].startswith("skipped 2 records")
    told = (tmp_path / "out.txt").read_text()
    assert f"skipped 2 records that cannot be used, the first at {tmp_path}/train.tsv line 12" in told


def test_the_plan_sees_the_good_records_only(experiment, tmp_path):
    skipping = build(experiment).plan.fingerprint
    assert build(experiment).plan.fingerprint == skipping
    (tmp_path / "train.tsv").write_text("\n".join(["text\tlabel", *GOOD]))
    assert build(experiment).plan.fingerprint == skipping


def test_too_many_and_nothing_is_written(experiment, tmp_path):
    (tmp_path / "train.tsv").write_text("\n".join(["text\tlabel", *GOOD, *BAD, "three"]))
    with pytest.raises(UserError, match=r"train.tsv line 26: .* 3 records up to .* line 28 cannot be used, 2 may be"):
        train(experiment, console=Console(quiet=True))
    assert not (tmp_path / "run").exists()


def test_sabotage_a_forgotten_record_is_another_plan(experiment, tmp_path):
    before = build(experiment).plan.fingerprint
    (tmp_path / "train.tsv").write_text("\n".join(["text\tlabel", *GOOD[:-1], *BAD]))
    assert build(experiment).plan.fingerprint != before
