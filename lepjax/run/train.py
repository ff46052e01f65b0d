"""One run from start to result: open, build, restore, compile, fit, evaluate, write down."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from typing import Any

import jax
from rich.console import Console

from lepjax import experiment as experiments
from lepjax.core import cost, fields
from lepjax.core.errors import DONE, UserError
from lepjax.core.spikes import RewindSpikes
from lepjax.core.state import State
from lepjax.data.loader import placed_ahead, read_ahead
from lepjax.experiment import Built, Experiment
from lepjax.run import files, show
from lepjax.run.backend import use_compile_cache
from lepjax.run.callbacks import Callback, Start, give_memory, planned, planning
from lepjax.run.checkpoint import Checkpoints
from lepjax.run.clock import LIFE, Clock
from lepjax.run.compiled import Compiled, compile_step, planned_shapes
from lepjax.run.compiles import Compiles, WatchCompiles
from lepjax.run.debug import debug_step
from lepjax.run.directory import RunDirectory, default_path
from lepjax.run.evaluation import Evaluate, Evaluator, check_monitors
from lepjax.run.events import LogMetrics
from lepjax.run.final import Section, Trained
from lepjax.run.fit import Loop, fit
from lepjax.run.manifest import Damaged
from lepjax.run.processes import agree, main_process, meet, on_main, total
from lepjax.run.progress import ShowEvaluation, ShowProgress
from lepjax.run.rewinding import History, Rewind
from lepjax.run.saving import Save
from lepjax.run.signals import StopOnSignal
from lepjax.run.sources import sources
from lepjax.run.stopping import Best, ReduceOnPlateau, StopDiverged, StopEarly

Stream = Callable[[int, int], Iterator[Any]]  # (step, cursor) -> (host batch, device batch) of the steps after it


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run came to. `code` is the exit code: 0 done, 75 restart me, 78 diverged."""

    experiment: Experiment
    """As it ran: callbacks may have changed what was given."""
    directory: RunDirectory
    result: dict[str, Any]
    sections: tuple[Section, ...]
    code: int
    trained: Trained | None = None
    """What was learned: the best parameters where a metric chose them. None: the run is not complete, or was before."""


def train(
    experiment: Experiment,
    name: str = "run",
    callbacks: Sequence[Callback] = (),
    console: Console | None = None,
    import_seconds: float = 0.0,
    leave: Callable[[str], Any] | None = None,
) -> Outcome:
    """Trains, or goes on where the run directory stopped; a finished run only tells its result.

    `callbacks` come last. `leave(why)` ends this process at once, as a command wants it when a signal finds nothing to save
    or nothing moves any more; without it, signals wait for the main thread and nobody watches.
    Raises `UserError` before anything is compiled or written, but what callbacks look with (`planned`).
    """
    console = console or Console(quiet=not main_process())
    clock = Clock()
    clock.add("import", import_seconds)
    with StopOnSignal(clock, leave) as signals:
        return _train(experiment, name, callbacks, console, clock, signals)


def _train(
    experiment: Experiment,
    name: str,
    callbacks: Sequence[Callback],
    console: Console,
    clock: Clock,
    signals: StopOnSignal,
) -> Outcome:
    def say(line: str) -> None:
        console.print(f"lepjax: {line}", highlight=False, soft_wrap=True, markup=False)

    use_compile_cache()
    directory = RunDirectory(default_path(name, experiment))
    on_main(directory.check_free)  # reading data may take long
    with clock.phase("data"):
        built = experiments.build(experiment, passes=directory.passes())
    check_monitors(experiment, built)
    if planners := planning(callbacks):
        with clock.phase("find"):
            experiment = _planned(planners, Start(experiment, built.splits, directory.experiment(), say))
            directory = RunDirectory(default_path(name, experiment))
            built = experiments.build(experiment, passes=directory.passes(), splits=built.splits)
    before = directory.experiment() if directory.path.is_dir() else None
    agree("data", {"the data's fingerprint": built.plan.fingerprint, "the run directory": str(directory.path)})
    on_main(lambda: directory.claim(experiment))
    on_main(lambda: directory.keep_passes(built.work.epochs))
    on_main(lambda: directory.keep_quarantine(built.splits.quarantined))
    clock.show_life(directory.life(jax.process_index()))
    if main_process() and LIFE in os.environ:
        clock.show_life(pathlib.Path(os.environ[LIFE]))
    checkpoints = Checkpoints(directory.checkpoints, say=say, must=experiment.must_save)
    try:
        run = _Run(experiment, built, directory, checkpoints, console, clock, signals, tuple(callbacks))
        with signals.watchdog(experiment.watchdog, directory.path):
            return run.go(before)
    finally:
        checkpoints.close()
        clock.close()
        directory.release()


