"""Callbacks that look for a batch or a learning rate before a run begins, and give it what they find.

What they saw is drawn into the run directory; a run that goes on keeps what it was begun with. `lepjax find` draws the same
and changes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax

from lepjax.core.errors import UserError
from lepjax.experiment import Experiment
from lepjax.run.callbacks import Callback, Start
from lepjax.run.train import Outcome
from lepjax.tune import batch_finder, finder_plots, lr_finder
from lepjax.tune.batch_finder import SIZES, BatchSizes, find_batch, with_rows
from lepjax.tune.lr_finder import LrCurve, find_lr

BEGUN = "with which this run was begun; another run directory looks anew"


class FindBatch(Callback):
    """Gives a run the largest batch that fits, or the `knee`: the smallest that is nearly as fast as the fastest.

    `limit` and `most` are those of `find_batch`. `found` is what was seen; None: the run went on. The batch is part of what
    a run is, and how much memory is free is not: so the run needs a `run_dir`. Several processes would find several sizes.
    """

    def __init__(self, limit: float | None = None, most: int = 0, knee: bool = False) -> None:
        self.limit, self.most, self.knee = limit, most, knee
        self.found: BatchSizes | None = None

    def planned(self, start: Start) -> Experiment:
        self.found = None
        if not start.experiment.run_dir:
            fix = "Give one: the batch that is found decides what the run is called otherwise."
            raise UserError("no run_dir", where="FindBatch", fix=fix)
        if start.before is not None:
            start.say(f"batch: {start.before.data.batch_size:,} rows, {BEGUN}")
            return with_rows(start.experiment, start.before.data.batch_size)
        if jax.process_count() > 1:
            fix = "Look with `lepjax find batch` on one machine, and pass --data.batch-size."
            raise UserError(f"{jax.process_count()} processes", where="FindBatch", fix=fix)
        sizes = SIZES if self.knee else 1
        self.found = found = find_batch(start.experiment, self.limit, self.most, sizes, start.splits)
        rows = found.knee if self.knee else found.largest
        why = "memory is the bound" if found.bound == "memory" else "no more were allowed or are there"
        steps = len(start.splits.train) / rows
        start.say(f"batch: {found.largest:,} rows fit ({why}); with {rows:,} an epoch has {steps:,.1f} steps")
        start.say(f"batch: {batch_finder.CAVEATS}")
        return with_rows(start.experiment, rows)

    def concluded(self, outcome: Outcome) -> None:
        if self.found is not None and len(self.found.points) > 1:
            finder_plots.save(finder_plots.batch_figure(self.found), outcome.directory.path / "find_batch.svg")


class FindLr(Callback):
    """Gives a run the learning rate at which the loss of the range test falls fastest, or what else `pick` takes of `curve`.

    `curve` is what was seen; None: the run went on. After `FindBatch`, it looks with the batch that was found.
    """

    def __init__(
        self,
        low: float = 1e-7,
        high: float = 10.0,
        steps: int = 100,
        pick: Callable[[LrCurve], float] = lambda curve: curve.steepest,
    ) -> None:
        self.low, self.high, self.steps, self.pick = low, high, steps, pick
        self.curve: LrCurve | None = None

    def planned(self, start: Start) -> Experiment:
        self.curve = None
        if start.before is not None:
            start.say(f"learning rate: {start.before.optimizer.learning_rate:.2e}, {BEGUN}")
            return _with_rate(start.experiment, start.before.optimizer.learning_rate)
        self.curve = curve = find_lr(start.experiment, self.low, self.high, self.steps, start.splits)
        start.say(f"learning rate: {lr_finder.CAVEATS}")
        return _with_rate(start.experiment, self.pick(curve))

    def concluded(self, outcome: Outcome) -> None:
        if self.curve is not None:
            finder_plots.save(finder_plots.lr_figure(self.curve), outcome.directory.path / "find_lr.svg")


def _with_rate(experiment: Experiment, rate: float) -> Experiment:
    return dataclasses.replace(experiment, optimizer=dataclasses.replace(experiment.optimizer, learning_rate=rate))
