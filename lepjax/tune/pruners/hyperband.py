"""Hyperband (Li et al., 2017): brackets of successive halving that begin to judge at different steps."""

from __future__ import annotations

import dataclasses
import math

from lepjax.core.errors import UserError
from lepjax.tune.pruners.asha import Asha, among_best
from lepjax.tune.pruners.pruner import Pruner, Reports

GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


@dataclasses.dataclass(frozen=True)
class Hyperband(Pruner):
    """The bracket with k rungs, 0 to `most`, ends trials as `Asha(reduction, k)` does, so that what is slow at first has its
    chance too. It gets reduction^k / (k + 1) shares of all trials, as in the paper; only trials of a bracket are compared.
    """

    reduction: int = 3
    most: int = 3

    def __post_init__(self) -> None:
        if self.reduction < 2:
            fix = "Use 2 or more: the best 1 / reduction goes on."
            raise UserError(f"a reduction of {self.reduction}", where="pruner", fix=fix)

    def bracket(self, ordinal: int) -> int:
        """The number of rungs that this trial has. Multiples of the golden ratio spread the shares evenly."""
        shares = [self.reduction**k / (k + 1) for k in range(self.most + 1)]
        place = ordinal * GOLDEN % 1.0 * sum(shares)
        return next((k for k in range(self.most, 0, -1) if place < sum(shares[k:])), 0)

    def rungs(self, ordinal: int, total_steps: int) -> tuple[int, ...]:
        return Asha(self.reduction, self.bracket(ordinal)).rungs(ordinal, total_steps)

    def ends(self, ordinal: int, step: int, total_steps: int, reports: Reports) -> bool:
        own = self.bracket(ordinal)
        near = [r[step] for o, r in reports.items() if step in r and self.bracket(o) == own]
        return not among_best(reports[ordinal][step], near, self.reduction)
