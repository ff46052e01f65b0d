"""No pruning: every trial is trained to its end."""

from __future__ import annotations

import dataclasses

from lepjax.tune.pruners.pruner import Pruner, Reports


@dataclasses.dataclass(frozen=True)
class NoPruning(Pruner):
    def rungs(self, ordinal: int, total_steps: int) -> tuple[int, ...]:
        return ()

    def ends(self, ordinal: int, step: int, total_steps: int, reports: Reports) -> bool:
        return False
