"""The learning-rate range test: raise the rate exponentially over a few steps and look where the loss falls and breaks.

Smith, Cyclical Learning Rates for Training Neural Networks (2017), section 3.3. The rate is a leaf of the state, so nothing
compiles after the first step.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from lepjax import experiment as experiments
from lepjax.core.errors import UserError
from lepjax.core.schedules import Constant
from lepjax.core.spikes import Spikes
from lepjax.data.loader import placed_ahead, read_ahead
from lepjax.data.source import Splits
from lepjax.experiment import Experiment, Steps
from lepjax.run.callbacks import Callback
from lepjax.run.compiled import compile_step, planned_shapes
from lepjax.run.fit import Loop, early, fit

DIVERGED = 4.0  # times the best loss, as in fastai and Lightning
BROKEN = 2.0  # times the best loss
WIDTH = 2.0  # steps: the standard deviation of the smoothing
NOISE = 2.0  # standard deviations of the losses about their mean that a fall must exceed
CAVEATS = (
    "These are rates for the first steps of an untrained model, without warmup and decay: with warmup a run bears more, "
    "over many steps often less, and Adam's first steps, whose moments are young, tell less than SGD's. Change the batch "
    "size or the optimizer, and look again; try a few rates around the suggestion in real runs."
)


@dataclasses.dataclass(frozen=True)
class LrCurve:
    """`losses[i]` is the loss after a step with `rates[i]` (float64[n], ascending)."""

    rates: np.ndarray
    losses: np.ndarray
    diverged: bool
    """The loss rose to `DIVERGED` times its best, or was not finite; the last rate did it."""

    @property
    def smooth(self) -> np.ndarray:
        return smoothed(self.losses)

    @property
    def lowest(self) -> float:
        """The rate at which the smoothed loss is lowest: beyond it, steps do harm."""
        return float(self.rates[np.argmin(self.smooth)])

    @property
    def breaks(self) -> float | None:
        """The rate from which on every loss is more than `BROKEN` times the best smoothed one; None: there is none."""
        best = self.smooth.min()
        bad = self.losses - best > (BROKEN - 1.0) * abs(best)
        from_here = np.flatnonzero(np.logical_and.accumulate(bad[::-1])[::-1])
        return float(self.rates[from_here[0]]) if self.diverged and len(from_here) else None

    @property
    def steepest(self) -> float:
        """The rate before `lowest` at which the smoothed loss falls fastest per factor of the rate."""
        end = int(np.argmin(self.smooth)) + 1
        slopes = np.gradient(self.smooth, np.log(self.rates))[:end]
        return float(self.rates[np.argmin(slopes)])

    @property
    def tenth(self) -> float:
        """A tenth of `lowest`, a rule of thumb."""
        return self.lowest / 10.0

    def check(self) -> None:
        """Raises `UserError` where the loss never falls by more than its noise: then no rate means anything."""
        where = "learning-rate finder"
        if len(self.losses) < 3:
            found = f"the loss diverged after {len(self.losses) + 1} steps"
            raise UserError(found, where=where, fix="Begin lower (--low), or look whether data and model are finite.")
        smooth = self.smooth
        fall = smooth[: np.argmin(smooth) + 1].max() - smooth.min()
        noise = 1.4826 * float(np.median(np.abs(self.losses - smooth)))  # robust: the end may explode
        if not fall > max(NOISE * noise, 1e-6 * abs(smooth[0])):
            low, high = self.rates[0], self.rates[-1]
            found = f"from learning rate {low:.3g} to {high:.3g} the loss fell by {fall:.3g}, its noise is {noise:.3g}"
            higher = "Raise --high or --steps, or look whether anything is trained."
            raise UserError(found, where=where, fix="It diverged: begin lower (--low)." if self.diverged else higher)


def spaced(low: float, high: float, steps: int) -> np.ndarray:
    """float64[steps]: rates from `low` to `high`, each the same factor above the one before."""
    if not 0.0 < low < high < math.inf:
        found = f"from {low:g} to {high:g}"
        raise UserError(found, where="learning rates", fix="Use positive finite numbers, the lower one first.")
    if steps < 10:
        raise UserError(f"{steps} steps", where="learning-rate finder", fix="Use 10 or more.")
    return np.geomspace(low, high, steps)


def smoothed(losses: np.ndarray) -> np.ndarray:
    """Means of neighbours with Gaussian weights: unlike a running mean, this does not lag behind."""
    places = np.arange(len(losses))
    weights = np.exp(-0.5 * ((places[:, None] - places) / WIDTH) ** 2)
    return (weights * losses).sum(axis=1) / weights.sum(axis=1)


def has_diverged(losses: np.ndarray) -> bool:
    """Whether the newest loss is not finite, or the smoothed loss ends at `DIVERGED` times its best."""
    if not np.isfinite(losses[-1]):
        return True
    smooth = smoothed(losses)
    return bool(smooth[-1] - smooth.min() > (DIVERGED - 1.0) * abs(smooth.min()))


class LrFinder(Callback):
    """Raises the learning rate at every step of a run and stops it when the loss diverges; `curve` is what was seen.

    For a run of `explored(experiment, steps)`: a schedule would change the rate as well. The loss of a step is read after
    the next one was dispatched.
    """

    def __init__(self, low: float = 1e-7, high: float = 10.0, steps: int = 100) -> None:
        self.rates = spaced(low, high, steps)
        self.losses: list[float] = []
        self._late: Any = None

    @property
    def curve(self) -> LrCurve:
        after = np.array(self.losses[1:], np.float64)  # the first loss is that of no rate at all
        count = int(np.isfinite(after).cumprod().sum())
        diverged = any(has_diverged(after[: i + 1]) for i in range(len(after)))
        return LrCurve(self.rates[:count], after[:count], diverged)

    def started(self, loop: Loop) -> None:
        self.losses, self._late = [], None
        loop.set_hparam("learning_rate", self.rates[0])

    def stepped(self, loop: Loop) -> None:
        self._read()
        self._late = loop.losses[-1]
        if len(self.losses) > 1 and has_diverged(np.array(self.losses[1:])):
            loop.stop = loop.stop or early("the loss diverged")
        if len(self.losses) + 1 < len(self.rates):
            loop.set_hparam("learning_rate", self.rates[len(self.losses) + 1])

    def finished(self, loop: Loop) -> None:
        self._read()

    def _read(self) -> None:
        if self._late is not None:
            self.losses.append(float(jax.device_get(self._late)))
            self._late = None


def explored(experiment: Experiment, steps: int = 100) -> Experiment:
    """The experiment as the finder runs it: no schedule, no guard against spikes, and one step more than rates."""
    optimizer = dataclasses.replace(experiment.optimizer, schedule=Constant())
    return dataclasses.replace(experiment, optimizer=optimizer, spikes=Spikes(), length=Steps(steps + 1))


def find_lr(
    experiment: Experiment, low: float = 1e-7, high: float = 10.0, steps: int = 100, splits: Splits | None = None
) -> LrCurve:
    """Runs the range test on the experiment's own training batches. Nothing is written.

    `splits` are the experiment's data, where they are read already. Raises `UserError` where the experiment does not fit, or
    no rate changes the loss.
    """
    finder = LrFinder(low, high, steps)
    built = experiments.build(explored(experiment, steps), splits=splits)
    shapes = planned_shapes(built.source, built.plan.shapes(), built.placement)
    step = compile_step(built.step, built.abstract, shapes, built.placement)
    loop = Loop(state=built.init(), step=0, total_steps=built.total_steps, callbacks=(finder,), log_every=steps + 2)
    batches = built.batches(built.total_steps)
    shardings = {name: shape.sharding for name, shape in shapes[0].items()}
    fit(step, loop, placed_ahead(read_ahead(batches, 0), shardings, part=batches.part))
    finder.finished(loop)
    finder.curve.check()
    return finder.curve
