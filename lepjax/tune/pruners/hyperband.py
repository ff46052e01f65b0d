"""Hyperband (Li et al., 2017): brackets of successive halving that begin to judge at different steps."""

from __future__ import annotations

import dataclasses

from lepjax.tune.pruners.asha import Asha, among_best
from lepjax.tune.pruners.pruner import Pruner, Reports


@dataclasses.dataclass(frozen=True)
class Hyperband(Pruner):
    """Bracket b has `most` - b rungs, so that what is slow at first has its chance too; trials go to brackets in turn, to
    those that judge early more often (a bracket with k rungs gets `reduction`^k shares).
    """

    reduction: int = 3
    most: int = 3

    def bracket(self, ordinal: int) -> int:
        """The number of rungs that this trial has."""
        shares = [k for k in range(self.most, -1, -1) for _ in range(self.reduction**k)]
        return shares[
            (ordinal * 17) % len(shares)
        ]  # 17 and the number of shares have no common divisor: all get their turn

    def rungs(self, ordinal: int, total_steps: int) -> tuple[int, ...]:
        return Asha(self.reduction, self.bracket(ordinal)).rungs(ordinal, total_steps)

    def ends(self, ordinal: int, step: int, total_steps: int, reports: Reports) -> bool:
        own = self.bracket(ordinal)
        near = [r[step] for o, r in reports.items() if step in r and self.bracket(o) == own]
        return not among_best(reports[ordinal][step], near, self.reduction)
