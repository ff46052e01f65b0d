"""CMA-ES (Hansen and Ostermeier, 2001) by the package `cmaes`, as a pure function: earlier generations are replayed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from lepjax.core.errors import UserError
from lepjax.tune.samplers.sampler import Sampler, Seen
from lepjax.tune.space import Choice, Space, Values, at, units


@dataclasses.dataclass(frozen=True)
class CmaEs(Sampler):
    """Generations of `population` trials, the first around the middle of the space with a standard deviation of `sigma` of
    its width. A generation of which some still run or failed is told with these at the end of its ranking.
    """

    population: int = 8
    sigma: float = 0.25

    def suggest(self, space: Space, seen: Sequence[Seen], ordinal: int, seed: int) -> Values:
        optimizer = self._replayed(space, {one.ordinal: one for one in seen}, ordinal // self.population, seed)
        for _ in range(ordinal % self.population):
            optimizer.ask()
        return at(space, optimizer.ask())

    def _replayed(self, space: Space, seen: dict[int, Seen], generations: int, seed: int) -> Any:
        import cmaes

        bounds = np.array([[0.0, 1.0]] * len(space))
        middle = np.full(len(space), 0.5)
        optimizer = cmaes.CMA(middle, self.sigma, bounds=bounds, seed=seed, population_size=self.population)
        for generation in range(generations):
            asked = [optimizer.ask() for _ in range(self.population)]
            here = [seen.get(generation * self.population + i) for i in range(self.population)]
            # What was trained is what counts: whole numbers were rounded.
            points = [
                x if one is None else np.array(units(space, one.values)) for x, one in zip(asked, here, strict=True)
            ]
            scores = [np.inf if one is None or one.score is None else one.score for one in here]
            worst = max((s for s in scores if np.isfinite(s)), default=0.0)
            optimizer.tell([(x, s if np.isfinite(s) else worst + 1.0) for x, s in zip(points, scores, strict=True)])
        return optimizer

    def check(self, space: Space) -> None:
        for name, dimension in space.items():
            if isinstance(dimension, Choice):
                fix = "Use tpe, gp or genetic, or a range of numbers."
                raise UserError("a choice has no order, which CMA-ES needs", where=f"space {name}", fix=fix)
        if len(space) < 2:
            raise UserError("CMA-ES needs two dimensions or more", where="sampler cmaes", fix="Use tpe or gp.")
        try:
            import cmaes  # noqa: F401
        except ImportError as error:
            raise UserError("cmaes is not installed", where="tune", fix='Run: pip install "lepjax[tune]"') from error
