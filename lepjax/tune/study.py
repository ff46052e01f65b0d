"""The trials of a sweep in an Optuna storage: the record, and the queue that any number of workers take from.

Where a trial lies is decided by our samplers; Optuna keeps it, hands it out once, and its dashboard shows it. Each trial has
an ordinal. A worker that dies leaves a trial running: another marks it FAIL, as lost, and puts a copy with the same ordinal
and values into the queue. So each ordinal is done once, and which trials a sweep consists of does not depend on who died.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Mapping
from typing import Any

from lepjax.core.errors import UserError
from lepjax.tune.distributions import distributions, optuna
from lepjax.tune.pruners.pruner import Reports
from lepjax.tune.samplers.sampler import Seen
from lepjax.tune.space import Space, Values
from lepjax.tune.storage import open_storage, shown
from lepjax.tune.trial import COMPLETE, FAILED, LOST, PRUNED, RUNNING, WAITING, Trial
from lepjax.tune.workers import GRACE, Beating, Watched, own_id

POLL = 0.5  # seconds between two looks, where others still work


class Study:
    """One worker's view of a study."""

    def __init__(self, storage: Any, study_id: int, space: Space, mode: str, grace: float = GRACE) -> None:
        self.storage, self.id, self.space, self.mode = storage, study_id, space, mode
        self.worker = own_id()
        self._watched = Watched(grace)
        self._beating = Beating(lambda n: storage.set_study_user_attr(study_id, f"beat {self.worker}", n))

    @classmethod
    def open(
        cls,
        url: str,
        name: str,
        space: Space,
        trials: int,
        mode: str,
        facts: Mapping[str, Any],
        grace: float = GRACE,
    ) -> Study:
        """Makes the study, or joins it. Raises `UserError` where the storage cannot be reached, or the study of that name
        searches another space or belongs to something else.
        """
        storage = open_storage(url)
        direction = optuna().study.StudyDirection.MINIMIZE if mode == "min" else optuna().study.StudyDirection.MAXIMIZE
        mine = {"space": {key: repr(dimension) for key, dimension in space.items()}, **facts, "mode": mode}
        try:
            study_id = storage.create_new_study([direction], name)
            storage.set_study_user_attr(study_id, "sweep", json.dumps(mine))
            made = True
        except optuna().exceptions.DuplicatedStudyError:
            study_id, made = storage.get_study_id_from_name(name), False
        where = f"study {name} in {shown(url)}"
        _check_same(_told(storage, study_id, where), mine, where)
        study = cls(storage, study_id, space, mode, grace)
        study._enqueue_missing(trials, at_once=made)
        return study

    def close(self) -> None:
        """What this worker still holds goes back into the queue: the process may live on."""
        self._beating.close()
        for frozen in self._running():
            if frozen.user_attrs.get("worker") == self.worker:
                self._give_back(frozen)

    # ---- taking ----

    def claim(self, count: int) -> list[Trial]:
        """Up to `count` trials that are this worker's now: those that wait in the lowest aligned block of ordinals.

        Blocks are aligned so that a sweep that was killed forms the same groups again. Where none waits but others still
        work, this waits: one of them may die. Empty: all is done.
        """
        states = self._states()
        while True:
            self.rescue()
            everything = self._all()
            waiting = sorted(self._of(everything, WAITING), key=lambda t: (t.ordinal, t.number))
            claimed: list[Trial] = []
            for trial in waiting:
                if trial.ordinal // count != waiting[0].ordinal // count:
                    break
                with contextlib.suppress(optuna().exceptions.UpdateFinishedTrialError):  # taken, and done already
                    if self.storage.set_trial_state_values(self._ids[trial.number], states[RUNNING]):
                        self.storage.set_trial_user_attr(self._ids[trial.number], "worker", self.worker)
                        claimed.append(trial)
            claimed = self._needed(claimed)
            if claimed:
                return claimed
            if not waiting and not self._of(everything, RUNNING):
                if not self._enqueue_missing(self._wanted()):
                    return []
                continue
            time.sleep(0 if waiting else POLL)

    def assign(self, trial: Trial, values: Values) -> Trial:
        """The trial with its values, which the storage keeps."""
        with contextlib.suppress(optuna().exceptions.UpdateFinishedTrialError):  # see `finish`
            for name, distribution in distributions(self.space).items():
                internal = distribution.to_internal_repr(values[name])
                self.storage.set_trial_param(self._ids[trial.number], name, internal, distribution)
        return dataclasses.replace(trial, values=dict(values))

    def report(self, trial: Trial, step: int, score: float) -> None:
        with contextlib.suppress(optuna().exceptions.UpdateFinishedTrialError):  # see `finish`
            self.storage.set_trial_intermediate_value(self._ids[trial.number], step, float(score))

    def finish(
        self,
        trial: Trial,
        state: str,
        score: float | None,
        by_seed: tuple[float, ...] = (),
        steps: int = 0,
        seconds: float = 0.0,
        note: str = "",
    ) -> None:
        """What came of a trial. Where another worker took this one for dead, its word stands and this is dropped."""
        told = {"by_seed": [x if abs(x) < 1e300 else str(x) for x in by_seed], "steps": steps, "seconds": seconds}
        values = None if state == FAILED or score is None else [float(score)]
        with contextlib.suppress(optuna().exceptions.UpdateFinishedTrialError):
            self.storage.set_trial_user_attr(self._ids[trial.number], "result", {**told, "note": note})
            self.storage.set_trial_state_values(self._ids[trial.number], self._states()[state], values)

    # ---- looking ----

    def trials(self) -> list[Trial]:
        """All, by ordinal, each once: those that were lost are left out."""
        found: dict[int, Trial] = {}
        for trial in self._all():
            if trial.state != LOST:
                found.setdefault(trial.ordinal, trial)
        return [found[ordinal] for ordinal in sorted(found)]

    def lost(self) -> list[Trial]:
        """Those whose workers died."""
        return [trial for trial in self._all() if trial.state == LOST]

    def seen(self) -> list[Seen]:
        """What a sampler may know: the trials that have values, by ordinal."""
        placed = [trial for trial in self.trials() if trial.values]
        return [Seen(t.ordinal, t.values, self._cost(t), t.state == PRUNED, t.steps) for t in placed]

    def reports(self) -> Reports:
        """For pruners: all scores so far, the lower the better."""
        sign = 1.0 if self.mode == "min" else -1.0
        return {trial.ordinal: {s: sign * x for s, x in trial.reports.items()} for trial in self.trials()}

    def _cost(self, trial: Trial) -> float | None:
        if trial.state in (RUNNING, WAITING):
            return None
        if trial.state == FAILED or trial.score is None:
            return float("inf")
        return trial.score if self.mode == "min" else -trial.score

    # ---- the dead ----

    def rescue(self) -> int:
        """Puts the running trials of dead workers back into the queue; how many."""
        count = 0
        running = self._running()
        beats = self._beats() if running else {}
        for frozen in running:
            worker = frozen.user_attrs.get("worker")
            if worker is None:  # claimed a moment ago, or by one that died in that moment
                gone = self._watched.still(f"trial {frozen.number}", "nobody")
            else:
                gone = worker != self.worker and self._watched.dead(worker, beats)
            count += gone and self._give_back(frozen)
        return count

    def _running(self) -> list[Any]:
        return [t for t in self.storage.get_all_trials(self.id, deepcopy=False) if t.state.name == "RUNNING"]

    def _give_back(self, frozen: Any) -> bool:
        """Marks a running trial as lost and puts a copy into the queue; False: another has."""
        try:
            self.storage.set_trial_user_attr(frozen._trial_id, "lost", True)
            # Raises for all but the first who says so: exactly one puts the copy into the queue.
            self.storage.set_trial_state_values(frozen._trial_id, self._states()[FAILED])
        except optuna().exceptions.UpdateFinishedTrialError:
            return False
        self._enqueue(frozen.user_attrs["ordinal"], dict(frozen.params))
        return True

    def _needed(self, claimed: list[Trial]) -> list[Trial]:
        """Two may have filled the same gap in the queue: the lower number is the one that counts, the other is dropped."""
        first: dict[int, int] = {}
        for trial in self._all() if claimed else ():
            if trial.state != LOST:
                first.setdefault(trial.ordinal, trial.number)
        surplus = [trial for trial in claimed if first.get(trial.ordinal, trial.number) < trial.number]
        for trial in surplus:
            self.storage.set_trial_user_attr(self._ids[trial.number], "lost", True)
            self.storage.set_trial_state_values(self._ids[trial.number], self._states()[FAILED])
        return [trial for trial in claimed if trial not in surplus]

    def _enqueue_missing(self, wanted: int, at_once: bool = False) -> bool:
        """Puts ordinals below `wanted` that nobody has into the queue; whether some are missing (still).

        Whoever made the study does so at once; others give it time, as it may be about to.
        """
        attributes = self.storage.get_study_user_attrs(self.id)
        before = attributes.get("trials", 0)
        if wanted > before:
            self.storage.set_study_user_attr(self.id, "trials", wanted)
        if at_once:
            self.storage.set_study_user_attr(self.id, "maker", self.worker)
        everything = self._all()
        here = {trial.ordinal for trial in everything if trial.state != LOST}
        values = {trial.ordinal: trial.values for trial in everything}
        missing = [ordinal for ordinal in range(max(wanted, before)) if ordinal not in here]
        maker = attributes.get("maker", "")
        alone = at_once or wanted > before > 0 or (maker and self._watched.dead(maker, self._beats()))
        if missing and (alone or self._watched.still("missing", missing)):
            for ordinal in missing:
                self._enqueue(ordinal, values.get(ordinal, {}))
            return True
        if missing:
            time.sleep(POLL)
        return bool(missing)

    def _wanted(self) -> int:
        return int(self.storage.get_study_user_attrs(self.id).get("trials", 0))

    def _enqueue(self, ordinal: int, values: Values) -> None:
        ranges = distributions(self.space) if len(values) == len(self.space) else {}
        template = optuna().trial.create_trial(
            state=optuna().trial.TrialState.WAITING,
            params=values if ranges else {},
            distributions=ranges,
            user_attrs={"ordinal": ordinal},
        )
        self.storage.create_new_trial(self.id, template)

    # ---- Optuna's words ----

    def _all(self) -> list[Trial]:
        frozen = self.storage.get_all_trials(self.id, deepcopy=False)
        self._ids: dict[int, int] = {trial.number: trial._trial_id for trial in frozen}
        known = (_trial(one, len(self.space)) for one in frozen if "ordinal" in one.user_attrs)
        return sorted(known, key=lambda t: t.number)

    def _of(self, trials: list[Trial], state: str) -> list[Trial]:
        return [trial for trial in trials if trial.state == state]

    def _beats(self) -> dict[str, Any]:
        attributes = self.storage.get_study_user_attrs(self.id)
        return {key.removeprefix("beat "): value for key, value in attributes.items() if key.startswith("beat ")}

    def _states(self) -> dict[str, Any]:
        TrialState = optuna().trial.TrialState
        return {
            WAITING: TrialState.WAITING,
            RUNNING: TrialState.RUNNING,
            COMPLETE: TrialState.COMPLETE,
            PRUNED: TrialState.PRUNED,
            FAILED: TrialState.FAIL,
        }


