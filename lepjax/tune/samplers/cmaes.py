"""CMA-ES (Hansen and Ostermeier, 2001) by the package `cmaes`, as a pure function: earlier generations are told again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from lepjax.core.errors import UserError
from lepjax.tune.samplers.qmc import quasi_random
from lepjax.tune.samplers.sampler import Sampler, Seen
from lepjax.tune.space import Choice, Space, Values, at, units


@dataclasses.dataclass(frozen=True)
class CmaEs(Sampler):
    """Generations of `population` trials. Quasi-random until one has scores; its best is the middle of the next, whose
    standard deviation is `sigma` of the space's width.

    Later ones are told once half of them have scores, and until then the one before goes on. Those that still run,
    failed or were lost then count as the worst, at the middle, where they move nothing. Trials that train together do not
    learn from each other: where more do than `population`, a larger one serves better.
    """

    population: int = 8
    sigma: float = 0.2

    def suggest(self, space: Space, seen: Sequence[Seen], ordinal: int, seed: int) -> Values:
        scored = [s for s in seen if s.score is not None and np.isfinite(s.score)]
        first = scored[0].ordinal // self.population if scored else ordinal
        if ordinal // self.population <= first:
            return quasi_random(space, ordinal, seed)
        begin = min((s for s in scored if s.ordinal // self.population == first), key=lambda s: (s.score, s.ordinal))
        optimizer = self._begun(np.array(units(space, begin.values)))
        for generation in range(first + 1, ordinal // self.population):
            _tell(optimizer, space, [s for s in scored if s.ordinal // self.population == generation])
        optimizer.reseed_rng(int(np.random.SeedSequence([seed, ordinal]).generate_state(1)[0]))
        return at(space, optimizer.ask())

    def _begun(self, middle: np.ndarray) -> Any:
        bounds = np.array([[0.0, 1.0]] * len(middle))
        return _cmaes().CMA(middle, self.sigma, bounds=bounds, population_size=self.population)

    def check(self, space: Space) -> None:
        for name, dimension in space.items():
            if isinstance(dimension, Choice):
                fix = "Use tpe, gp or genetic, or a range of numbers."
                raise UserError("a choice has no order, which CMA-ES needs", where=f"space {name}", fix=fix)
        if len(space) < 2:
            raise UserError("CMA-ES needs two dimensions or more", where="sampler cmaes", fix="Use tpe or gp.")
        if self.population < 4:
            raise UserError(f"a population of {self.population}", where="sampler cmaes", fix="Use 4 or more.")
        _cmaes()


def _tell(optimizer: Any, space: Space, scored: list[Seen]) -> None:
    missing = optimizer.population_size - len(scored)
    if 2 * missing <= optimizer.population_size:
        # What was trained is what counts: whole numbers were rounded.
        points = [(np.array(units(space, s.values)), float(s.score or 0.0)) for s in scored]
        optimizer.tell([*points, *[(optimizer.mean.copy(), np.inf)] * missing])


def _cmaes() -> ModuleType:
    try:
        import cmaes
    except ImportError as error:
        raise UserError("cmaes is not installed", where="tune", fix='Run: pip install "lepjax[tune]"') from error
    return cmaes
