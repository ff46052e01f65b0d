"""scikit-learn's handwritten digits: 1,797 images of 8 x 8 pixels in 17 shades, which come with the package."""

from __future__ import annotations

import dataclasses

import numpy as np
import sklearn.datasets

from lepjax.data.arrays import Arrays
from lepjax.data.source import Data, Splits

PIXELS = 64
SHADES = 16
LABELS = tuple("0123456789")
FIFTHS = {"train": (0, 1, 2), "dev": (3,), "test": (4,)}


@dataclasses.dataclass(frozen=True)
class Digits(Data):
    """Rows: `features` float32[rows, 64], 0 to 1, and `label` int32[rows].

    Of each digit's images every fourth of five is `dev`, every fifth `test`, the others (1,085) train. The same 43
    people wrote all three, so scores say nothing of another hand.
    """

    def load(self) -> Splits:
        features, label = sklearn.datasets.load_digits(return_X_y=True)
        columns = {"features": (features / SHADES).astype(np.float32), "label": label.astype(np.int32)}

        def part(name: str) -> Arrays:
            ids = np.flatnonzero(np.isin(fifths(label), FIFTHS[name]))
            texts = tuple(f"load_digits() image {i}" for i in ids)
            return Arrays({column: array[ids] for column, array in columns.items()}, texts)

        return Splits(train=part("train"), evaluation={"dev": part("dev")}, final={"test": part("test")}, labels=LABELS)


def fifths(labels: np.ndarray) -> np.ndarray:
    """int[records], 0 to 4: the place of a record among those of its class, modulo 5. Each fifth has all classes alike."""
    places = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        own = labels == label
        places[own] = np.arange(own.sum())
    return places % 5
