"""Grid search: every combination once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from lepjax.core.errors import UserError
from lepjax.tune.samplers.sampler import Sampler, Seen
from lepjax.tune.space import Dimension, Space, Values

MOST = 100_000


@dataclasses.dataclass(frozen=True)
class Grid(Sampler):
    """Choices and whole numbers as they are, other ranges at `points` equal distances, ends included."""

    points: int = 5

    def suggest(self, space: Space, seen: Sequence[Seen], ordinal: int, seed: int) -> Values:
        values = {}
        for name, dimension in reversed(list(space.items())):  # the last varies fastest
            ordinal, place = divmod(ordinal, len(self._values(dimension)))
            values[name] = self._values(dimension)[place]
        return {name: values[name] for name in space}

    def trials(self, space: Space) -> int:
        return math.prod(len(self._values(dimension)) for dimension in space.values())

    def check(self, space: Space) -> None:
        if self.points < 2:
            raise UserError(f"{self.points} points", where="sampler grid", fix="Use 2 or more.")
        if (count := self.trials(space)) > MOST:
            fix = "Name fewer values, or use the sampler qmc."
            raise UserError(f"a grid of {count:,} trials", where="sampler grid", fix=fix)

    def _values(self, dimension: Dimension) -> Sequence[object]:
        if dimension.options is not None:
            return dimension.options
        return [dimension.value(i / (self.points - 1)) for i in range(self.points)]
