"""The median rule (Golovin et al., Google Vizier, 2017): worse than half of the complete trials were at the same step."""

from __future__ import annotations

import dataclasses
import math
import statistics

from lepjax.tune.pruners.pruner import Pruner, Reports


@dataclasses.dataclass(frozen=True)
class Median(Pruner):
    """Judged after each of `count` - 1 equal parts of the run, once `startup` trials are complete, by the best report so
    far: as Optuna's MedianPruner does. A cohort is compared with those before it, so the first one is never cut: where all
    trials train together, halving and asha save more.
    """

    count: int = 4
    startup: int = 5

    def rungs(self, ordinal: int, total_steps: int) -> tuple[int, ...]:
        steps = {total_steps * k // self.count for k in range(1, self.count)}
        return tuple(sorted(step for step in steps if step >= 1))

    def ends(self, ordinal: int, step: int, total_steps: int, reports: Reports) -> bool:
        if not math.isfinite(reports[ordinal][step]):
            return True
        best = min(value for at, value in reports[ordinal].items() if at <= step and not math.isnan(value))
        complete = [report for report in reports.values() if total_steps in report]
        there = [report[step] for report in complete if not math.isnan(report.get(step, math.nan))]
        return len(complete) >= self.startup and bool(there) and best > statistics.median(there)
