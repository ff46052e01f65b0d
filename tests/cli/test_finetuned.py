"""From a fine-tuning run to predictions and a folder to hand on, by commands alone."""

import json

import numpy as np
import pytest

from lepjax.cli import main as command
from lepjax.core.errors import CONFIGURATION, guarded
from lepjax.models import BertForSequenceClassification


@pytest.fixture(scope="module")
def run(tiny_bert, test_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    arguments = ["--model", tiny_bert, "--data-dir", test_data / "sst2", "--max-train-examples", 64, "--steps", 2]
    arguments += ["--mesh", "data=1", "--run-dir", folder / "run"]
    assert command.run(["train", "experiments/sst2_bert.py", *map(str, arguments)]) == 0
    return folder / "run"


def test_both_scores_of_the_final_split_are_told(run):
    found = json.loads((run / "result.json").read_text())
    assert {"dev_accuracy", "last_dev_accuracy", "tune_accuracy", "best"} <= found.keys()


def test_the_report_shows_what_is_wrong(run):
    page = (run / "report.html").read_text()
    for part in ("dev: confusion", "dev: ROC", "most wrong of", "precision    recall  f1-score"):
        assert part in page


def test_predict(run, capsys, tmp_path):
    texts = ["a gripping film", "dull"]
    (tmp_path / "texts").write_text("\n".join(texts) + "\n\n")
    assert command.run(["predict", str(run), "--text", texts[0], f"--text={texts[1]}"]) == 0
    one = capsys.readouterr().out
    assert command.run(["predict", str(run), "--file", str(tmp_path / "texts")]) == 0
    assert capsys.readouterr().out == one
    lines = [line.split("\t") for line in one.splitlines()]
    assert [line[2] for line in lines] == texts
    assert all(label in ("negative", "positive") and 0.5 <= float(share) <= 1.0 for label, share, _ in lines)


def test_export_is_what_was_trained(run, tmp_path, capsys):
    assert command.run(["export", str(run), str(tmp_path / "out")]) == 0
    model = BertForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.labels == ("negative", "positive") and not model.new and not model.unused
    again = BertForSequenceClassification.from_pretrained(tmp_path / "out")
    ids = [[101, 2023, 102]]
    np.testing.assert_array_equal(model(ids).logits, again(ids).logits)
    assert (tmp_path / "out" / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "RUN"], "no text"),
        (["predict", "RUN", "--file", "nothing"], "nothing: cannot be read"),
        (["export", "RUN"], "no folder to write to"),
        (["export", "RUN", "RUN"], "not an empty folder"),
        (["train", "experiments/sst2_bert.py", "--max-train-examples", "many"], "'many' is not int"),
        (["train", "experiments/sst2_bert.py", "--data-dri", "x"], "--data-dir"),
        (["train", "experiments/sst2_bert.py", "--model", "/nowhere"], "/nowhere: no such folder"),
    ],
)
def test_mistakes(arguments, message, run, capsys):
    assert guarded(lambda: command.run([str(run) if a == "RUN" else a for a in arguments])) == CONFIGURATION
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_head_of_another_size_is_told_before_anything_is_written(tiny_bert, test_data, tmp_path, capsys):
    arguments = ["--model", tiny_bert, "--data-dir", test_data / "sst2", "--model.head.num-labels", "3"]
    arguments += ["--mesh", "data=1", "--run-dir", tmp_path / "run"]
    asked = ["train", "experiments/sst2_bert.py", *map(str, arguments)]
    assert guarded(lambda: command.run(asked)) == CONFIGURATION
    assert "2 labels, the model's head 3" in capsys.readouterr().err and not (tmp_path / "run").exists()
