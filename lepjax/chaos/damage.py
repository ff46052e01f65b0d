"""Damaged files: single flipped bits, cut ends, missing files. The worst answer is a wrong loss without a word."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import random
import re
import shutil
import time
from collections.abc import Iterator, Sequence

from lepjax.chaos.oracle import Oracle
from lepjax.chaos.report import Outcome
from lepjax.chaos.resumed import Resumed, go_on
from lepjax.chaos.trial import Subject, committed, lines
from lepjax.core.errors import DONE, UserError
from lepjax.experiment import Experiment

LOGS = re.compile(r"\.lock|metrics\.jsonl|heartbeat-.*|report\.html")  # nothing reads them back
LEFT = 1  # saves that a damaged run has yet to make


@dataclasses.dataclass(frozen=True)
class Damage:
    """What happens to one file of a run directory."""

    kind: str
    file: str
    """Its path in the run directory."""
    at: int = 0
    """The bit that is flipped, or the length in bytes that is left."""

    def apply(self, run: pathlib.Path) -> None:
        path = run / self.file
        data = bytearray(path.read_bytes())
        path.unlink()  # it is shared with the other copies
        if self.kind == "flip":
            data[self.at // 8] ^= 1 << self.at % 8
        if self.kind != "deletion":
            path.write_bytes(data[: self.at] if self.kind == "truncation" else data)


@dataclasses.dataclass(frozen=True)
class Interrupted:
    """A run directory with two committed steps, stopped by kill -9 shortly before its end."""

    run: pathlib.Path
    older: int
    newer: int


def interrupted(subject: Subject, oracle: Oracle, run: pathlib.Path) -> Interrupted:
    """Raises `UserError` where the experiment saves too seldom."""

    def late() -> bool:
        steps = committed(run)
        return len(steps) > 1 and steps[-1] + (LEFT + 1) * (steps[-1] - steps[-2]) > max(oracle.losses)

    trial = subject.start(run)
    saw = trial.until(late)
    trial.kill()
    steps = committed(run)
    if not saw or steps[-1] == max(oracle.losses):
        raise UserError("the run saves too seldom to be damaged", where=subject.target, fix="Pass --checkpoint-every.")
    return Interrupted(run, *steps[-2:])


def damages(base: Interrupted, flips: int, truncations: int, deletions: int, rng: random.Random) -> Iterator[Damage]:
    """So many flips and truncations, in files drawn evenly, and deletions of so many files, or of each."""
    steps = (base.run / "checkpoints" / str(step) for step in (base.newer, base.older))
    files = [path for place in (base.run.iterdir(), *(step.rglob("*") for step in steps)) for path in place]
    sizes = {str(path.relative_to(base.run)): path.stat().st_size for path in sorted(files) if path.is_file()}
    sizes = {name: size for name, size in sizes.items() if not LOGS.fullmatch(name) and size}
    names = list(sizes)
    for _ in range(flips):
        name = rng.choice(names)
        yield Damage("flip", name, rng.randrange(8 * sizes[name]))
    for _ in range(truncations):
        name = rng.choice(names)
        yield Damage("truncation", name, rng.randrange(sizes[name]))
    for name in rng.sample(names, min(deletions, len(names))):
        yield Damage("deletion", name)


def suffered(
    experiment: Experiment,
    subject: Subject,
    oracle: Oracle,
    base: Interrupted,
    folder: pathlib.Path,
    hurt: Sequence[Damage],
) -> list[Outcome]:
    """Each damage on a copy of its own; one fresh process goes on with them all. Copies that were bad are left."""
    folder.mkdir(parents=True)
    runs = [folder / f"{number}-{damage.kind}" for number, damage in enumerate(hurt)]
    for run, damage in zip(runs, hurt, strict=True):
        shutil.copytree(base.run, run, copy_function=_linked)
        damage.apply(run)
    begun = time.time()
    going = [dataclasses.replace(experiment, run_dir=str(run), log_every=1) for run in runs]
    outcomes = []
    for run, damage, resumed in zip(runs, hurt, go_on(going, folder, subject.environment), strict=True):
        bad, came = _judged(run, base, oracle, resumed, begun)
        if not bad:
            shutil.rmtree(run)
        outcomes.append(Outcome(damage.kind, _named(damage.file, base), bad, came, time.time() - begun))
    return outcomes


def _linked(source: str, target: str) -> None:
    """Checkpoints are never written to again: links save the disk. What a run appends to is copied."""
    if "checkpoints" in pathlib.Path(source).parts:
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def _judged(run: pathlib.Path, base: Interrupted, oracle: Oracle, resumed: Resumed, begun: float) -> tuple[str, str]:
    """(what is bad, what came of it)."""
    found = [line for line in lines(run) if line.time >= begun]
    if problem := oracle.differs(found):
        return f"{problem}, and nothing said so", ""
    if resumed.code != DONE:
        return resumed.unclear, "refused"
    if not found:
        return "said it was done, and had made no step", ""
    began = found[0].step - 1
    if began < base.older:
        return f"began at step {began}, though {base.older} is whole", ""
    came = "went on from the newer step" if began == base.newer else "went on from the older step"
    return oracle.incomplete(found, after=began), came


def _named(file: str, base: Interrupted) -> str:
    """The kind of a file: digests in names are left out."""
    name = re.sub(rf"^checkpoints/{base.newer}/", "newer step: ", file)
    name = re.sub(rf"^checkpoints/{base.older}/", "older step: ", name)
    return re.sub("[0-9a-f]{16,}", "*", name)
