"""Quasi-random search: Sobol's sequence, scrambled (Owen, 1998), fills the space more evenly than chance does."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from scipy.stats import qmc

from lepjax.tune.samplers.sampler import Sampler, Seen
from lepjax.tune.space import Space, Values, at


@dataclasses.dataclass(frozen=True)
class Qmc(Sampler):
    """Point `ordinal` of the sequence that the seed scrambles, whatever the others came to."""

    def suggest(self, space: Space, seen: Sequence[Seen], ordinal: int, seed: int) -> Values:
        return quasi_random(space, ordinal, seed)


def quasi_random(space: Space, ordinal: int, seed: int) -> Values:
    """Also where samplers begin that learn from what they have seen."""
    return at(space, sobol(len(space), seed, 1 << max(ordinal, 15).bit_length())[ordinal])


@functools.lru_cache(maxsize=8)
def sobol(dimensions: int, seed: int, count: int) -> np.ndarray:
    """float64[count, dimensions] in the unit cube; `count` is a power of two. Longer ones begin with the shorter ones."""
    return qmc.Sobol(dimensions, scramble=True, rng=np.random.default_rng(seed)).random(count)
