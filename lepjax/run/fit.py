"""The loop. It knows nothing of models, and it never waits for the device to log."""

from __future__ import annotations

import collections
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from lepjax.core.errors import CONFIGURATION, DONE, RESTART
from lepjax.run.callbacks import Callback, Values
from lepjax.run.clock import Clock

KEPT = 10_000  # losses that wait on the device to be averaged


@dataclasses.dataclass(frozen=True)
class Stop:
    """Why a run ends before its last step. `code` is the command's exit code."""

    reason: str
    code: int


class Interrupted(KeyboardInterrupt):
    """A signal broke off what can be broken off. No `Exception`: a library must not take it for one of its own."""


def early(reason: str) -> Stop:
    return Stop(reason, DONE)


def interrupted(reason: str) -> Stop:
    return Stop(reason, RESTART)


def diverged(reason: str) -> Stop:
    return Stop(reason, CONFIGURATION)


@dataclasses.dataclass
class Loop:
    """Where a run stands. `state` is any pytree with `step` and `cursor`; `step` counts on the host."""

    state: Any
    step: int
    total_steps: int
    callbacks: tuple[Callback, ...] = ()
    log_every: int = 10
    count: Callable[[Any], int] = lambda rows: 0
    """Useful tokens in a host batch."""
    size: Callable[[Any], int] | None = None
    """All places for tokens in a host batch, padding too; None: all are useful."""
    clock: Clock = dataclasses.field(default_factory=Clock)
    stop: Stop | None = None
    tokens: int = 0
    places: int = 0
    results: dict[str, float] = dataclasses.field(default_factory=dict)
    """The newest evaluation's values."""
    evaluated: int = -1
    """The step of the newest evaluation."""
    late: tuple[int, int, int, Any] | None = None
    """(step, tokens and places so far, metrics) of a logged step that the device may still be computing."""
    rate: _Rate | None = None
    losses: collections.deque[Any] = dataclasses.field(default_factory=lambda: collections.deque(maxlen=KEPT))
    """Losses of the steps since somebody asked, on the device."""
    stream: Iterator[tuple[Any, Any]] = iter(())
    """(host batch, device batch) of the steps to come."""

    @property
    def last(self) -> bool:
        """The run ends with this step."""
        return self.stop is not None or self.step >= self.total_steps

    def publish(self, step: int, values: Values) -> None:
        for callback in self.callbacks:
            callback.published(self, step, values)

    def flush(self) -> None:
        """Publishes what is late. Waits for that step, so the loop calls it after dispatching the next."""
        if self.late is None:
            return
        (step, tokens, places, metrics), self.late = self.late, None
        values = {f"train_{name}": float(value) for name, value in jax.device_get(metrics).items()}
        if self.rate is not None:
            values["train_tokens_per_second"] = self.rate.since(tokens)
        if places:
            values["train_useful_share"] = tokens / places
        self.publish(step, values)

    def mean_loss(self) -> float:
        """The mean loss of the steps of this process since it was last asked for (of the last `KEPT`). Waits for them."""
        values = [float(value) for value in jax.device_get(list(self.losses))]
        self.losses.clear()
        return sum(values) / len(values) if values else math.nan

    def go_back(self, state: Any, step: int, stream: Iterable[tuple[Any, Any]]) -> None:
        """Stands after `step` again, whose state this is; what is late of the steps since is forgotten."""
        self.state, self.step, self.stream = state, step, iter(stream)
        self.late = None
        self.losses.clear()

    def set_hparam(self, name: str, value: float) -> None:
        """Changes one live hyperparameter: same dtype, same sharding, so nothing recompiles."""
        old = self.state.hparams[name]
        new = jax.device_put(np.asarray(value, old.dtype), old.sharding)
        self.state = dataclasses.replace(self.state, hparams={**self.state.hparams, name: new})


def fit(step: Callable[[Any, Any], tuple[Any, Any]], loop: Loop, batches: Iterable[tuple[Any, Any]]) -> Loop:
    """Runs `step(state, batch) -> (state, metrics)` over (host batch, device batch) pairs until the end or a stop.

    Metrics are read one step late, when the device has moved on to the next step.
    """
    for callback in loop.callbacks:
        callback.started(loop)
    loop.rate = _Rate(loop.clock)
    loop.stream = iter(batches)
    loop.clock.beat("step", loop.step)
    try:
        _steps(step, loop)
    except Interrupted:
        if loop.stop is None:  # a loop that no signal is meant for, such as a finder's
            raise
    # Else the state is that of a whole step, and `loop.stop` says why.
    loop.flush()
    return loop


def _steps(step: Callable[[Any, Any], tuple[Any, Any]], loop: Loop) -> None:
    while not loop.last:
        with loop.clock.phase("data wait"):
            rows, batch = next(loop.stream)
        loop.state, metrics = step(loop.state, batch)
        loop.step += 1
        loop.clock.beat(step=loop.step)
        loop.losses.append(metrics.get("loss", math.nan))
        loop.tokens += loop.count(rows)
        loop.places += loop.size(rows) if loop.size is not None else 0
        loop.flush()
        if loop.step % loop.log_every == 0 or loop.step == loop.total_steps:
            loop.late = (loop.step, loop.tokens, loop.places, metrics)
        for callback in loop.callbacks:
            callback.stepped(loop)


class _Rate:
    """Tokens per second between two published steps, without the time of evaluations and checkpoints."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.tokens, self.at = clock, 0, self._now(clock)

    @staticmethod
    def _now(clock: Clock) -> float:
        return time.perf_counter() - clock.outside

    def since(self, tokens: int) -> float:
        now = self._now(self.clock)
        rate = (tokens - self.tokens) / max(now - self.at, 1e-9)
        self.tokens, self.at = tokens, now
        return rate
