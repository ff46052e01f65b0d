"""Successive halving without waiting (Li et al., A System for Massively Parallel Hyperparameter Tuning, 2020)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from lepjax.core.errors import UserError
from lepjax.tune.pruners.pruner import Pruner, Reports


@dataclasses.dataclass(frozen=True)
class Asha(Pruner):
    """At each rung a trial goes on if it is among the best 1 / `reduction` of all that ever reported there, those that train
    together with it included: as Optuna's SuccessiveHalvingPruner decides.

    The rungs are at total / reduction, total / reduction^2, ..., `count` of them. Of three, the first comes so early that
    what is best in the end often falls there (experiments/benchmarks/README.md).
    """

    reduction: int = 4
    count: int = 2

    def __post_init__(self) -> None:
        if self.reduction < 2:
            fix = "Use 2 or more: the best 1 / reduction goes on."
            raise UserError(f"a reduction of {self.reduction}", where="pruner", fix=fix)

    def rungs(self, ordinal: int, total_steps: int) -> tuple[int, ...]:
        steps = {total_steps // self.reduction**k for k in range(1, self.count + 1)}
        return tuple(sorted(step for step in steps if step >= 1))

    def ends(self, ordinal: int, step: int, total_steps: int, reports: Reports) -> bool:
        return not among_best(reports[ordinal][step], [r[step] for r in reports.values() if step in r], self.reduction)


def among_best(own: float, everyone: Iterable[float], reduction: int) -> bool:
    """Whether `own` is in the best 1 / reduction of `everyone` (which holds it), or the best of all where that is no one."""
    ranked = sorted(value for value in everyone if not math.isnan(value))
    return math.isfinite(own) and own <= ranked[max(len(ranked) // reduction, 1) - 1]
