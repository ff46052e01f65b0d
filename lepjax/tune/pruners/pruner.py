"""What every pruner offers: at which steps trials report, and a pure rule that ends some of them there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

Reports = Mapping[int, Mapping[int, float]]
"""{ordinal: {step: score}}: of all trials so far, the lower the better."""


@dataclasses.dataclass(frozen=True)
class Pruner:
    """To add a pruner, write a file of this folder with a dataclass that derives from this one."""

    def among(self, together: int) -> Pruner:
        """This pruner, where `together` trials train side by side."""
        return self

    def rungs(self, ordinal: int, total_steps: int) -> tuple[int, ...]:
        """The steps (ascending, each below `total_steps`) after which trial `ordinal` reports and may end."""
        raise TypeError(f"{type(self).__name__} must define rungs")

    def ends(self, ordinal: int, step: int, total_steps: int, reports: Reports) -> bool:
        """Whether trial `ordinal`, which has just reported at its rung `step`, ends there. All that train together report
        before the first of them is judged.
        """
        raise TypeError(f"{type(self).__name__} must define ends")
