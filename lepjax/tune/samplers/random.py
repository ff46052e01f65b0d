"""Random search (Bergstra and Bengio, Random Search for Hyper-Parameter Optimization, 2012)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from lepjax.tune.samplers.sampler import Sampler, Seen
from lepjax.tune.space import Space, Values, at


@dataclasses.dataclass(frozen=True)
class Random(Sampler):
    """Every trial draws from its own stream, whatever the others did."""

    def suggest(self, space: Space, seen: Sequence[Seen], ordinal: int, seed: int) -> Values:
        return at(space, np.random.Generator(np.random.Philox(key=[seed, ordinal])).random(len(space)))
