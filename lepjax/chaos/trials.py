"""All kinds of faults on one experiment, one kind after another."""

from __future__ import annotations

import dataclasses
import pathlib
import random
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from lepjax.chaos.chain import Fault, chain
from lepjax.chaos.kills import kills
from lepjax.chaos.oracle import Oracle, undisturbed
from lepjax.chaos.report import Outcome, Report, Skipped
from lepjax.chaos.trial import Subject

SIDE_BY_SIDE = 2  # chains of kills: much of a start is one thread

Kind = Callable[[], Iterable[Outcome | Skipped]]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How many faults of each kind."""

    kills: int = 20
    draw: int = 0
    """Another number draws other instants and other bits."""


def suffer(subject: Subject, plan: Plan, folder: pathlib.Path, say: Callable[[str], None] = print) -> Report:
    """Tries everything planned; `say` hears one line per kind. Raises `UserError` where the experiment fails undisturbed."""
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(plan.draw)
    begun = time.monotonic()
    oracle = undisturbed(subject, folder / "undisturbed")
    seconds = {"undisturbed": time.monotonic() - begun}
    say(f"undisturbed: {len(oracle.losses)} steps in {oracle.training:.1f} s, {seconds['undisturbed']:.1f} s in all")
    kinds: dict[str, Kind] = {}
    if plan.kills:
        kinds["kill"] = lambda: chains("kill", subject, oracle, folder / "kill", islice(kills(oracle, rng), plan.kills))
    outcomes: list[Outcome] = []
    skipped: list[Skipped] = []
    for kind, work in kinds.items():
        begun = time.monotonic()
        for outcome in work():
            if isinstance(outcome, Skipped):
                skipped.append(outcome)
                say(f"{outcome.kind}: skipped: {outcome.reason}")
            else:
                outcomes.append(outcome)
                if outcome.bad:
                    say(f"{outcome.kind}: BAD: {outcome.what}: {outcome.bad}")
        seconds[kind] = time.monotonic() - begun
        done = [outcome for outcome in outcomes if outcome.kind == kind]
        say(f"{kind}: {len(done)} done, bad = {sum(bool(o.bad) for o in done)}, {seconds[kind]:.0f} s")
    report = Report(subject.target, tuple(outcomes), tuple(skipped), seconds)
    report.write(folder)
    return report


def chains(
    kind: str, subject: Subject, oracle: Oracle, folder: pathlib.Path, faults: Iterable[Fault]
) -> Iterator[Outcome]:
    """The faults, dealt to several chains side by side."""
    every = list(faults)

    def deal(index: int) -> list[Outcome]:
        mine = folder / str(index)
        mine.mkdir(parents=True, exist_ok=True)
        return list(chain(kind, subject, oracle, mine, every[index::SIDE_BY_SIDE]))

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for outcomes in pool.map(deal, range(SIDE_BY_SIDE)):
            yield from outcomes
