"""What was made lately is not made again, within bounds."""

import dataclasses

import numpy as np
import pytest

from lepjax.data import buckets, packing, plan, recent
from lepjax.data.recent import Recent


def counted(size):
    made = []

    def make(n):
        made.append(n)
        return np.full(size, n)

    return Recent(make), made


def test_it_is_the_function():
    squares = Recent(lambda n: np.arange(n) ** 2)
    for n in (3, 5, 3):
        np.testing.assert_array_equal(squares(n), np.arange(n) ** 2)


def test_the_newest_are_kept(monkeypatch):
    monkeypatch.setattr(recent, "COUNT", 3)
    function, made = counted(1)
    for n in (0, 1, 2, 0, 3, 0, 1):  # 0 was asked for again, so 1 is the oldest when 3 comes
        assert function(n)[0] == n
    assert made == [0, 1, 2, 3, 1]


def test_bytes_bound_it_but_the_newest_stays(monkeypatch):
    monkeypatch.setattr(recent, "BYTES", 100)
    small, made = counted(5)  # 40 bytes
    for n in (0, 1, 0, 2, 0, 1):
        small(n)
    assert made == [0, 1, 2, 1]
    large, made = counted(50)
    for n in (0, 0, 1, 1, 0):
        large(n)
    assert made == [0, 1, 0]


LENGTHS = np.random.default_rng(0).integers(1, 9, 60)
PLANS = {
    "whole": (plan, "_permutation", plan.Plan(60, 10, 0, "recent")),
    "buckets": (buckets, "_arranged", buckets.BucketPlan(LENGTHS, (4, 8), 10, 0, "recent")),
    "packed": (packing, "_packed", packing.PackedPlan(LENGTHS, 16, 4, 4, 0, "recent")),
}


def making(module, name, one, monkeypatch):
    """How often an order is made where 20 seeds are read in turn over two epochs or more."""
    honest, made = getattr(module, name), []
    monkeypatch.setattr(module, name, Recent(lambda *given: made.append(given) or honest._make(*given)))
    if module is packing:
        packing._count.cache_clear()
    for cursor in range(12):
        for seed in range(20):
            dataclasses.replace(one, seed=seed).batch(cursor)
    return len(made) / len(set(made))


@pytest.mark.parametrize("kind", PLANS)
def test_orders_of_many_seeds_in_turn_are_made_once(kind, monkeypatch):
    assert making(*PLANS[kind], monkeypatch) == 1


@pytest.mark.parametrize("kind", PLANS)
def test_sabotage_a_memory_of_four_is_noticed(kind, monkeypatch):
    monkeypatch.setattr(recent, "COUNT", 4)
    assert making(*PLANS[kind], monkeypatch) > 2
