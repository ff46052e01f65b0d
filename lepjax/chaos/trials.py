"""All kinds of faults on one experiment, one kind after another."""

from __future__ import annotations

import dataclasses
import pathlib
import random
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice

from lepjax.chaos.chain import Fault, chain
from lepjax.chaos.damage import Interrupted, damages, interrupted, suffered
from lepjax.chaos.disk import disks
from lepjax.chaos.kills import kills
from lepjax.chaos.oracle import Oracle, undisturbed
from lepjax.chaos.points import calls_of_a_save, errors, points, unavailable
from lepjax.chaos.races import loading, races
from lepjax.chaos.report import Outcome, Report, Skipped
from lepjax.chaos.signals import signals
from lepjax.chaos.trial import Subject
from lepjax.experiment import Experiment

SIDE_BY_SIDE = 2  # chains: much of a start is one thread
TOGETHER = 40  # damaged copies per fresh process: no more need lie on the disk at a time

EVERY = 10**6  # more than there are
Outcomes = Iterable[Outcome | Skipped]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How many faults of each kind; 0: none."""

    kills: int = 20
    points: int = 0
    """Crash points, spread over the calls of a save, and a quarter as many failing calls."""
    flips: int = 30
    truncations: int = 5
    deletions: int = EVERY
    signals: int = 10
    processes: int = 1
    """Of the run that gets the signals."""
    races: int = 5
    disk: int = 0
    draw: int = 0
    """Another number draws other instants and other bits."""


@dataclasses.dataclass(frozen=True)
class Trials:
    """An experiment, its command, and the folder in which it is broken."""

    experiment: Experiment
    subject: Subject
    plan: Plan
    folder: pathlib.Path
    say: Callable[[str], None] = print

    def run(self) -> Report:
        """Tries everything planned; `say` hears of it. Raises `UserError` where the experiment fails undisturbed."""
        plan = self.plan
        seconds: dict[str, float] = {}
        begun = time.monotonic()
        oracle = undisturbed(self.subject, self._room("undisturbed") / "run")
        seconds["undisturbed"] = time.monotonic() - begun
        self.say(f"undisturbed: {len(oracle.losses)} steps, {seconds['undisturbed']:.1f} s")
        kinds: dict[str, tuple[int, Callable[[Oracle], Outcomes]]] = {
            "kills": (plan.kills, self._kills),
            "points": (plan.points, self._points),
            "damage": (plan.flips + plan.truncations + plan.deletions, self._damage),
            "signals": (plan.signals, self._signals),
            "races": (plan.races, self._races),
            "disk": (plan.disk, self._disk),
        }
        outcomes: list[Outcome] = []
        skipped: list[Skipped] = []
        for name, (count, work) in kinds.items():
            if not count:
                continue
            begun, before = time.monotonic(), len(outcomes)
            for outcome in work(oracle):
                if isinstance(outcome, Skipped):
                    skipped.append(outcome)
                    self.say(f"{name}: skipped: {outcome.reason}")
                    continue
                outcomes.append(outcome)
                if outcome.bad:
                    self.say(f"{name}: BAD: {outcome.kind}, {outcome.what}: {outcome.bad}")
            seconds[name] = time.monotonic() - begun
            bad = sum(bool(outcome.bad) for outcome in outcomes[before:])
            self.say(f"{name}: {len(outcomes) - before} done, bad = {bad}, {seconds[name]:.0f} s")
        report = Report(self.subject.target, tuple(outcomes), tuple(skipped), seconds)
        report.write(self.folder)
        return report

    def _room(self, name: str) -> pathlib.Path:
        room = self.folder.absolute() / name
        room.mkdir(parents=True, exist_ok=True)
        return room

    def _random(self, name: str) -> random.Random:
        """Each kind draws for itself: leaving one out changes no other."""
        return random.Random(f"{name} {self.plan.draw}")

    def _chains(self, kind: str, subject: Subject, oracle: Oracle, faults: Iterable[Fault]) -> Iterator[Outcome]:
        """The faults, dealt to several chains side by side."""
        every = list(faults)
        rooms = [self._room(f"{kind}/{index}") for index in range(SIDE_BY_SIDE)]

        def deal(index: int) -> list[Outcome]:
            return list(chain(kind, subject, oracle, rooms[index], every[index::SIDE_BY_SIDE]))

        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            for outcomes in pool.map(deal, range(SIDE_BY_SIDE)):
                yield from outcomes

    def _kills(self, oracle: Oracle) -> Outcomes:
        faults = islice(kills(oracle, self._random("kills")), self.plan.kills)
        return self._chains("kill", self.subject, oracle, faults)

    def _points(self, oracle: Oracle) -> Outcomes:
        if reason := unavailable():
            yield Skipped("points", reason)
            return
        room = self._room("points")
        calls = calls_of_a_save(self.subject, room)
        self.say(f"points: a save makes {len(calls)} calls that change what is on the disk")
        count = min(self.plan.points, len(calls))
        chosen = [calls[i * (len(calls) - 1) // max(count - 1, 1)] for i in range(count)]
        yield from self._chains("crash point", self.subject, oracle, points(chosen, room))
        failing = errors(-(-count // 4), self._random("errors"))
        yield from self._chains("failing call", self.subject, oracle, failing)

    def _interrupted(self, oracle: Oracle) -> Interrupted:
        return interrupted(self.subject, oracle, self._room("interrupted") / "run")

    def _damage(self, oracle: Oracle) -> Outcomes:
        base = self._interrupted(oracle)
        counts = self.plan.flips, self.plan.truncations, self.plan.deletions
        hurt = list(damages(base, *counts, self._random("damage")))
        parts = [hurt[i : i + TOGETHER] for i in range(0, len(hurt), TOGETHER)]
        rooms = [self._room("damage") / str(number) for number in range(len(parts))]
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            for outcomes in pool.map(partial(suffered, self.experiment, self.subject, oracle, base), rooms, parts):
                yield from outcomes

    def _signals(self, oracle: Oracle) -> Outcomes:
        subject, room = dataclasses.replace(self.subject, processes=self.plan.processes), self._room("signal")
        if self.plan.processes > 1:  # the sums of several processes have another order
            oracle = undisturbed(subject, room / "undisturbed")
        faults = islice(signals(oracle, room, self._random("signals")), self.plan.signals)
        return chain("signal", subject, oracle, room, faults)

    def _races(self, oracle: Oracle) -> Outcomes:
        room = self._room("race")
        loaded = loading(self.subject, room / "help")
        faults = islice(races(self.subject, oracle, loaded, self._random("races")), self.plan.races)
        return chain("race", self.subject, oracle, room, faults)

    def _disk(self, oracle: Oracle) -> Outcomes:
        return disks(self.subject, oracle, self._interrupted(oracle), self._room("disk"))
