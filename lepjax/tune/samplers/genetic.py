"""A genetic algorithm on the unit cube: tournaments, uniform crossover, mutation, elites."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from lepjax.core.errors import UserError
from lepjax.tune.samplers.qmc import quasi_random
from lepjax.tune.samplers.sampler import Sampler, Seen
from lepjax.tune.space import Choice, Space, Values, at, units

TRIES = 100  # a finite space may be used up


@dataclasses.dataclass(frozen=True)
class Genetic(Sampler):
    """The first `population` trials are quasi-random. Later ones are children of two winners of tournaments among the best
    `population` trials so far: each gene from either parent (blended between them for half of the children), then mutated,
    again and again until the child is none of those before it. Elitist, because the best ones stay parents until better
    ones come; steady, because no child waits for its generation. Failed trials have no children.
    """

    population: int = 16
    tournament: int = 3
    mutation: float = 0.15
    """Standard deviation of a mutated gene, at the beginning; it halves with every second generation, down to one step of a
    whole number.
    """

    def suggest(self, space: Space, seen: Sequence[Seen], ordinal: int, seed: int) -> Values:
        done = [s for s in seen if s.score is not None and np.isfinite(s.score)]
        if ordinal < self.population or len(done) < 2:
            return quasi_random(space, ordinal, seed)
        rng = np.random.Generator(np.random.Philox(key=[seed, ordinal]))
        best = sorted(done, key=lambda s: (s.score, s.ordinal))[: self.population]
        parents = np.array([units(space, one.values) for one in best])
        first, second = (parents[min(rng.integers(len(parents), size=self.tournament))] for _ in range(2))
        child = self._crossed(space, first, second, rng)
        before = [one.values for one in seen]
        for _ in range(TRIES):
            child = self._mutated(space, child, ordinal // self.population, rng)
            if at(space, child) not in before:
                break
        return at(space, child)

    def _crossed(self, space: Space, first: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        either = np.where(rng.random(len(space)) < 0.5, first, second)
        if rng.random() < 0.5:
            return either
        ordered = np.array([not isinstance(dimension, Choice) for dimension in space.values()])
        return np.where(ordered, first + rng.uniform(-0.25, 1.25, len(space)) * (second - first), either)

    def _mutated(self, space: Space, child: np.ndarray, generation: int, rng: np.random.Generator) -> np.ndarray:
        changed = rng.random(len(space)) < max(1.0 / len(space), 0.2)
        smallest = [0.0 if dimension.options is None else 1.0 / len(dimension.options) for dimension in space.values()]
        step = rng.standard_normal(len(space)) * np.maximum(self.mutation * 0.5 ** ((generation - 1) / 2), smallest)
        unordered = np.array([isinstance(dimension, Choice) for dimension in space.values()])
        moved = np.where(unordered, rng.random(len(space)), child + step)
        return _reflected(np.where(changed, moved, child))

    def check(self, space: Space) -> None:
        if self.population < 2:
            raise UserError(f"a population of {self.population}", where="sampler genetic", fix="Use 2 or more.")


def _reflected(x: np.ndarray) -> np.ndarray:
    """Back into the unit cube at the walls, where clipping would heap points up."""
    x = np.mod(x, 2.0)
    return np.where(x > 1.0, 2.0 - x, x)