def _trial(frozen: Any, dimensions: int) -> Trial:
    names = {"WAITING": WAITING, "RUNNING": RUNNING, "COMPLETE": COMPLETE, "PRUNED": PRUNED, "FAIL": FAILED}
    attributes = frozen.user_attrs
    result = attributes.get("result", {})
    state = names[frozen.state.name]
    return Trial(
        ordinal=attributes["ordinal"],
        number=frozen.number,
        state=LOST if state == FAILED and attributes.get("lost") else state,
        values=dict(frozen.params) if len(frozen.params) == dimensions else {},  # another may be writing them
        score=frozen.values[0] if frozen.values else None,
        reports=dict(frozen.intermediate_values),
        by_seed=tuple(float(x) for x in result.get("by_seed", ())),
        steps=result.get("steps", 0),
        seconds=result.get("seconds", 0.0),
        note=result.get("note", ""),
    )


def _told(storage: Any, study_id: int, where: str) -> dict[str, Any]:
    """What a study says of itself; whoever makes it may need a moment for that."""
    end = time.monotonic() + 10.0
    while (text := storage.get_study_user_attrs(study_id).get("sweep")) is None:
        if time.monotonic() > end:
            raise UserError("was not made by lepjax", where=where, fix="Pass another --study.")
        time.sleep(0.1)
    return json.loads(text)


def _check_same(theirs: Mapping[str, Any], mine: Mapping[str, Any], where: str) -> None:
    fix = "Pass another --study, or what it was begun with."
    for key in sorted({*theirs["space"], *mine["space"]}):
        then, now = theirs["space"].get(key), mine["space"].get(key)
        if then != now:
            raise UserError(f"another space: {key} was {then or 'absent'}, is {now or 'absent'}", where=where, fix=fix)
    for key in mine:
        if theirs.get(key) != mine[key]:
            raise UserError(f"another {key}: {theirs.get(key)} then, {mine[key]} now", where=where, fix=fix)
