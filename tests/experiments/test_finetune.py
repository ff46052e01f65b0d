"""Fine-tuning reaches what it should: short variants of the experiments, on real data."""

import json

import pytest

from lepjax.cli import main as command

SHORT = ["--mesh", "data=1", "--checkpoint-every", "0"]


def result(folder, *arguments):
    assert command.run(["train", *map(str, arguments), *SHORT, "--run-dir", str(folder)]) == 0
    return json.loads((folder / "result.json").read_text())


def test_sst2(minilm, test_data, tmp_path):
    """4,000 rows, 2 epochs, 528 steps of some 16 sentences: 0.858 and 0.843 with seeds 0 and 1. TF-IDF and logistic
    regression on all rows: 0.821.
    """
    arguments = ["--model", minilm, "--data-dir", test_data / "sst2", "--max-train-examples", 4000, "--epochs", 2]
    found = result(tmp_path, "experiments/sst2_bert.py", *arguments, "--data.batch-size", 3)
    assert found["dev_accuracy"] >= 0.84
    assert found["last_dev_accuracy"] >= 0.84


def test_sabotage_without_training_it_is_a_coin(minilm, test_data, tmp_path):
    arguments = ["--model", minilm, "--data-dir", test_data / "sst2", "--max-train-examples", 64, "--epochs", 1]
    found = result(tmp_path, "experiments/sst2_bert.py", *arguments, "--optimizer.learning-rate", "0.0")
    assert found["dev_accuracy"] < 0.7


@pytest.mark.full
def test_conll(minilm, test_data, tmp_path):
    """All of it, 3 epochs: PyTorch gets 0.907 and 0.858."""
    arguments = ["--model", minilm, "--data-dir", test_data / "conll2003"]
    found = result(tmp_path, "experiments/conll_ner.py", *arguments)
    assert found["test_entity_f1"] >= 0.855
