"""A sweep: claim trials, ask where they are, train them together, tell what came out; until none is left."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence

import jax
from rich.console import Console

from lepjax.core import fields
from lepjax.core.errors import UserError
from lepjax.experiment import Experiment
from lepjax.run.backend import use_compile_cache
from lepjax.tune import pruners, report, samplers
from lepjax.tune.assign import Field, assigned, overrides, resolve
from lepjax.tune.cohort import Ended, Entry, train
from lepjax.tune.groups import Groups, OutOfMemory
from lepjax.tune.live import Live
from lepjax.tune.named import named
from lepjax.tune.objective import Objective, objective
from lepjax.tune.pruners.pruner import Pruner
from lepjax.tune.result import Rescored, Result
from lepjax.tune.samplers.sampler import Sampler, Seen
from lepjax.tune.space import Space
from lepjax.tune.study import Study
from lepjax.tune.trial import COMPLETE, FAILED, PRUNED, Trial, winner

AUTO = "auto"
MOST = {"cpu": 16}
"""Jobs side by side where nobody says how many: more gain little there (experiments/benchmarks/README.md)."""
MOST_ELSEWHERE = 128
FRESH = 10_007  # seeds that a winner is scored on again begin so far from the experiment's


def sweep(
    experiment: Experiment,
    space: Space,
    trials: int = 64,
    sampler: str | Sampler = "tpe",
    pruner: str | Pruner = "none",
    together: int | str = AUTO,
    seeds: int = 1,
    order: str = "seed",
    metric: str = "",
    mode: str = "",
    sampler_seed: int = 0,
    rescore: int = 0,
    seconds: float = math.inf,
    name: str = "sweep",
    study: str = "",
    storage: str = "",
    run_dir: str = "",
    target: str = "EXPERIMENT",
    devices: Sequence[jax.Device] | None = None,
    console: Console | None = None,
) -> Result:
    """Searches `space` for the experiment that scores best; the same call goes on with a sweep that was stopped.

    sampler   where the next trial is: a file of `tune.samplers`
    pruner    which trials end early: a file of `tune.pruners`
    together  trials that train side by side in one program; 1: one after another, each on the experiment's mesh
    seeds     runs per trial, whose mean counts; they train side by side, or with `together` 1 take their steps in turn
    order     "seed": each job reads the data in the order of its seed, as a run of its own does; "shared": all in that of
              the experiment's
    metric    `<split>_<metric>`; empty: the experiment's `best`, or the loss of its first evaluation split
    rescore   fresh seeds on which the winner is scored again
    seconds   after which no more trials begin
    storage   where the study is kept, an URL of Optuna's; empty: `study.db` in `run_dir` (empty: runs/tune/<name>)

    Raises `UserError` for what does not fit, before anything is compiled.
    """
    console = console or Console(quiet=True)
    begun = time.perf_counter()
    use_compile_cache()
    found = resolve(experiment, space)
    search = named(samplers, Sampler, sampler)
    search.check(space)
    rule = named(pruners, Pruner, pruner)
    _check_counts(trials, together, seeds, order, rescore, sampler_seed)
    if not seconds > 0:
        raise UserError(f"{seconds}", where="seconds", fix="Use more than 0.")
    known = search.trials(space)
    trials = trials if known is None else min(trials, known)
    splits = experiment.data.load()
    goal = objective(experiment, tuple(splits.evaluation), metric, mode)
    folder = pathlib.Path(run_dir or f"runs/tune/{study or name}")
    folder.mkdir(parents=True, exist_ok=True)
    url = storage or f"sqlite:///{folder / 'study.db'}"
    facts = {
        "experiment": fingerprint(experiment),
        "order": order,
        "metric": goal.name,
        "seeds": seeds,
        "sampler": repr(search),
        "sampler_seed": sampler_seed,
        "pruner": repr(rule),
    }
    shared = order == "shared" or (seeds == 1 and all(field.path != "seed" for field in found.values()))
    chosen = list(jax.devices() if devices is None else devices)
    width = _width(together, trials, seeds, chosen)
    cohort = max(width // seeds, 1)
    rule = rule.among(cohort)
    groups = Groups(goal, width, experiment.seed if order == "shared" else None, chosen, {experiment.data: splits})
    groups.key(experiment)  # an experiment that cannot be built is refused here, once, and not trial by trial
    with contextlib.closing(Study.open(url, study or name, space, trials, goal.mode, facts)) as record:
        with Live(console, goal.name, goal.mode) as live:

            def tell(show: Callable[..., None]) -> None:
                show(record.trials(), groups.compiles, time.perf_counter() - begun)

            worker = Worker(
                experiment,
                space,
                found,
                search,
                rule,
                goal,
                groups,
                record,
                shared,
                seeds,
                sampler_seed,
                lambda: tell(live.reported),
            )
            tell(live.started)
            while time.perf_counter() - begun < seconds and (claimed := record.claim(cohort)):
                worker.do(claimed)
                tell(live.ended)
        done = record.trials()
    best = winner(done, goal.mode)
    command = "" if best is None else f"lepjax train {target} {overrides(best.values, found)}"
    result = Result(
        trials=tuple(done),
        space=dict(space),
        metric=goal.name,
        mode=goal.mode,
        compiles=groups.compiles,
        groups=groups.count,
        seconds=time.perf_counter() - begun,
        command=command,
        rescored=None,
        study_url=url,
        study_name=study or name,
        directory=folder,
    )
    report.write(result)
    if rescore and best is not None:
        result = dataclasses.replace(result, rescored=worker.rescored(best, rescore))
        report.write(result)
    return result


@dataclasses.dataclass(frozen=True)
class Worker:
    """Does the trials of a study that it is given."""

    experiment: Experiment
    space: Space
    found: Mapping[str, Field]
    sampler: Sampler
    pruner: Pruner
    objective: Objective
    groups: Groups
    study: Study
    shared: bool
    """All jobs read the data in the same order."""
    seeds: int
    sampler_seed: int
    reported: Callable[[], None] = lambda: None
    """Called when trials have reported."""

    def do(self, cohort: Sequence[Trial]) -> None:
        """Asks for the values that are not there yet, and trains the trials, those of one shape together."""
        by_shape: dict[str, list[tuple[Trial, Experiment]]] = {}
        for trial in self._asked(cohort):
            try:
                experiment = assigned(self.experiment, trial.values, self.found)
                by_shape.setdefault(self.groups.key(experiment), []).append((trial, experiment))
            except UserError as error:  # values that do not go together, such as a width and a number of heads
                self.study.finish(trial, FAILED, None, note=str(error))
        for key, some in by_shape.items():
            self._train(key, some)

    def _asked(self, cohort: Sequence[Trial]) -> list[Trial]:
        """The trials, ascending, with their values. Each is placed with those below it in sight."""
        seen = self.study.seen()
        asked = []
        for trial in cohort:
            if not trial.values:
                below = [one for one in seen if one.ordinal < trial.ordinal]
                values = self.sampler.suggest(self.space, below, trial.ordinal, self.sampler_seed)
                trial = self.study.assign(trial, values)
                seen = sorted([*seen, Seen(trial.ordinal, values, None)], key=lambda one: one.ordinal)
            asked.append(trial)
        return asked

    def _train(self, key: str, some: Sequence[tuple[Trial, Experiment]]) -> None:
        """As many side by side as fit. What does not fit by itself fails, and the sweep goes on."""
        while some:
            now = some[: max(self.groups.most // self.seeds, 1)]
            begun = time.perf_counter()
            try:
                ended = self._ended(key, now)
            except (OutOfMemory, jax.errors.JaxRuntimeError) as error:
                if not (isinstance(error, OutOfMemory) or "RESOURCE_EXHAUSTED" in str(error)):
                    raise
                if len(now) > 1 and self.groups.halve():
                    continue
                ended = [Ended((), 0, pruned=False, note=f"out of memory: {str(error).splitlines()[0]}")] * len(now)
            share = (time.perf_counter() - begun) / len(now)
            for (trial, _), end in zip(now, ended, strict=True):
                state = FAILED if end.note else PRUNED if end.pruned else COMPLETE
                score = None if end.note else end.score
                self.study.finish(trial, state, score, end.by_seed, end.steps, share, end.note)
            some = some[len(now) :]

    def _ended(self, key: str, some: Sequence[tuple[Trial, Experiment]]) -> list[Ended]:
        entries = [
            self.entry(experiment, self.pruner.rungs(trial.ordinal, self.groups.job(experiment).total_steps))
            for trial, experiment in some
        ]

        def judge(step: int, scores: Mapping[int, float]) -> set[int]:
            for place, score in scores.items():
                self.study.report(some[place][0], step, score)
            self.reported()
            ordinals = {place: some[place][0].ordinal for place in scores}
            totals = {place: entries[place].total_steps for place in scores}
            rungs = [p for p in scores if step in self.pruner.rungs(ordinals[p], totals[p])]
            reports = self.study.reports() if rungs else {}
            return {p for p in rungs if self.pruner.ends(ordinals[p], step, totals[p], reports)}

        program = functools.partial(self.groups.program, key, self.shared)
        return train(entries, program, self.objective, judge, self.experiment.max_skipped)

    def entry(self, experiment: Experiment, rungs: Sequence[int], seeds: int = 0) -> Entry:
        """A trial that reports at `rungs`, and where its best evaluation counts, at all evaluations."""
        each = [dataclasses.replace(experiment, seed=experiment.seed + i) for i in range(seeds or self.seeds)]
        jobs = tuple(self.groups.job(one) for one in each)
        every = jobs[0].every if self.objective.best else 0
        evaluations = range(every, jobs[0].total_steps, every) if every else ()
        return Entry(jobs, tuple(sorted({*rungs, *evaluations})))

    def rescored(self, best: Trial, count: int) -> Rescored:
        """The winner on seeds that no trial has had: the best of many is partly the luckiest."""
        experiment = assigned(self.experiment, best.values, self.found)
        fresh = [dataclasses.replace(experiment, seed=experiment.seed + FRESH + i) for i in range(count)]
        key = self.groups.key(experiment)
        width = self.groups.most if self.groups.miscible(key) else 1
        program = functools.partial(self.groups.program, key, width == 1)
        scores: list[float] = []
        for start in range(0, count, width):
            entries = [self.entry(one, (), seeds=1) for one in fresh[start : start + width]]
            ended = train(entries, program, self.objective, max_skipped=self.experiment.max_skipped)
            scores += [math.nan if end.note else end.score for end in ended]
        return Rescored(tuple(scores))


def fingerprint(experiment: Experiment) -> str:
    """Hash of all that decides a score. An identity is not enough: it knows nothing of hyperparameters and length."""
    decisive = [(path, repr(value)) for path, kind, value in fields.walk(experiment) if kind != fields.RUNTIME]
    return hashlib.sha256(json.dumps(sorted(decisive)).encode()).hexdigest()[:10]


def _check_counts(trials: int, together: int | str, seeds: int, order: str, rescore: int, sampler_seed: int) -> None:
    counts = (("trials", trials, 1), ("seeds", seeds, 1), ("rescore", rescore, 0), ("sampler_seed", sampler_seed, 0))
    for name, value, least in counts:
        if value < least:
            raise UserError(f"{value}", where=name, fix=f"Use {least} or more.")
    if not (together == AUTO or (isinstance(together, int) and together >= 1)):
        raise UserError(f"{together!r}", where="together", fix="Use auto, or a whole number from 1.")
    if order not in ("seed", "shared"):
        raise UserError(f"{order!r}", where="order", fix="Use seed or shared.")


def _width(together: int | str, trials: int, seeds: int, devices: Sequence[jax.Device]) -> int:
    """Jobs side by side. All seeds of a trial train together, unless nothing does."""
    if together == AUTO:
        return max(min(trials * seeds, MOST.get(devices[0].platform, MOST_ELSEWHERE)), seeds)
    return int(together) if together == 1 else int(together) * seeds
