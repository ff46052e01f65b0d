"""What every sampler offers: a pure function from what was seen to the next point."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from lepjax.tune.space import Space, Values


@dataclasses.dataclass(frozen=True)
class Seen:
    """A trial as a sampler sees it."""

    ordinal: int
    """Its place in the sweep, from 0. A trial that was lost with its worker and done again keeps it."""
    values: Values
    score: float | None
    """The lower the better, also of trials that were pruned (their last); None: still running; inf: failed."""
    pruned: bool = False
    """The score is that of fewer steps than others had."""
    steps: int = 0
    """Optimizer steps behind the score: a pruned trial has fewer than others."""


@dataclasses.dataclass(frozen=True)
class Sampler:
    """To add a sampler, write a file of this folder with a dataclass that derives from this one."""

    def suggest(self, space: Space, seen: Sequence[Seen], ordinal: int, seed: int) -> Values:
        """The point of trial `ordinal`: a pure function of these, so that a sweep that was killed goes on as it would have.

        `seen` are trials with lower ordinals, in their order; some may be running, some be missing.
        """
        raise TypeError(f"{type(self).__name__} must define suggest")

    def trials(self, space: Space) -> int | None:
        """How many different points there are, where the sampler knows; None: as many as wanted."""
        return None

    def check(self, space: Space) -> None:
        """Raises `UserError` for a space that this sampler cannot serve."""
