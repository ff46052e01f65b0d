"""The median rule (Golovin et al., Google Vizier, 2017): worse than half of the earlier trials at the same step."""

from __future__ import annotations

import dataclasses
import math
import statistics

from lepjax.tune.pruners.pruner import Pruner, Reports


@dataclasses.dataclass(frozen=True)
class Median(Pruner):
    """`count` equal parts of the run; nothing ends before `startup` other trials have reported at the step. A trial is
    judged by its best report so far, as Optuna's MedianPruner does.
    """

    count: int = 4
    startup: int = 5

    def rungs(self, ordinal: int, total_steps: int) -> tuple[int, ...]:
        steps = {total_steps * k // self.count for k in range(1, self.count)}
        return tuple(sorted(step for step in steps if step >= 1))

    def ends(self, ordinal: int, step: int, total_steps: int, reports: Reports) -> bool:
        own = [value for at, value in reports[ordinal].items() if at <= step and math.isfinite(value)]
        if not own:
            return True
        others = [report[step] for other, report in reports.items() if other != ordinal and step in report]
        others = [value for value in others if not math.isnan(value)]
        return len(others) >= self.startup and min(own) > statistics.median(others)
