"""The largest batch that fits into memory, and how fast batches of several sizes are.

What a size needs is read off the compiled step, which computes nothing; one real step at the size found is the proof.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable

import jax
import numpy as np

from lepjax import experiment as experiments
from lepjax.core.errors import UserError
from lepjax.data.loader import load_rows, place
from lepjax.data.source import Rows, Splits
from lepjax.experiment import Built, Experiment
from lepjax.run.compiled import Compiled, Shapes, compile_step, planned_shapes
from lepjax.tune.memory import device_memory

ROUND = 8  # sizes are multiples of this
AHEAD = 2  # batches that wait on the device while one is computed; see `data.loader.placed_ahead`
KNEE = 0.9  # share of the best throughput
GUESSES = 4  # along a straight line, before plain bisection
SIZES = 8  # of which the throughput is measured, at most, where nobody says how many
SECONDS = 0.5  # that one is measured for; at least three steps, where they take less than ten times as long
CAVEATS = (
    "A larger batch needs another learning rate (look again: lepjax find lr) and takes fewer steps per epoch; beyond the "
    "knee it costs memory and steps and gains no speed. Evaluation and other programs on the device need memory too."
)


@dataclasses.dataclass(frozen=True)
class Point:
    """A size that was run: seconds of the fastest step (others wait for their neighbours), and what it does per second."""

    rows: int
    seconds: float
    per_second: float


@dataclasses.dataclass(frozen=True)
class BatchSizes:
    largest: int
    """Rows of the largest batch that fits, and that one step was taken with."""
    needed: float
    """By the compiler, bytes on each device that its step needs."""
    limit: float
    """Bytes that it may take there."""
    points: tuple[Point, ...]
    """Ascending; the last is `largest`."""
    unit: str
    """What `per_second` counts."""
    bound: str
    """What keeps the batch from being larger: memory, or that there are no more records."""

    @property
    def knee(self) -> int:
        """The smallest size with `KNEE` of the best throughput."""
        best = max(point.per_second for point in self.points)
        return next(point.rows for point in self.points if point.per_second >= KNEE * best)


def largest_fitting(needed: Callable[[int], float], limit: float, multiple: int, start: int, most: int) -> int:
    """The largest multiple of `multiple`, at most `most`, with `needed(rows) <= limit`; 0: none fits.

    Doubles from `start`, then bisects. What a batch needs is nearly a straight line, so the first guesses between the two
    ends are where that line meets the limit.
    """
    most -= most % multiple
    low, high = 0, min(max(start - start % multiple, multiple), most)
    while high > 0 and needed(high) <= limit:
        if high == most:
            return most
        low, high = high, min(2 * high, most)
    turn = 0
    while high - low > multiple:
        middle = (low + high) / 2
        if low and turn < GUESSES and needed(low) < needed(high) < math.inf:
            middle = low + (limit - needed(low)) / (needed(high) - needed(low)) * (high - low)
        guess = min(max(int(middle // multiple) * multiple, low + multiple), high - multiple)
        low, high = (guess, high) if needed(guess) <= limit else (low, guess)
        turn += 1
    return low


def find_batch(
    experiment: Experiment,
    limit: float | None = None,
    most: int = 0,
    sizes: int = SIZES,
    splits: Splits | None = None,
) -> BatchSizes:
    """Finds the largest batch, and measures how fast up to `sizes` sizes are. Nothing is written.

    `limit` bytes per device (None: what it has) and `most` rows (0: all records) bound the search. `splits` are the
    experiment's data, where they are read already. Raises `UserError` where the smallest batch does not fit.
    """
    if sizes < 1:
        raise UserError(f"{sizes} sizes", where="batch finder", fix="Use 1 or more: the largest is always measured.")
    built = experiments.build(experiment, splits=splits)
    trials = Trials(built)
    limit = device_memory(jax.devices()[0], built.placement.mesh.size) if limit is None else limit
    most = min(most or len(built.splits.train), len(built.splits.train))
    ways = built.placement.batch_ways * experiment.accumulate
    if most < ways:
        raise UserError(f"{most} rows", where="batch finder", fix=f"Allow {ways} or more: devices x microbatches.")
    multiple = math.lcm(ways, ROUND) if most >= math.lcm(ways, ROUND) else ways
    size = largest_fitting(trials.needed, limit, multiple, experiment.data.batch_size, most)
    if not size:
        needed = trials.needed(multiple)
        found = f"a batch of {multiple} rows needs {needed:,.0f} bytes per device, there are {limit:,.0f}"
        raise UserError(found, where="batch finder", fix="Use more devices, a smaller model, or --model.remat full.")
    bound = "records" if size + multiple > most else "memory"
    proof = trials.run(size)
    while proof is None:
        size, bound = size // 2 - size // 2 % multiple, "memory"
        if not size:
            raise UserError("even the smallest batch runs out of memory", where="batch finder", fix="Use more devices.")
        proof = trials.run(size)
    points = [point for rows in smaller(size, ways, sizes - 1) if (point := trials.run(rows)) is not None]
    return BatchSizes(size, trials.needed(size), limit, (*points, proof), experiment.task.unit, bound)


def smaller(size: int, ways: int, count: int) -> list[int]:
    """Ascending, by powers of two, the `count` largest multiples of `ways` that are clearly below `size`."""
    below = [rows for n in range(size.bit_length()) if (rows := ways << n) <= 0.75 * size]
    return below[max(len(below) - count, 0) :]


class Trials:
    """Steps of one experiment at other batch sizes. What was compiled is kept."""

    def __init__(self, built: Built) -> None:
        self.built = built
        self.needed = functools.cache(self._needed)
        self._prepared = functools.cache(self._prepare)

    def _prepare(self, rows: int) -> tuple[Compiled, Rows, Shapes]:
        """(the step, host rows, shapes) for the batch with the most bytes of a plan with so many rows."""
        order = experiments.planned(with_rows(self.built.experiment, rows), self.built.splits)
        ids = order.plan.shapes()
        shapes = planned_shapes(order.source, ids, self.built.placement)
        widest = max(range(len(ids)), key=lambda i: _bytes(shapes[i]))
        step = compile_step(self.built.step, self.built.abstract, [shapes[widest]], self.built.placement)
        return step, load_rows(order.source, ids[widest], np.zeros_like(ids[widest])), shapes[widest]

    def _needed(self, rows: int) -> float:
        """Bytes on each device; infinite where the compiler already finds that it does not fit."""
        try:
            step, _, shapes = self._prepared(rows)
        except jax.errors.JaxRuntimeError as error:
            if out_of_memory(error):
                return math.inf
            raise
        told = step.memory_analysis()
        kept = told.argument_size_in_bytes + told.output_size_in_bytes - told.alias_size_in_bytes
        return kept + told.temp_size_in_bytes + told.generated_code_size_in_bytes + AHEAD * _bytes(shapes)

    def run(self, rows: int) -> Point | None:
        """Takes steps with a batch of this size; None: memory ran out."""
        seconds: list[float] = []
        try:
            step, host, shapes = self._prepared(rows)
            state = self.built.init()
            batch = place(host, {name: shape.sharding for name, shape in shapes.items()})
            while not seconds or sum(seconds) < SECONDS or (len(seconds) < 3 and sum(seconds) < 10 * SECONDS):
                begun = time.perf_counter()
                state, metrics = step(state, batch)
                jax.block_until_ready((state, metrics))
                seconds.append(time.perf_counter() - begun)
        except jax.errors.JaxRuntimeError as error:
            if out_of_memory(error):
                return None
            raise
        return Point(rows, min(seconds), self.built.experiment.task.tokens(host) / min(seconds))


def out_of_memory(error: Exception) -> bool:
    return "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error)


def with_rows(experiment: Experiment, rows: int) -> Experiment:
    return dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, batch_size=rows))


def _bytes(shapes: Shapes) -> int:
    """Of one device's part of a batch."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in shapes.values())
