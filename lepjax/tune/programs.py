"""Trials as compiled programs: many stacked in one, or one at a time on the experiment's own mesh.

All that differs between the trials of one program are leaves (hyperparameters, seeds) and data. So it is compiled once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lepjax.core.metrics import Metric, Totals
from lepjax.core.state import State
from lepjax.data.loader import Batches, placed_ahead, read_ahead
from lepjax.data.source import Rows
from lepjax.experiment import Built, Experiment
from lepjax.run.compiled import by_shape, planned_shapes
from lepjax.run.evaluation import merged
from lepjax.tune.objective import Objective

TRIAL = "trial"
LIVE_RANGES: dict[str, str | bool] = {"xla_cpu_copy_insertion_use_region_analysis": True}


@dataclasses.dataclass(frozen=True)
class Job:
    """One training run of a trial, as a program needs it."""

    experiment: Experiment
    total_steps: int
    batches: Batches
    """Those of its seed, from step 0."""
    order: str
    """The fingerprint of their plan."""
    every: int = 0
    """Steps between the evaluations that the experiment asks for; 0: at the end only."""

    @property
    def hparams(self) -> dict[str, float]:
        return self.experiment.hparams(self.total_steps)


class Program(Protocol):
    """Trains up to `size` jobs of one shape side by side. `states` is its own business."""

    @property
    def size(self) -> int: ...

    def init(self, jobs: Sequence[Job]) -> Any:
        """The states before step 0."""
        ...

    def stream(self, jobs: Sequence[Job], start: int = 0) -> Iterator[Any]:
        """The batches of steps `start`, `start` + 1, ... on the device."""
        ...

    def step(self, states: Any, batch: Any) -> tuple[Any, jax.Array]:
        """One step of all: (states, float32[size] losses). `states` are donated."""
        ...

    def score(self, states: Any) -> list[float]:
        """The objective of each."""
        ...

    def stuck(self, states: Any) -> list[int]:
        """The longest row of skipped steps of each."""
        ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Fleet:
    """The states of all trials, stacked along a leading axis.

    row      int32[trials]  skipped steps since the last one that was taken
    longest  int32[trials]  the longest such row so far
    """

    state: State
    row: Any
    longest: Any


def advance(step: Callable[[State, Any], tuple[State, dict[str, jax.Array]]], shared: bool) -> Callable[..., Any]:
    """`(fleet, batch) -> (fleet, losses)`: a step under `vmap`. `shared`: all see the same batch, else each its own."""

    def one(fleet: Fleet, batch: Any) -> tuple[Fleet, jax.Array]:
        new, metrics = step(fleet.state, batch)
        row = jnp.where(new.skipped > fleet.state.skipped, fleet.row + 1, 0)
        return Fleet(new, row, jnp.maximum(fleet.longest, row)), metrics["loss"]

    return jax.vmap(one, in_axes=(0, None if shared else 0))


class Stacked:
    """`size` trials in one program, spread over the devices.

    `shared`: all trials read the same batches, which are then held once. `size` is a multiple of the number of devices.
    """

    def __init__(
        self, built: Built, size: int, objective: Objective, shared: bool, devices: Sequence[jax.Device]
    ) -> None:
        self.built, self.size, self.shared = built, size, shared
        self.mesh = mesh = Mesh(np.array(devices), (TRIAL,), axis_types=(AxisType.Auto,))
        self._apart, self._whole = NamedSharding(mesh, PartitionSpec(TRIAL)), NamedSharding(mesh, PartitionSpec())
        self._weights = built.experiment.model.weights(built.model.leaves)
        self._init = jax.jit(self._begin, out_shardings=self._apart)
        fleet = jax.eval_shape(
            self._init, *self._beginnings([Job(built.experiment, built.total_steps, built.batches(), "")])
        )
        self._abstract = jax.tree.map(lambda x: _placed(x.shape, x.dtype, self._apart), fleet)
        self._batch = self._whole if shared else self._apart
        lead = () if shared else (size,)
        shapes = [
            {name: _placed((*lead, *x.shape), x.dtype, self._batch) for name, x in one.items()}
            for one in planned_shapes(built.source, built.plan.shapes(), built.placement)
        ]
        self._shardings = dict.fromkeys(shapes[0], self._batch)
        self.compiled = by_shape(self._compile_step, shapes, argument=1)
        self._metric = Each(built.experiment.task.metrics()[objective.metric], size)
        self._measured = objective
        source, plan = built.scoring[objective.split]
        self._measure = by_shape(
            self._compile_measure, planned_shapes(source, plan.shapes(), built.placement), argument=1
        )

    def _begin(self, seeds: Any, hparams: dict[str, Any], weights: Any) -> Fleet:
        """One after another: under `vmap` the compiler took a second per trial for the random numbers."""

        def one(given: Any) -> Fleet:
            seed, hparams = given
            state = dataclasses.replace(self.built.fresh(seed, weights), hparams=hparams)
            return Fleet(state, jnp.int32(0), jnp.int32(0))

        return jax.lax.map(one, (seeds, hparams))

    def _beginnings(self, jobs: Sequence[Job]) -> tuple[Any, Any, Any]:
        """Seeds, hyperparameters and weights of `size` trials; where there are fewer, the first is done several times."""
        jobs = [*jobs, *[jobs[0]] * (self.size - len(jobs))]
        names = jobs[0].hparams
        hparams = {name: np.array([job.hparams[name] for job in jobs], np.float32) for name in names}
        return np.array([job.experiment.seed for job in jobs], np.int32), hparams, self._weights

    def _compile_step(self, batch: Any) -> Any:
        step = self._spread(advance(self.built.step, self.shared), (self._apart.spec, self._batch.spec))
        lowered = jax.jit(step, donate_argnums=0).lower(self._abstract, batch)
        return in_place(lowered) if self.mesh.devices.flat[0].platform == "cpu" else lowered.compile()

    def _compile_measure(self, batch: Any) -> Any:
        def measure(fleet: Fleet, batch: Any) -> Any:
            state = fleet.state
            params = state.params if state.ema is None else state.ema
            return self.built.measure(params, state.model_state, batch, state.hparams)[self._measured.metric]

        spread = self._spread(jax.vmap(measure, in_axes=(0, None)), (self._apart.spec, self._whole.spec))
        given = {name: _placed(x.shape, x.dtype, self._whole) for name, x in batch.items()}
        return jax.jit(spread).lower(self._abstract, given).compile()

    def _spread(self, function: Callable[..., Any], ins: Any) -> Callable[..., Any]:
        """Each device does its own trials and nothing travels: said, not left to the compiler to find out."""
        if self.mesh.size == 1:
            return function
        return jax.shard_map(function, mesh=self.mesh, in_specs=ins, out_specs=self._apart.spec, check_vma=False)

    def init(self, jobs: Sequence[Job]) -> Fleet:
        return self._init(*self._beginnings(jobs))

    def stream(self, jobs: Sequence[Job], start: int = 0) -> Iterator[Any]:
        steps = max(job.total_steps for job in jobs)
        each = {job.order: dataclasses.replace(job.batches, count=steps) for job in jobs}
        batches: Any = next(iter(each.values()))
        if not self.shared:
            orders = [job.order for job in jobs]
            batches = Together(each, [*orders, *[orders[0]] * (self.size - len(jobs))])
        return (batch for _, batch in placed_ahead(read_ahead(batches, start), self._shardings))

    def step(self, states: Fleet, batch: Any) -> tuple[Fleet, jax.Array]:
        return self.compiled(states, batch)

    def score(self, states: Fleet) -> list[float]:
        batches = self.built.scored(self._measured.split)
        placed = placed_ahead(read_ahead(batches, 0), dict.fromkeys(batches[0], self._whole))
        return merged({"": self._metric}, ({"": self._measure(states, batch)} for _, batch in placed))[""]  # type: ignore

    def stuck(self, states: Fleet) -> list[int]:
        return [int(row) for row in jax.device_get(states.longest)]

    def picked(self, states: Fleet, places: Sequence[int], into: Stacked) -> Fleet:
        """The states at these places, as the first of a program of another size."""
        index = np.array([*places, *[places[0]] * (into.size - len(places))], np.int32)
        return _pick(states, index, into._apart)


def in_place(lowered: Any) -> Any:
    """Compiles a step for a CPU so that it updates its state in place.

    Under `vmap` the guard's branch is a select. To update parameters and moments after that, the compiler copies all the
    moments first, unless it looks at live ranges, which it does on accelerators and on a CPU only if asked. One that does
    not know the question makes the same numbers.
    """
    try:
        return lowered.compile(compiler_options=LIVE_RANGES)
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        return lowered.compile()


def _placed(shape: Sequence[int], dtype: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=sharding)


def _pick(states: Fleet, index: np.ndarray, sharding: NamedSharding) -> Fleet:
    return jax.jit(lambda states, index: jax.tree.map(lambda x: x[index], states), out_shardings=sharding)(
        states, index
    )


@dataclasses.dataclass(frozen=True)
class Each:
    """A metric of each of `count` trials. Its parts have a leading trial axis."""

    metric: Metric
    count: int

    @property
    def of_batch(self) -> Callable[..., Any]:
        return jax.vmap(self.metric.of_batch)

    def zero(self) -> Totals:
        return [self.metric.zero()] * self.count

    def merge(self, total: Totals, part: Any) -> Totals:
        return [self.metric.merge(one, jax.tree.map(lambda x: x[i], part)) for i, one in enumerate(total)]  # noqa: B023

    def result(self, total: Totals) -> Any:
        return [self.metric.result(one) for one in total]


@dataclasses.dataclass(frozen=True)
class Together:
    """The batches of several trials on top of each other: [trials, rows, ...]. `orders` says whose each trial reads."""

    each: dict[str, Batches]
    orders: Sequence[str]

    def __len__(self) -> int:
        return len(self.each[self.orders[0]])

    def __getitem__(self, cursor: int) -> Rows:
        read = {order: batches[cursor] for order, batches in self.each.items()}
        return {name: np.stack([read[order][name] for order in self.orders]) for name in read[self.orders[0]]}
