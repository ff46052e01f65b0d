"""The plateau rule reduces when torch.optim.lr_scheduler.ReduceLROnPlateau does."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepjax.core.plateau import Plateau

values = st.lists(st.sampled_from([0.5, 0.9, 0.95, 0.9999, 1.0, 1.05, 2.0, -1.0, float("nan")]), max_size=30)
rules = st.builds(
    Plateau,
    mode=st.sampled_from(["min", "max"]),
    factor=st.just(0.5),
    patience=st.integers(0, 3),
    threshold=st.sampled_from([0.0, 1e-4, 0.1]),
    cooldown=st.integers(0, 3),
    smallest=st.sampled_from([0.0, 0.2]),
)


class Published:
    """ReduceLROnPlateau.step with threshold_mode="rel", transcribed from PyTorch's documentation and source."""

    def __init__(self, rule):
        self.rule = rule
        self.best = float("inf") if rule.mode == "min" else -float("inf")
        self.num_bad_epochs = self.cooldown_counter = 0
        self.lr = 1.0

    def is_better(self, a):
        if self.rule.mode == "min":
            return a < self.best * (1.0 - self.rule.threshold)
        return a > self.best * (self.rule.threshold + 1.0)

    def step(self, current):
        if self.is_better(current):
            self.best = current
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.rule.patience:
            self.lr = max(self.lr * self.rule.factor, self.rule.smallest)
            self.cooldown_counter = self.rule.cooldown
            self.num_bad_epochs = 0
        return self.lr


def ours(rule, sequence):
    memory, scales = rule.start(), []
    for value in sequence:
        memory = rule.update(memory, value)
        scales.append(memory.scale)
    return scales


@given(rules, values)
def test_reduces_when_the_published_rule_does(rule, sequence):
    published = Published(rule)
    assert ours(rule, sequence) == [published.step(value) for value in sequence]


@given(rules, values)
def test_reduces_when_torch_does(rule, sequence):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        rule.mode,
        rule.factor,
        rule.patience,
        rule.threshold,
        "rel",
        rule.cooldown,
        rule.smallest,
        0.0,
    )
    scales = []
    for value in sequence:
        theirs.step(value)
        scales.append(optimizer.param_groups[0]["lr"])
    assert ours(rule, sequence) == scales


@pytest.mark.parametrize("change", [{"patience": 2}, {"cooldown": 0}, {"threshold": 0.1}, {"mode": "max"}])
def test_every_setting_matters_to_the_comparison(change):
    rule = Plateau(factor=0.5, patience=1, threshold=0.0, cooldown=2)
    sequence = [1.0, 0.95, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]
    published = Published(rule)
    expected = [published.step(value) for value in sequence]
    assert ours(rule, sequence) == expected
    assert ours(dataclasses.replace(rule, **change), sequence) != expected


def test_memory_is_all_there_is_to_remember():
    rule, sequence = Plateau(patience=1, cooldown=1), [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5]
    memory, scales = rule.start(), []
    for value in sequence:
        memory = type(memory)(**dataclasses.asdict(rule.update(memory, value)))
        scales.append(memory.scale)
    assert scales == ours(rule, sequence)
    assert scales[-1] < 1.0
