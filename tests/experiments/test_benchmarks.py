"""Benchmarks that cannot be run here can at least be started, and compare programs that compute the same."""

import json
import sys

import pytest

from experiments.benchmarks import llm_vs_torch_compile as llm
from experiments.benchmarks import mup_transfer


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


def transferred(best, change):
    """What `mup_transfer` finds where each width is best at a rate of 2**best, and moves by `change(width)`."""
    losses = {str(w): {"0": {str(2.0**p): abs(p - best[w]) for p in mup_transfer.POWERS}} for w in best}
    moves = {str(w): {module: [change(w)] for module in mup_transfer.SHOWN} for w in best}
    return {
        "losses": dict.fromkeys(mup_transfer.BASES, losses),
        "coordinates": dict.fromkeys(mup_transfer.BASES, moves),
    }


def test_the_transfer_of_rates_is_told_and_drawn(tmp_path, monkeypatch, capsys):
    file, png = tmp_path / "found.json", tmp_path / "found.png"
    file.write_text(json.dumps(transferred({64: -8, 256: -7}, lambda width: 0.1)))
    monkeypatch.setattr(sys, "argv", ["mup", "--json", str(file), "--plot", str(png), "--widths"])
    assert mup_transfer.main() == 0
    assert "muP         width  256: best 2^-7 0.000, at the base's best 2^-8 1.000" in capsys.readouterr().out
    assert png.read_bytes().startswith(b"\x89PNG")


def test_sabotage_a_rate_that_does_not_transfer_is_told(capsys):
    assert mup_transfer.report(transferred({64: -8, 256: -10}, lambda width: 0.1)) == 1
    assert mup_transfer.report(transferred({64: -8, 256: -10}, lambda width: 0.1 * width)) == 2
