"""Callbacks that look for a batch or a learning rate before a run begins, and give it what they find.

`lepjax find` shows the same with a plot and changes nothing. Read the caveats there: what is found is where to begin.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax

from lepjax.core.errors import UserError
from lepjax.experiment import Experiment
from lepjax.run.callbacks import Callback
from lepjax.tune.batch_finder import SIZES, BatchSizes, find_batch
from lepjax.tune.lr_finder import LrCurve, find_lr


class FindBatch(Callback):
    """Gives a run the largest batch that fits, or the `knee`: the smallest that is nearly as fast as the fastest.

    `found` is what was seen; `limit` and `most` are those of `find_batch`.
    The batch is part of what a run is, and how much memory is free is not. So the run needs a `run_dir`, and one that goes
    on keeps the batch that it was begun with: then `found` stays None. Several processes would find several sizes.
    """

    def __init__(self, limit: float | None = None, most: int = 0, knee: bool = False) -> None:
        self.limit, self.most, self.knee = limit, most, knee
        self.found: BatchSizes | None = None

    def planned(self, experiment: Experiment, before: Experiment | None) -> Experiment:
        if not experiment.run_dir:
            fix = "Give one: the batch that is found decides what the run is called otherwise."
            raise UserError("no run_dir", where="FindBatch", fix=fix)
        if jax.process_count() > 1:
            fix = "Look with `lepjax find batch` on one machine, and pass --data.batch-size."
            raise UserError(f"{jax.process_count()} processes", where="FindBatch", fix=fix)
        if before is None:
            self.found = find_batch(experiment, self.limit, self.most, sizes=SIZES if self.knee else 1)
            rows = self.found.knee if self.knee else self.found.largest
        else:
            rows = before.data.batch_size
        return dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, batch_size=rows))


class FindLr(Callback):
    """Gives a run the learning rate at which the loss of the range test falls fastest, or what else `pick` takes of `curve`.

    A run that goes on keeps the rate that it was begun with: then `curve` stays None. After `FindBatch`, it looks with the
    batch that was found.
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

    def planned(self, experiment: Experiment, before: Experiment | None) -> Experiment:
        if before is None:
            self.curve = find_lr(experiment, self.low, self.high, self.steps)
            rate = self.pick(self.curve)
        else:
            rate = before.optimizer.learning_rate
        return dataclasses.replace(experiment, optimizer=dataclasses.replace(experiment.optimizer, learning_rate=rate))
