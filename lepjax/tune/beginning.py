"""A sampler that begins where a person would."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from lepjax.tune.samplers.sampler import Sampler, Seen
from lepjax.tune.space import Space, Values


@dataclasses.dataclass(frozen=True)
class Beginning(Sampler):
    """Trial 0 is at `first`, so that no search ends below what was known before; the others are where `then` says."""

    first: tuple[tuple[str, object], ...]
    then: Sampler

    def suggest(self, space: Space, seen: Sequence[Seen], ordinal: int, seed: int) -> Values:
        return dict(self.first) if ordinal == 0 else self.then.suggest(space, seen, ordinal, seed)

    def check(self, space: Space) -> None:
        self.then.check(space)
