"""Arrays that were made lately, kept for who asks again soon."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Hashable

import numpy as np

COUNT, BYTES = 256, 2**28


class Recent:
    """A function of hashable arguments that remembers its newest results: up to `COUNT`, and up to `BYTES` (but one).

    As a decorator, like `functools.lru_cache`. A count alone would not do: a sweep asks for the orders of many seeds in
    turn, and the order of a large set has 32 MB.
    """

    def __init__(self, make: Callable[..., np.ndarray]) -> None:
        self._make, self.__doc__ = make, make.__doc__
        self._kept: collections.OrderedDict[Hashable, np.ndarray] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, *given: Hashable) -> np.ndarray:
        with self._lock:
            if given in self._kept:
                self._kept.move_to_end(given)
                return self._kept[given]
        made = self._make(*given)
        with self._lock:
            self._kept[given] = made
            while len(self._kept) > COUNT or (len(self._kept) > 1 and self._bytes() > BYTES):
                self._kept.popitem(last=False)
        return made

    def _bytes(self) -> int:
        return sum(array.nbytes for array in self._kept.values())

    def cache_clear(self) -> None:
        with self._lock:
            self._kept.clear()
