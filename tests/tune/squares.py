"""Least squares with noise: its curvature, and so the largest stable learning rate, is known."""

from __future__ import annotations

import dataclasses

import numpy as np

from lepjax.core.optimizers import SGD
from lepjax.data.arrays import Arrays
from lepjax.data.source import Data, Splits
from lepjax.experiment import Experiment, Steps
from lepjax.models.mlp import Mlp
from lepjax.tasks.regression import Regression

RECORDS = 512
_noise = np.random.default_rng(0)
X = _noise.normal(size=(RECORDS, 4)).astype(np.float32)
Y = X @ np.float32([1.0, -2.0, 0.5, 3.0]) + 0.3 * _noise.normal(size=RECORDS).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Points(Data):
    """A plane through points."""

    batch_size: int = 128
    scale: float = 1.0
    """Of the features: the curvature grows with its square."""

    def load(self) -> Splits:
        source = Arrays({"features": X * np.float32(self.scale), "label": Y})
        return Splits(train=source, evaluation={"dev": source})


class Squares(Regression):
    unit = "examples"

    def outputs(self, model, params, model_state, batch, drop, train):
        return model.apply(params, model_state, batch["features"], drop=drop, train=train)

    def tokens(self, batch):
        return int(batch["weight"].sum())


def with_bias(scale: float = 1.0) -> np.ndarray:
    """float64[RECORDS, 5]: the features and a column of ones."""
    return np.hstack([X * scale, np.ones((RECORDS, 1))])


def sharpness(scale: float = 1.0) -> float:
    """The largest eigenvalue of the Hessian of the mean squared error."""
    return float(np.linalg.eigvalsh(2 / RECORDS * with_bias(scale).T @ with_bias(scale))[-1])


def squares(**changes: object) -> Experiment:
    base = Experiment(
        model=Mlp(features=4, hidden=(), num_labels=1),
        task=Squares(),
        data=Points(),
        optimizer=SGD(momentum=0.0),
        length=Steps(10),
        mesh="data=1",
    )
    return dataclasses.replace(base, **changes)
