"""Synchronous successive halving (Jamieson and Talwalkar, 2016): only trials that train together are compared."""

from __future__ import annotations

import dataclasses

from lepjax.core.errors import UserError
from lepjax.tune.pruners.asha import Asha, among_best
from lepjax.tune.pruners.pruner import Reports


@dataclasses.dataclass(frozen=True)
class Halving(Asha):
    """The best 1 / `reduction` of each `cohort` go on at each rung: of 16 trials 4 after a sixteenth of the steps, 1 after a
    quarter. A sweep sets `cohort`, aligned ordinals, to the trials that train together.
    """

    cohort: int = 16

    def among(self, together: int) -> Halving:
        if together < self.reduction:
            fix = f"Use pruner asha, or together {self.reduction} or more."
            raise UserError(f"halving cannot end any of {together} at a time", where="pruner", fix=fix)
        return dataclasses.replace(self, cohort=together)

    def ends(self, ordinal: int, step: int, total_steps: int, reports: Reports) -> bool:
        near = [r[step] for o, r in reports.items() if o // self.cohort == ordinal // self.cohort and step in r]
        return not among_best(reports[ordinal][step], near, self.reduction)
