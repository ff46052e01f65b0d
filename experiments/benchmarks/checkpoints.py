"""What a checkpoint costs: how long the loop stands still, and what the digests add.

Purpose   a GPT whose state has 50 MB: (a) seconds that the loop stands still per save, as a share of an interval of 30 s,
          and what saving every 100 steps adds to a run's time, writing beside it included; (b) the time from a save to its
          commit, with the digests of files and leaves against without
Command   python -m experiments.benchmarks.checkpoints [--saves 12]
Target    (a) at most 5 % of the interval, (b) at most 5 % more time
Measured  see README.md
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import tempfile
import time
from collections.abc import Iterator
from unittest import mock

import jax
import numpy as np

from experiments.benchmarks.timing import Paired, interleave, machine, spread
from lepjax.core import digest
from lepjax.core.optimizers import AdamW
from lepjax.data.loader import place
from lepjax.data.stdlib import StandardLibrary
from lepjax.experiment import Experiment, Steps
from lepjax.models.gpt2 import Gpt2
from lepjax.run import files
from lepjax.run.checkpoint import Checkpoints
from lepjax.tasks.language_modeling import LanguageModeling
from lepjax.testing import Stepper, stepper

INTERVAL = 30.0  # seconds
EVERY = 100  # steps
META = {"plan": "", "memory": {}, "results": {}}


def experiment() -> Experiment:
    """12 bytes of state for each of 4.2 million parameters, and short steps."""
    return Experiment(
        model=Gpt2(vocab_size=256, context=128, layers=3, heads=6, width=336),
        task=LanguageModeling(bytes=True),
        data=StandardLibrary(batch_size=1, length=128),
        optimizer=AdamW(learning_rate=1e-3),
        length=Steps(1_000_000),
        mesh="data=1",
    )


@contextlib.contextmanager
def without_digests() -> Iterator[None]:
    """Everything else stays: the files are opened and made durable, the manifest is written."""
    words = np.zeros(3, np.uint32)
    with (
        mock.patch.object(files, "digest", lambda path: ""),
        mock.patch.object(digest, "digests", lambda flat: dict.fromkeys(flat, words)),
    ):
        yield


class Saving:
    """Saves the state of a stepper again and again, as other steps."""

    def __init__(self, run: Stepper, folder: pathlib.Path) -> None:
        self.run, self.checkpoints, self.step = run, Checkpoints(folder), 0
        self.checkpoints.warm(run.state)

    def to_commit(self) -> float:
        """Seconds from asking to the commit; nothing else computes."""
        self.step += 1
        begun = time.perf_counter()
        self.checkpoints.save(self.step, self.run.state, META)
        self.checkpoints.wait()
        return time.perf_counter() - begun

    def to_commit_without_digests(self) -> float:
        with without_digests():
            return self.to_commit()

    def blocked(self) -> float:
        """Seconds for which the loop stands still."""
        before = self.checkpoints.costs.blocked
        self.to_commit()
        return self.checkpoints.costs.blocked - before

    def steps_with_a_save(self) -> float:
        """Seconds per step of `EVERY` steps, a save at the first of them being written beside the others."""
        self.step += 1
        begun = time.perf_counter()
        self.checkpoints.save(self.step, self.run.state, META)
        self._steps()
        self.checkpoints.wait()
        return (time.perf_counter() - begun) / EVERY

    def steps_alone(self) -> float:
        begun = time.perf_counter()
        self._steps()
        return (time.perf_counter() - begun) / EVERY

    def _steps(self) -> None:
        rows = self.run.built.batches(1)[0]
        placement = self.run.built.placement
        batch = place(rows, {name: placement.batch(array, name) for name, array in rows.items()})
        for _ in range(EVERY):
            self.run.state, _ = self.run.compiled(self.run.state, batch)
        jax.block_until_ready(self.run.state)


def more(paired: Paired) -> str:
    """By how much ours takes longer, in percent, with its interval."""
    low, high = paired.interval()
    return f"{100 * (1 / paired.ratio - 1):+.1f} % [{100 * (1 / high - 1):+.1f}, {100 * (1 / low - 1):+.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saves", type=int, default=12)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        saving = Saving(stepper(experiment()), pathlib.Path(folder))
        blocked = [saving.blocked() for _ in range(chosen.saves)]
        share = float(np.median(blocked)) / INTERVAL
        print(f"(a) blocked {spread(blocked)}: {share:.2%} of {INTERVAL:.0f} s; {saving.checkpoints.costs.bytes / 1e6:.0f} MB, {machine()}")
        run = interleave(saving.steps_with_a_save, saving.steps_alone, chosen.saves)
        print(f"    a save every {EVERY} steps of {1e3 * np.median(run.theirs):.0f} ms: {more(run)}; {run.disturbance}")
        commit = interleave(saving.to_commit, saving.to_commit_without_digests, chosen.saves)
        print(
            f"(b) to the commit {spread(list(commit.ours))}, without digests {spread(list(commit.theirs))}: "
            f"{more(commit)}; {commit.disturbance}"
        )
        saving.checkpoints.close()


if __name__ == "__main__":
    main()
