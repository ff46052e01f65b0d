"""A genetic algorithm on the unit cube: tournaments, uniform crossover, mutation, elites."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from lepjax.tune.samplers.qmc import sobol
from lepjax.tune.samplers.sampler import Sampler, Seen
from lepjax.tune.space import Choice, Space, Values, at, units


@dataclasses.dataclass(frozen=True)
class Genetic(Sampler):
    """The first `population` trials are quasi-random. Later ones are children of two winners of tournaments among the best
    `population` trials so far: each gene from either parent (blended between them for half of the children), then mutated.
    Elitist, because the best ones stay parents until better ones come; steady, because no child waits for its generation.
    """

    population: int = 16
    tournament: int = 3
    mutation: float = 0.15
    """Standard deviation of a mutated gene, at the beginning; it halves with every second generation."""

    def suggest(self, space: Space, seen: Sequence[Seen], ordinal: int, seed: int) -> Values:
        done = sorted(
            (s for s in seen if s.score is not None and np.isfinite(s.score)), key=lambda s: (s.score, s.ordinal)
        )
        if ordinal < self.population or len(done) < 2:
            return at(space, sobol(len(space), seed, 1 << max(ordinal, 15).bit_length())[ordinal])
        rng = np.random.Generator(np.random.Philox(key=[seed, ordinal]))
        parents = [np.array(units(space, one.values)) for one in done[: self.population]]
        first, second = (parents[min(rng.integers(len(parents), size=self.tournament))] for _ in range(2))
        shape = (len(space),)
        mixed = np.where(rng.random(shape) < 0.5, first, second)
        if rng.random() < 0.5:
            ordered = np.array([not isinstance(dimension, Choice) for dimension in space.values()])
            mixed = np.where(ordered, first + rng.uniform(-0.25, 1.25, shape) * (second - first), mixed)
        generation = ordinal // self.population
        changed = rng.random(shape) < max(1.0 / len(space), 0.2)
        step = rng.normal(0.0, self.mutation * 0.5 ** ((generation - 1) / 2), shape)
        mutated = np.where(changed, mixed + step, mixed)
        for i, dimension in enumerate(space.values()):
            if isinstance(dimension, Choice) and changed[i]:
                mutated[i] = rng.random()
        return at(space, _reflected(mutated))


def _reflected(x: np.ndarray) -> np.ndarray:
    """Back into the unit cube at the walls, where clipping would heap points up."""
    x = np.mod(x, 2.0)
    return np.where(x > 1.0, 2.0 - x, x)
