"""Evaluation is exact on the last partial batch, on any mesh, and its memory does not grow with the data."""

import dataclasses

import jax
import numpy as np
import pytest

from lepjax.data.plan import EvaluationPlan
from lepjax.experiment import build
from lepjax.run.evaluation import Evaluator
from tests.tiny import TinyText, tiny


def unpadded(built, state):
    """loss and accuracy over every target at once, in numpy's float64."""
    source = built.splits.evaluation["dev"]
    ids = np.arange(len(source))
    rows = source.rows(ids, ids * 0)
    logits, _ = built.model.apply(jax.device_get(state.params), {}, rows["tokens"])
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    nll = np.log(np.exp(shifted).sum(-1)) - np.take_along_axis(shifted, rows["targets"][..., None], -1)[..., 0]
    counted = rows["mask"] > 0
    return {
        "dev_loss": nll[counted].mean(),
        "dev_bits_per_byte": nll[counted].mean() / np.log(2),
        "dev_perplexity": np.exp(nll[counted].mean()),
        "dev_accuracy": (logits.argmax(-1) == rows["targets"])[counted].mean(),
    }


@pytest.fixture(scope="module", params=["data=1", "data=8", "fsdp=4,tensor=2"])
def evaluated(request):
    # 18 windows in batches of 8: the last batch is partial, and so is the last window
    built = build(tiny(mesh=request.param, data=TinyText(size=5500)))
    assert len(built.splits.evaluation["dev"]) % 8 not in (0, 1)
    return built, built.init()


def test_metrics_equal_the_unpadded_values(evaluated):
    built, state = evaluated
    ours, theirs = Evaluator(built)(state), unpadded(built, state)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=1e-5), name


def test_every_batch_is_a_sign_of_life(evaluated):
    built, state = evaluated
    alive = []
    Evaluator(built)(state, lambda: alive.append(1))
    assert len(alive) == len(built.scored("dev")) > 1


def test_sabotage_a_leaking_pad_row_is_noticed(evaluated, monkeypatch):
    def leak(self, cursor):
        ids, epochs = batch(self, cursor)
        return np.where(ids < 0, ids.max(), ids), epochs

    batch = EvaluationPlan.batch
    monkeypatch.setattr(EvaluationPlan, "batch", leak)
    built, state = evaluated
    ours, theirs = Evaluator(built)(state), unpadded(built, state)
    assert ours["dev_accuracy"] != pytest.approx(theirs["dev_accuracy"], rel=1e-5) or ours["dev_loss"] != pytest.approx(
        theirs["dev_loss"], rel=1e-5
    )


def live_bytes_while_evaluating(size, keep=None):
    """The most device bytes that are alive between two batches."""
    built = build(tiny(mesh="data=1", data=TinyText(size=size)))
    state, evaluator = built.init(), Evaluator(built)
    seen = []
    batches, shardings, measure = evaluator._splits["dev"]

    def watched(*args):
        part = measure(*args)
        if keep is not None:
            keep.append(args[2])
        seen.append(sum(x.nbytes for x in jax.live_arrays()))
        return part

    evaluator._splits["dev"] = (batches, shardings, watched)
    before = sum(x.nbytes for x in jax.live_arrays())
    evaluator(state)
    return max(seen) - before, len(seen)


def test_memory_does_not_grow_with_the_data():
    small, few = live_bytes_while_evaluating(20_000)
    large, many = live_bytes_while_evaluating(80_000)
    assert many >= 3.5 * few
    assert large <= 1.05 * small


def test_sabotage_kept_batches_are_noticed():
    small, _ = live_bytes_while_evaluating(20_000, keep=[])
    large, _ = live_bytes_while_evaluating(80_000, keep=[])
    assert large > 2 * small


def test_the_average_is_what_is_evaluated():
    built = build(tiny(mesh="data=1", ema=0.9))
    state = built.init()
    evaluator = Evaluator(built)
    zeros = dataclasses.replace(state, ema=jax.tree.map(lambda x: x * 0, state.ema))
    assert evaluator(zeros)["dev_loss"] == pytest.approx(np.log(256), rel=1e-5)
    assert evaluator(state)["dev_loss"] != pytest.approx(np.log(256), rel=1e-5)
