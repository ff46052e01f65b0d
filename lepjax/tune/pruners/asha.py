"""Successive halving without waiting (Li et al., A System for Massively Parallel Hyperparameter Tuning, 2020)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from lepjax.tune.pruners.pruner import Pruner, Reports


@dataclasses.dataclass(frozen=True)
class Asha(Pruner):
    """At each rung a trial goes on if it is among the best 1 / `reduction` of all that ever reported there.

    The rungs are at total / reduction, total / reduction^2, ..., `count` of them.
    """

    reduction: int = 4
    count: int = 3

    def rungs(self, ordinal: int, total_steps: int) -> tuple[int, ...]:
        steps = {total_steps // self.reduction**k for k in range(1, self.count + 1)}
        return tuple(sorted(step for step in steps if step >= 1))

    def ends(self, ordinal: int, step: int, total_steps: int, reports: Reports) -> bool:
        return not among_best(reports[ordinal][step], [r[step] for r in reports.values() if step in r], self.reduction)


def among_best(own: float, everyone: Sequence[float], reduction: int) -> bool:
    """Whether `own` is in the best 1 / reduction of `everyone` (which holds it), or the best of all where that is no one."""
    if not math.isfinite(own):
        return False
    ranked = sorted(value for value in everyone if not math.isnan(value))
    return own <= ranked[max(len(everyone) // reduction, 1) - 1]
