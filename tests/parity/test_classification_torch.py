"""Weighted and smoothed cross-entropy against torch.nn.CrossEntropyLoss."""

import jax.numpy as jnp
import numpy as np
import pytest

from lepjax.tasks.classification import Classification

torch = pytest.importorskip("torch")

NAMES = ("no", "perhaps", "yes")
LOGITS = np.random.default_rng(3).normal(size=(12, 3)).astype(np.float32)
LABELS = np.arange(12) % 3
WEIGHTS = (1.0, 0.25, 3.0)


def classification_loss(smoothing=0.0, weights=()):
    task = Classification(NAMES, class_loss_weights=weights)
    batch = {"label": jnp.asarray(LABELS), "weight": jnp.ones(len(LABELS))}
    return float(task.terms(jnp.asarray(LOGITS), batch, {"label_smoothing": jnp.float32(smoothing)})["nll"].mean)


def torch_loss(smoothing=0.0, weights=()):
    weight = torch.tensor(weights) if weights else None
    loss = torch.nn.CrossEntropyLoss(weight=weight, label_smoothing=smoothing)
    return loss(torch.tensor(LOGITS), torch.tensor(LABELS)).item()


@pytest.mark.parametrize("options", [{}, {"smoothing": 0.1}, {"smoothing": 1.0}, {"weights": WEIGHTS}], ids=str)
def test_classification_loss(options):
    assert classification_loss(**options) == pytest.approx(torch_loss(**options), rel=1e-6)
    if options:
        assert classification_loss() != pytest.approx(torch_loss(**options), rel=1e-3)


def test_smoothed_and_weighted_at_once():
    """Here a row counts as much as its class weighs, whatever it is compared with:
    sum_i w[y_i] ((1 - s) nll_i[y_i] + s mean_c nll_i[c]) / sum_i w[y_i].
    torch weighs the smoothed part by each class it goes to: ... + s mean_c w[c] nll_i[c]. The two differ.
    """
    nll = -torch.log_softmax(torch.tensor(LOGITS), -1).numpy()
    row, by_class = np.array(WEIGHTS)[LABELS], np.array(WEIGHTS)
    sharp = row * 0.9 * nll[np.arange(12), LABELS]
    ours = (sharp + 0.1 * row * nll.mean(1)).sum() / row.sum()
    theirs = (sharp + 0.1 * (by_class * nll).mean(1)).sum() / row.sum()
    assert classification_loss(0.1, WEIGHTS) == pytest.approx(ours, rel=1e-6)
    assert torch_loss(0.1, WEIGHTS) == pytest.approx(theirs, rel=1e-6)
    assert ours != pytest.approx(theirs, rel=1e-3)
