"""What lepjax's step and loop cost over a page of bare JAX.

Purpose   a small GPT under AdamW: (a) lepjax's compiled step, (b) the whole `fit` with its callbacks and its input pipeline,
          each against a hand-written step in a bare loop over batches that are already on the device; with --guard instead
          (c) lepjax's step with the guard against loss spikes against the one without
Command   python -m experiments.benchmarks.step_overhead [--blocks 10] [--scan] [--default-malloc] [--guard]
Target    at least 0.98 (a), 0.97 (b) and 0.99 (c) of the other's speed, as the lower end of a 95 % interval
Measured  see README.md
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import pathlib
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console

from experiments.benchmarks.timing import Paired, interleave, timed
from lepjax import experiment as experiments
from lepjax.core import cost
from lepjax.core.optimizers import AdamW
from lepjax.core.schedules import Cosine
from lepjax.core.spikes import SkipSpikes
from lepjax.data.loader import place, placed_ahead, read_ahead
from lepjax.data.stdlib import StandardLibrary
from lepjax.experiment import Built, Experiment, Steps
from lepjax.models.gpt2 import Gpt2
from lepjax.run.callbacks import Callback
from lepjax.run.clock import Clock
from lepjax.run.compiled import Compiled, batch_shapes, compile_step
from lepjax.run.directory import RunDirectory
from lepjax.run.events import LogMetrics
from lepjax.run.fit import Loop, early, fit
from lepjax.run.memory import keep_freed_memory
from lepjax.run.progress import ShowProgress
from lepjax.run.signals import StopOnSignal
from lepjax.run.stopping import StopDiverged
from lepjax.tasks.language_modeling import LanguageModeling

LOADED = 16  # batches that the bare loop finds on the device
Step = Callable[[Any, Any], tuple[Any, Any]]


def experiment(scan: bool = False) -> Experiment:
    """A step of some 25 GFLOP: the work of a GPT, in a time that leaves room for many blocks."""
    return Experiment(
        model=Gpt2(vocab_size=256, context=128, layers=4, heads=6, width=192, scan=scan),
        task=LanguageModeling(bytes=True),
        data=StandardLibrary(batch_size=16, length=128),
        optimizer=AdamW(
            learning_rate=1e-3, beta2=0.99, weight_decay=0.1, clip_norm=1.0, schedule=Cosine(warmup=100, final=0.05)
        ),
        length=Steps(1000),
    )


def bare_step(built: Built) -> tuple[Step, Any]:
    """The same training step by hand, and its first state: the model, optax, one jit. No guard, no metric but the loss."""
    recipe, state = built.experiment.optimizer, built.init()
    assert isinstance(recipe, AdamW) and built.experiment.precision == "float32" and built.experiment.accumulate == 1
    params, model_state = jax.tree.map(lambda x: jnp.array(np.asarray(x)), (state.params, state.model_state))
    peak, hparams = recipe.learning_rate, recipe.hparams(built.total_steps)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, peak, int(hparams["warmup_steps"]), built.total_steps, end_value=peak * hparams["final_lr_fraction"]
    )
    decays = jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in ("bias", "scale"), params)
    optimizer = optax.chain(
        optax.clip_by_global_norm(recipe.clip_norm),
        optax.adamw(schedule, recipe.beta1, recipe.beta2, recipe.eps, weight_decay=recipe.weight_decay, mask=decays),
    )

    def loss(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        logits, _ = built.model.apply(params, model_state, batch["tokens"], train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"]).mean()

    def step(state: Any, batch: dict[str, jax.Array]) -> tuple[Any, jax.Array]:
        params, opt_state = state
        value, grads = jax.value_and_grad(loss)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    return jax.jit(step, donate_argnums=0), (params, optimizer.init(params))


class Blocks:
    """Calling it runs one block of steps over loaded batches, waits for the last and returns the seconds per step."""

    def __init__(self, step: Step, state: Any, batches: list[Any], steps: int) -> None:
        self.step, self.state, self.steps = step, state, steps
        self.batches = itertools.cycle(batches)

    def __call__(self) -> float:
        return timed(self._run, self.steps)

    def _run(self) -> None:
        for batch in itertools.islice(self.batches, self.steps):
            self.state, _ = self.step(self.state, batch)
        jax.block_until_ready(self.state)

    def losses(self, count: int) -> list[float]:
        values = []
        for batch in itertools.islice(self.batches, count):
            self.state, metrics = self.step(self.state, batch)
            values.append(float(metrics["loss"] if isinstance(metrics, dict) else metrics))
        return values


class FitBlocks(Callback):
    """`fit` in blocks: it runs in a thread of its own, and a call lets it go on to the end of its next block."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.go, self.done = threading.Semaphore(0), queue.SimpleQueue[float | BaseException]()
        self.began = 0.0

    def started(self, loop: Loop) -> None:
        self._wait()

    def stepped(self, loop: Loop) -> None:
        if loop.step % self.steps == 0:
            jax.block_until_ready(loop.state)
            self.done.put((time.perf_counter() - self.began) / self.steps)
            self._wait()

    def _wait(self) -> None:
        self.go.acquire()
        self.began = time.perf_counter()

    def __call__(self) -> float:
        self.go.release()
        seconds = self.done.get()
        if isinstance(seconds, BaseException):
            raise seconds
        # The reader fills its buffer before the other program's block. It is full when fit's next block starts and full
        # when that ends, so fit pays for as many batches as it takes.
        time.sleep(0.2)
        return seconds

    @contextlib.contextmanager
    def running(self, step: Step, loop: Loop, stream: Iterator[Any]) -> Iterator[None]:
        """Inside, calls run blocks; on leaving, `fit` stops."""

        def run() -> None:
            try:
                fit(step, loop, stream)
            except BaseException as error:
                self.done.put(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            loop.stop = early("measured")
            self.go.release()
            thread.join()
            for callback in loop.callbacks:
                callback.finished(loop)


def lepjax_step(built: Built) -> tuple[Compiled, dict[str, Any]]:
    """lepjax's step as `lepjax train` compiles it, and the shardings of its batch."""
    shapes = batch_shapes(built.batches(1)[0], built.placement)
    step = compile_step(built.step, built.abstract, [shapes], built.placement)
    return step, {name: shape.sharding for name, shape in shapes.items()}


def compare_steps(built: Built, blocks: int, steps: int) -> Paired:
    """(a) The compiled steps alone. Raises AssertionError where they do not compute the same losses."""
    step, shardings = lepjax_step(built)
    host = built.batches(LOADED)
    rows = [host[i] for i in range(LOADED)]
    ours = Blocks(step, built.init(), [place(r, shardings) for r in rows], steps)
    theirs = Blocks(*bare_step(built), [jax.tree.map(jnp.asarray, r) for r in rows], steps)
    np.testing.assert_allclose(ours.losses(5), theirs.losses(5), rtol=1e-5)
    return interleave(ours, theirs, blocks)


def compare_loops(built: Built, blocks: int, steps: int) -> Paired:
    """(b) `fit` as `lepjax train` calls it (saving and evaluating apart) against the bare loop."""
    step, shardings = lepjax_step(built)
    host = built.batches(10**6)
    theirs = Blocks(*bare_step(built), [jax.tree.map(jnp.asarray, host[i]) for i in range(LOADED)], steps)
    ours = FitBlocks(steps)
    with tempfile.TemporaryDirectory() as folder, open(pathlib.Path(folder) / "progress.txt", "w") as file:
        directory = RunDirectory(pathlib.Path(folder))
        rate = cost.matmul_rate(built.policy.compute)
        per_token = built.experiment.model.flops_per_token(host[0]["tokens"].shape[1])
        progress = ShowProgress(Console(file=file), lambda speed: cost.utilisation(per_token, speed, 1, rate))
        loop = Loop(
            state=built.init(),
            step=0,
            total_steps=len(host),
            callbacks=(LogMetrics(directory), progress, StopDiverged(20), StopOnSignal(Clock()), ours),
            log_every=built.experiment.log_every,
            count=built.experiment.task.tokens,
        )
        with ours.running(step, loop, placed_ahead(read_ahead(host, 0), shardings)):
            paired = interleave(ours, theirs, blocks)
        assert len(directory.read_metrics()) == loop.step // loop.log_every
    return paired


def compare_guard(built: Built, blocks: int, steps: int) -> Paired:
    """(c) The step with `SkipSpikes` against the same without. Raises AssertionError where the losses differ."""
    guarded = experiments.build(dataclasses.replace(built.experiment, spikes=SkipSpikes()))
    host = built.batches(LOADED)

    def blocks_of(built: Built) -> Blocks:
        step, shardings = lepjax_step(built)
        return Blocks(step, built.init(), [place(host[i], shardings) for i in range(LOADED)], steps)

    ours, theirs = blocks_of(guarded), blocks_of(built)
    np.testing.assert_allclose(ours.losses(5), theirs.losses(5), rtol=1e-5)
    return interleave(ours, theirs, blocks)


def flops_per_step(built: Built) -> float:
    rows, length = built.batches(1)[0]["tokens"].shape
    return built.experiment.model.flops_per_token(length) * rows * length


def floor_line(built: Built, paired: Paired) -> str:
    """How far both are from a machine that only multiplies matrices, at the rate measured on a large product."""
    flops, rate = flops_per_step(built), cost.matmul_rate(built.policy.compute, seconds=1.0)
    floor = flops / rate
    ours, theirs = (float(np.median(seconds)) / floor for seconds in (paired.ours, paired.theirs))
    return (
        f"floor {1e3 * floor:.1f} ms/step ({flops / 1e9:.1f} GFLOP at {rate / 1e9:.0f} GFLOP/s)   "
        f"lepjax {ours:.2f} x the floor   bare jax {theirs:.2f} x the floor"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=10, help="blocks of each program")
    parser.add_argument(
        "--steps", type=int, default=5, help="steps per block of (a); a block of (b) has four times as many"
    )
    parser.add_argument(
        "--scan", action="store_true", help="scan the layers instead of unrolling them, in both programs"
    )
    parser.add_argument("--guard", action="store_true", help="(c) alone")
    parser.add_argument("--default-malloc", action="store_true", help="both without `keep_freed_memory`: noisy")
    chosen = parser.parse_args()
    if not chosen.default_malloc:
        keep_freed_memory()  # as `lepjax train` does; in one process it serves both programs
    built = experiments.build(experiment(chosen.scan))
    what = "gpt 4x192 16x128" + " scanned" * chosen.scan
    if chosen.guard:
        paired = compare_guard(built, chosen.blocks, chosen.steps)
        print(paired.line(what, "with SkipSpikes", "without", chosen.steps), paired.verdict(0.99), sep="\n")
        return
    paired = compare_steps(built, chosen.blocks, chosen.steps)
    print(paired.line(what, "lepjax", "bare jax", chosen.steps), paired.verdict(0.98), sep="\n", flush=True)
    print(floor_line(built, paired), flush=True)
    long = 4 * chosen.steps  # log lines and read-ahead average out
    paired = compare_loops(built, chosen.blocks, long)
    print(paired.line(f"{what} fit", "lepjax", "bare loop", long), paired.verdict(0.97), sep="\n")


if __name__ == "__main__":
    main()
