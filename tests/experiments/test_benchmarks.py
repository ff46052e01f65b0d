"""Benchmarks that cannot be run here can at least be started, and compare programs that compute the same."""

import json
import sys

import pytest

from experiments.benchmarks import llm_vs_torch_compile as llm


@pytest.fixture
def here(monkeypatch):
    """lepjax's side in this process: it finds its programs in the tests' compile cache."""
    monkeypatch.setattr(llm, "our_run", lambda wanted, folder, environment: llm.work(wanted, folder))


def test_llm_smoke(here, tmp_path, monkeypatch, capsys):
    file = tmp_path / "found.json"
    monkeypatch.setattr(sys, "argv", ["llm", "--smoke", "--cases", "gpt2", "--json", str(file)])
    llm.main()
    found = json.loads(file.read_text())
    assert found["arguments"]["rounds"] == 1 and found["arguments"]["cases"] == ["gpt2"]
    (run,) = found["cases"]["gpt2"]["runs"]["lepjax"]
    assert run["versions"]["jax"] and run["device"] == "cpu" and len(run["seconds"]) == 2 and run["kernels_ms"]
    summary = found["cases"]["gpt2"]["summary"]
    assert summary["lepjax"]["tokens_per_second"] > 0 and "torch" not in summary
    assert "tokens/s" in capsys.readouterr().out


@pytest.mark.full
@pytest.mark.parametrize("case", ["gpt2", "llama"])
def test_the_peer_computes_the_same(here, case):
    pytest.importorskip("torch")
    losses = llm.agree(case, sys.executable)
    assert len(losses) == llm.LOSSES and losses[-1] < losses[0]


@pytest.mark.full
def test_sabotage_other_weights_are_noticed(here, monkeypatch):
    pytest.importorskip("torch")
    whole = llm.torch_weights

    def twisted(*arguments):
        return {name: -w if name.endswith("attention.query.weight") else w for name, w in whole(*arguments).items()}

    monkeypatch.setattr(llm, "torch_weights", twisted)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        llm.agree("llama", sys.executable)
