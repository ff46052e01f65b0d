"""Evaluating on whole splits: device sums per batch, host totals, every row exactly once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from lepjax.core.errors import RESTART, UserError, nearest
from lepjax.core.state import State
from lepjax.data.loader import Batches, placed_ahead, read_ahead
from lepjax.data.source import Source
from lepjax.experiment import Built
from lepjax.run.callbacks import Callback
from lepjax.run.compiled import by_shape, planned_shapes
from lepjax.run.fit import Loop

Prepared = tuple[Batches, dict[str, Any], Callable[..., Any]]  # batches, their shardings, the compiled measure


class Evaluator:
    """Compiled evaluation of every split of an experiment. Nothing compiles after construction."""

    def __init__(self, built: Built) -> None:
        self.built = built
        self.metrics = built.experiment.task.metrics()
        self._splits = {name: self._prepare(source) for name, source in built.splits.evaluation.items()}
        self._final = {name: self._prepare(source) for name, source in built.splits.final.items()}

    @property
    def names(self) -> list[str]:
        """`<split>_<metric>` for all that `__call__` returns."""
        return [f"{split}_{metric}" for split in self._splits for metric in self.metrics]

    def _prepare(self, source: Source) -> Prepared:
        experiment, placement = self.built.experiment, self.built.placement
        wanted = experiment.evaluation_batch_size or experiment.data.batch_size
        rows = -(-wanted // placement.batch_ways) * placement.batch_ways
        arranged, plan = experiment.data.scoring(source, rows, self.built.work)
        shapes = planned_shapes(arranged, plan.shapes(), placement)
        state = self.built.abstract
        with placement.scope():
            measure = jax.jit(self.built.measure, out_shardings=placement.replicated)
            compiled = by_shape(
                lambda batch: measure.lower(state.params, state.model_state, batch, state.hparams).compile(),
                shapes,
                argument=2,
            )
        return Batches(arranged, plan, len(plan)), {name: shape.sharding for name, shape in shapes[0].items()}, compiled

    def final(self, state: State) -> dict[str, float]:
        """Metrics of the splits that are scored once, after training."""
        return self._score(self._final, state)

    def __call__(self, state: State) -> dict[str, float]:
        """Metrics of all splits. With an average of the parameters, it is the average that is evaluated."""
        return self._score(self._splits, state)

    def _score(self, splits: dict[str, Prepared], state: State) -> dict[str, float]:
        params = state.params if state.ema is None else state.ema
        results = {}
        for split, (batches, shardings, measure) in splits.items():
            totals = {name: metric.zero() for name, metric in self.metrics.items()}
            late: Any = None
            for _, batch in placed_ahead(read_ahead(batches, 0), shardings):
                part = measure(params, state.model_state, batch, state.hparams)
                totals, late = self._merge(totals, late), part  # read one batch late: the device does not wait
            totals = self._merge(totals, late)
            for name, metric in self.metrics.items():
                results[f"{split}_{name}"] = metric.result(totals[name])
        return results

    def _merge(self, totals: dict[str, Any], part: Any) -> dict[str, Any]:
        if part is None:
            return totals
        host = jax.device_get(part)
        return {name: metric.merge(totals[name], host[name]) for name, metric in self.metrics.items()}


class Evaluate(Callback):
    """Evaluates every `every` steps (0: never) and at the end."""

    def __init__(self, evaluator: Evaluator, every: int) -> None:
        self.evaluator, self.every = evaluator, every

    def stepped(self, loop: Loop) -> None:
        due = loop.step % self.every == 0 if self.every else False
        ending = loop.last and (loop.stop is None or loop.stop.code != RESTART)  # a signal gives no time to evaluate
        if due or ending:
            self.evaluate(loop)

    def evaluate(self, loop: Loop) -> None:
        """Evaluates now, unless this step was evaluated already (before an interruption, say)."""
        if loop.evaluated == loop.step:
            return
        loop.flush()
        jax.block_until_ready(loop.state)  # steps still running are not evaluation time
        with loop.clock.phase("evaluation"):
            loop.results, loop.evaluated = self.evaluator(loop.state), loop.step
        loop.publish(loop.step, loop.results)


def check_monitor(monitor: str, known: list[str], where: str) -> None:
    """Raises `UserError` for a metric that no evaluation will ever publish."""
    if monitor not in known:
        raise UserError(f"no metric {monitor!r}", where=where, fix=nearest(monitor, known))


def check_mode(mode: str, where: str) -> None:
    if mode not in ("min", "max"):
        raise UserError(f"mode {mode!r}", where=where, fix="Use min or max.")