def _planned(callbacks: Sequence[Callback], start: Start) -> Experiment:
    """What the callbacks make of the experiment: the same in all processes."""
    agree("run directory", {"an experiment in the run directory": str(start.before is not None)})
    experiment = planned(callbacks, start)
    agree("plan", facts(experiment))
    return experiment


@dataclasses.dataclass
class _Run:
    experiment: Experiment
    built: Built
    directory: RunDirectory
    checkpoints: Checkpoints
    console: Console
    clock: Clock
    signals: StopOnSignal
    extra: tuple[Callback, ...]

    def say(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def go(self, before: Experiment | None) -> Outcome:
        start = on_main(self.checkpoints.newest_good)
        if (done := self._finished_before(start)) is not None:
            return done
        on_main(lambda: self.checkpoints.prepare(self.built.abstract, bool(self.experiment.best)))
        if main_process():
            taken = sources(self.experiment, self.built.splits)
            self.directory.write_manifest(self.built.plan.fingerprint, dict(self.built.placement.mesh.shape), taken)
        show.before_training(self.console, self.experiment, self.built, self.directory.path)
        start, state, meta = self._restore_or_init(start, before)
        on_main(lambda: self.directory.forget_after(start or 0))
        utilisation = self._utilisation()  # while nothing else computes: after compiling, threads still write the cache
        evaluator, step, stream = self._compile(state)
        if utilisation is not None and isinstance(step, Compiled) and self._all_useful():
            utilisation = dataclasses.replace(utilisation, overhead=self._overhead(utilisation, step))
        best = Best(self.experiment.best, self.experiment.best_mode) if self.experiment.best else None
        part = self.built.batches().part
        shares = 1 if part is None else part.shares
        saver = Save(self.checkpoints, self.experiment.checkpoint_every, {"plan": self.built.plan.fingerprint})
        loop = Loop(
            state=state,
            step=start or 0,
            total_steps=self.built.total_steps,
            callbacks=self._callbacks(evaluator, best, utilisation, stream, saver),
            log_every=self.experiment.log_every,
            count=lambda rows: self.experiment.task.tokens(rows) * shares,
            size=(lambda rows: rows["tokens"].size * shares) if self.built.plan.note else None,
            clock=self.clock,
            results=meta["results"],
            evaluated=meta["evaluated"],
        )
        give_memory(loop.callbacks, meta["memory"])
        training = time.perf_counter()
        apart = self.clock.outside
        try:
            fit(step, loop, stream(loop.step, int(state.cursor)))
            if loop.stop is None or loop.stop.code == DONE:
                Evaluate(evaluator, 0).evaluate(loop)  # a run interrupted after its last step still owes this
            saver.save(loop)
        finally:
            for callback in loop.callbacks:
                callback.finished(loop)
        spent = time.perf_counter() - training - (self.clock.outside - apart) - self.clock.seconds.get("data wait", 0.0)
        self.clock.add("step", spent)
        with self.clock.phase("checkpoint"):
            self.checkpoints.wait()
        self.signals.saved()
        return self._conclude(loop, best, evaluator)

    def _callbacks(
        self,
        evaluator: Evaluator,
        best: Best | None,
        utilisation: cost.Utilisation | None,
        stream: Stream,
        saver: Save,
    ) -> tuple[Callback, ...]:
        experiment = self.experiment
        main = main_process()
        chosen: list[Callback | None] = [
            LogMetrics(self.directory, experiment.must_save, self.say) if main else None,
            ShowProgress(self.console, utilisation, experiment.task.unit) if main else None,
            ShowEvaluation(self.console, self.built.plan.steps_per_epoch, experiment.task.headline) if main else None,
            best,
            StopEarly(experiment.early_stopping) if experiment.early_stopping else None,
            ReduceOnPlateau(experiment.plateau) if experiment.plateau else None,
            StopDiverged(experiment.max_skipped),
            self._rewind(stream),
            self.signals,
            *self.extra,
            Evaluate(evaluator, self.built.evaluate_every),
            saver,
            WatchCompiles(self.say) if main else None,
        ]
        return tuple(callback for callback in chosen if callback is not None)

    def _rewind(self, stream: Stream) -> Rewind | None:
        rule, every = self.experiment.spikes, self.experiment.checkpoint_every
        if not isinstance(rule, RewindSpikes):
            return None
        return Rewind(rule, History(self.directory, self.checkpoints, every, self._restore, stream), self.say)

    def _all_useful(self) -> bool:
        """No padding: then useful tokens are all that is computed."""
        rows = self.built.batches()[0]
        return self.experiment.task.tokens(rows) == math.prod(_places(rows))

    def _overhead(self, utilisation: cost.Utilisation, step: Compiled) -> float:
        """What a step multiplies, per FLOP of the formula for all its tokens."""
        told = utilisation.flops_per_token * math.prod(_places(step.given[1]))
        if math.isfinite(step.flops):
            unit, size = ("GFLOP", 1e9) if told >= 1e9 else ("MFLOP", 1e6)
            traced = f"{step.flops / size:,.1f} {unit} as traced (HFU)"
            self.say(f"a step is {told / size:,.1f} {unit} by the formula of MFU, {traced}")
        return step.flops / told

    def _utilisation(self) -> cost.Utilisation | None:
        _, *inner = _places(self.built.batches(1)[0])
        flops = self.experiment.model.flops_per_token(inner[-1] if inner else 1)
        if not flops:
            return None
        rate = cost.matmul_rate(self.built.policy.compute)
        devices = self.built.placement.mesh.size
        return cost.Utilisation(flops, devices, rate)

    def _compile(self, state: State) -> tuple[Evaluator, Any, Stream]:
        """Everything that will run, compiled before step 0, and the batches from any cursor on."""
        built = self.built
        shapes = planned_shapes(built.source, built.plan.shapes(), built.placement)
        begun = time.perf_counter()
        meet()
        with self.clock.phase("compile"), Compiles() as compiles:
            evaluator = Evaluator(built)
            if self.experiment.debug:
                run_step = debug_step(built, self.say)
            else:
                run_step = compile_step(built.step, built.abstract, shapes, built.placement)
            self.checkpoints.warm(state)
        self.say(f"compiled in {time.perf_counter() - begun:.1f} s ({compiles.told()})")
        shardings = {name: shape.sharding for name, shape in shapes[0].items()}

        def stream(step: int, cursor: int) -> Iterator[Any]:
            batches = built.batches(cursor + built.total_steps - step)
            return placed_ahead(read_ahead(batches, cursor, self.experiment.readers), shardings, part=batches.part)

        return evaluator, run_step, stream

    def _restore_or_init(
        self, start: int | None, before: Experiment | None
    ) -> tuple[int | None, State, dict[str, Any]]:
        """(step, state, meta) of the newest checkpoint from `start` back that is what was saved, or of the beginning."""
        restored: tuple[State, dict[str, Any]] | None = None
        while start is not None and restored is None:
            try:
                with self.clock.phase("checkpoint"):
                    restored = self._restore(start)
            except Damaged as error:
                on_main(functools.partial(self.checkpoints.set_aside, start, error.found))
                start = on_main(self.checkpoints.newest_good)
        if start is None or restored is None:
            with self.clock.phase("compile"):
                return None, self.built.init(), {"results": {}, "evaluated": -1, "memory": {}}
        state, meta = restored
        if meta["plan"] != self.built.plan.fingerprint:
            raise UserError(
                f"the data or its order changed (plan {meta['plan']} then, {self.built.plan.fingerprint} now)",
                where=f"checkpoint {start} of {self.directory.path}",
                fix="Restore the data, or pass another --run-dir.",
            )
        changes = experiments.differences(before, self.experiment, fields.HPARAM) if before is not None else []
        self.say(f"resuming at step {start} of {self.built.total_steps}")
        for path, old, new in changes:
            self.say(f"changed on resume: {path} {old} -> {new}")
        if changes and main_process():
            _append_line(self.directory.path / "changes.jsonl", {"step": start, "changes": changes})
        return start, state, meta

    def _restore(self, step: int) -> tuple[State, dict[str, Any]]:
        """(state, meta) of a checkpoint, with the experiment's hyperparameters; what a plateau has lowered stays lowered."""
        state, meta = self.checkpoints.restore(step, self.built.abstract)
        fresh = self.experiment.hparams(self.built.total_steps)
        return experiments.with_hparams(state, {**fresh, "lr_scale": state.hparams["lr_scale"]}), meta

    def _finished_before(self, start: int | None) -> Outcome | None:
        """The result of a run that has nothing left to do, also of one that stopped early."""
        if start is None or not self.directory.result.exists():
            return None
        result = files.read_json(self.directory.result)
        if result["status"] != "done" or result["steps"] != start or result["total_steps"] < self.built.total_steps:
            return None
        self.say(f"already finished: {self.directory.path}")
        show.result(self.console, result, ())
        return Outcome(self.experiment, self.directory, result, (), DONE)

    def _best_state(self, loop: Loop, best: Best | None) -> State:
        """The state that a run is judged by: the best that was saved, or the last where no metric was to choose by."""
        if best is None or best.step in (-1, loop.step):
            return loop.state
        self.say(f"restoring the best parameters: {best.monitor} {best.value:.4f} at step {best.step}")
        return self.checkpoints.restore(best.step, self.built.abstract)[0]

    def _conclude(self, loop: Loop, best: Best | None, evaluator: Evaluator) -> Outcome:
        sections: tuple[Section, ...] = ()
        complete = loop.stop is None or loop.stop.code == DONE
        scores: dict[str, float] = {}
        trained: Trained | None = None
        if loop.stop is not None:
            self.say(f"{loop.stop.reason}; saved at step {loop.step} in {self.directory.path}")
        costs = self.checkpoints.costs
        if complete:
            with self.clock.phase("final"):
                scores = {f"last_{name}": value for name, value in evaluator.final(loop.state, self.clock.beat).items()}
                state = self._best_state(loop, best)
                scores |= evaluator.final(state, self.clock.beat) if state is not loop.state else _renamed(scores)
                trained = Trained(self.built, state, {**loop.results, **scores})
                sections = tuple(final.evaluate(trained) for final in self.experiment.final)
        else:
            self.say("run the same command to go on")
        values = {name: value for section in sections for name, value in section.values.items()}
        result = {
            "status": "done" if complete else ("interrupted" if loop.stop and loop.stop.code == 75 else "diverged"),
            "reason": loop.stop.reason if loop.stop else "",
            "steps": loop.step,
            "total_steps": loop.total_steps,
            "skipped": int(loop.state.skipped),
            "tokens": round(total(loop.tokens / jax.process_count())),
            **{name: _json_number(value) for name, value in {**loop.results, **scores, **values}.items()},
            **(
                {"best": {"metric": best.monitor, "value": _json_number(best.value), "step": best.step}} if best else {}
            ),
            "seconds": {name: round(seconds, 2) for name, seconds in self.clock.seconds.items()},
            "checkpoints": {
                "saved": costs.saved,
                "bytes": costs.bytes,
                "blocked_seconds": round(costs.blocked, 3),
                "written_seconds": round(costs.written, 3),
            },
        }
        if main_process():
            files.write_json(self.directory.result, result)
        show.result(self.console, result, sections)
        code = loop.stop.code if loop.stop else DONE
        outcome = Outcome(self.experiment, self.directory, result, sections, code, trained)
        for callback in loop.callbacks:
            callback.concluded(outcome)
        return outcome


def facts(experiment: Experiment) -> dict[str, str]:
    """What must be equal in all processes of a run: versions and every field."""
    versions = {name: metadata.version(name) for name in ("lepjax", "jax", "jaxlib", "flax", "optax")}
    return {**versions, **{path: repr(value) for path, _, value in fields.walk(experiment)}}


def _places(batch: dict[str, Any]) -> tuple[int, ...]:
    """The shape of what a batch has room for: tokens, or rows where its records have none."""
    return batch.get("tokens", batch["weight"]).shape


def _renamed(last: dict[str, float]) -> dict[str, float]:
    """The last parameters are the best: both names say the same."""
    return {name.removeprefix("last_"): value for name, value in last.items()}


def _json_number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)  # strict JSON has no NaN


def _append_line(path: pathlib.Path, data: Any) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(data) + "\n")
