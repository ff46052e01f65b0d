"""One trial of a sweep, as the study keeps it and people see it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from lepjax.tune.space import Values

WAITING, RUNNING, COMPLETE, PRUNED, FAILED, LOST = "waiting", "running", "complete", "pruned", "failed", "lost"


@dataclasses.dataclass(frozen=True)
class Trial:
    """A point of the space and what came of it. `score`s are the metric's own values, whichever direction is better."""

    ordinal: int
    """Its place in the sweep, from 0; one that was lost with its worker and done again keeps it."""
    number: int
    """Its number in the study."""
    state: str
    """waiting, running, complete, pruned, failed (not finite, or an error) or lost (its worker died)."""
    values: Values = dataclasses.field(default_factory=dict)
    score: float | None = None
    """At the end, the mean over seeds; None: there is none (yet)."""
    reports: dict[int, float] = dataclasses.field(default_factory=dict)
    """{step: score so far}."""
    by_seed: tuple[float, ...] = ()
    """The score of each seed, where there are several."""
    steps: int = 0
    """Optimizer steps taken."""
    seconds: float = 0.0
    """Its share of the time of the trials that it was trained together with."""
    note: str = ""
    """Why it failed."""


def winner(trials: Sequence[Trial], mode: str) -> Trial | None:
    """The complete trial that scores best, the first of equals; None: no trial is complete."""
    sign = 1.0 if mode == "min" else -1.0
    complete = [t for t in trials if t.state == COMPLETE and t.score is not None and math.isfinite(t.score)]
    return min(complete, key=lambda trial: sign * (trial.score or 0.0), default=None)
