"""Evaluating on whole splits: device sums per batch, host totals, every row exactly once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import jax

from lepjax.core.errors import RESTART, UserError, nearest
from lepjax.core.metrics import Metric
from lepjax.core.state import State
from lepjax.data.loader import Batches, placed_ahead, read_ahead
from lepjax.experiment import Built, Experiment
from lepjax.run.callbacks import Callback
from lepjax.run.compiled import by_shape, planned_shapes
from lepjax.run.fit import Loop

Prepared = tuple[Batches, dict[str, Any], Callable[..., Any]]  # batches, their shardings, the compiled measure


class Evaluator:
    """Compiled evaluation of every split of an experiment. Nothing compiles after construction.

    `only` names the metrics that are wanted; None: all of the task.
    """

    def __init__(self, built: Built, only: Collection[str] | None = None) -> None:
        self.built = built
        metrics = built.experiment.task.metrics()
        self.metrics = {name: metric for name, metric in metrics.items() if only is None or name in only}
        self._programs: dict[Any, Any] = {}  # splits share those of equal shapes
        self._splits = {name: self._prepare(name) for name in built.splits.evaluation}
        self._final = {name: self._prepare(name) for name in built.splits.final}

    @property
    def names(self) -> list[str]:
        """`<split>_<metric>` for all that `__call__` returns."""
        return [f"{split}_{metric}" for split in self._splits for metric in self.metrics]

    def _prepare(self, split: str) -> Prepared:
        placement = self.built.placement
        arranged, plan = self.built.scoring[split]
        shapes = planned_shapes(arranged, plan.shapes(), placement)
        with placement.scope():
            compiled = by_shape(self._compile, shapes, argument=2)
        shardings = {name: shape.sharding for name, shape in shapes[0].items()}
        return self.built.scored(split), shardings, compiled

    def _compile(self, batch: Any) -> Any:
        state, shape = self.built.abstract, tuple((name, x.shape, x.dtype) for name, x in sorted(batch.items()))
        if shape not in self._programs:
            measure = jax.jit(self._measure, out_shardings=self.built.placement.replicated)
            lowered = measure.lower(state.params, state.model_state, batch, state.hparams)
            self._programs[shape] = lowered.compile()
        return self._programs[shape]

    def _measure(self, *arguments: Any) -> dict[str, Any]:
        parts = self.built.measure(*arguments)
        return {name: parts[name] for name in self.metrics}

    def final(self, state: State, alive: Callable[[], None] = lambda: None) -> dict[str, float]:
        """Metrics of the splits that are scored once, after training."""
        return self._score(self._final, state, alive)

    def __call__(self, state: State, alive: Callable[[], None] = lambda: None) -> dict[str, float]:
        """Metrics of all splits. With an average of the parameters, it is the average that is evaluated.

        `alive` is called before every batch: a watchdog must not take a long evaluation for a hang.
        """
        return self._score(self._splits, state, alive)

    def _score(self, splits: dict[str, Prepared], state: State, alive: Callable[[], None]) -> dict[str, float]:
        params = state.params if state.ema is None else state.ema
        results: dict[str, float] = {}
        for split, (batches, shardings, measure) in splits.items():
            on_device = placed_ahead(read_ahead(batches, 0), shardings, part=batches.part)
            told = telling(on_device, alive)
            parts = (measure(params, state.model_state, batch, state.hparams) for _, batch in told)
            results |= {f"{split}_{name}": value for name, value in merged(self.metrics, parts).items()}
        return results


def telling(items: Iterable[Any], tell: Callable[[], None]) -> Iterator[Any]:
    """The items; `tell` is called before each."""
    for item in items:
        tell()
        yield item


def merged(metrics: dict[str, Metric], parts: Iterable[Any]) -> dict[str, float]:
    """The metrics of all batches together. Each part is read one batch late, so that the device does not wait."""
    totals = {name: metric.zero() for name, metric in metrics.items()}
    late: Any = None
    for part in itertools.chain(parts, [None]):
        if late is not None:
            host = jax.device_get(late)
            totals = {name: metric.merge(totals[name], host[name]) for name, metric in metrics.items()}
        late = part
    return {name: metric.result(totals[name]) for name, metric in metrics.items()}


class Evaluate(Callback):
    """Evaluates every `every` steps (0: never) and at the end."""

    def __init__(self, evaluator: Evaluator, every: int) -> None:
        self.evaluator, self.every = evaluator, every

    def _due(self, step: int) -> bool:
        return step % self.every == 0 if self.every else False

    def started(self, loop: Loop) -> None:
        """A run that was interrupted while it evaluated goes on with that."""
        if loop.step and self._due(loop.step) and loop.stop is None:
            self.evaluate(loop)

    def stepped(self, loop: Loop) -> None:
        ending = loop.last and (loop.stop is None or loop.stop.code != RESTART)  # a signal gives no time to evaluate
        interrupted = loop.last and not ending
        if ending or (self._due(loop.step) and not interrupted):
            self.evaluate(loop)

    def evaluate(self, loop: Loop) -> None:
        """Evaluates now, unless this step was evaluated already (before an interruption, say)."""
        if loop.evaluated == loop.step:
            return
        loop.flush()
        jax.block_until_ready(loop.state)  # steps still running are not evaluation time
        with loop.clock.phase("evaluation"):
            loop.results, loop.evaluated = self.evaluator(loop.state, loop.clock.beat), loop.step
        loop.publish(loop.step, loop.results)


def check_monitors(experiment: Experiment, built: Built) -> None:
    metrics = experiment.task.metrics()
    known = [f"{split}_{metric}" for split in built.splits.evaluation for metric in metrics]
    rules = {"early_stopping.monitor": experiment.early_stopping, "plateau.monitor": experiment.plateau}
    for where, rule in rules.items():
        if rule is not None:
            check_monitor(rule.monitor, known, where)
            check_mode(rule.mode, where)
    if experiment.best:
        check_monitor(experiment.best, known, "best")
        check_mode(experiment.best_mode, "best_mode")


def check_monitor(monitor: str, known: list[str], where: str) -> None:
    """Raises `UserError` for a metric that no evaluation will ever publish."""
    if monitor not in known:
        raise UserError(f"no metric {monitor!r}", where=where, fix=nearest(monitor, known))


def check_mode(mode: str, where: str) -> None:
    if mode not in ("min", "max"):
        raise UserError(f"mode {mode!r}", where=where, fix="Use min or max.")
