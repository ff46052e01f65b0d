"""Nothing compiles after step 0, whatever number is changed."""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile

from rich.console import Console

from lepjax.experiment import Experiment, Steps
from lepjax.run.callbacks import Callback
from lepjax.run.compiles import WatchCompiles
from lepjax.run.fit import Loop
from lepjax.run.train import train


class _Change(Callback):
    """Changes every hyperparameter after a step, and at once changes it back (some must not be arbitrary)."""

    def __init__(self, at: int) -> None:
        self.at = at

    def stepped(self, loop: Loop) -> None:
        if loop.step == self.at:
            for name, value in loop.state.hparams.items():
                loop.set_hparam(name, float(value) * 0.5)
        if loop.step == self.at + 1:
            for name, value in loop.state.hparams.items():
                loop.set_hparam(name, float(value) * 2.0)


def assert_compiles_once(experiment: Experiment, steps: int = 8, callbacks: tuple[Callback, ...] = ()) -> None:
    """A run of `steps` steps that evaluates and saves twice, and in which every hyperparameter changes, compiles nothing
    after its first step. The experiment's own run directory is not touched.
    """
    watch = WatchCompiles(say=lambda line: None)
    with tempfile.TemporaryDirectory() as folder:
        short = dataclasses.replace(
            experiment,
            length=Steps(steps),
            evaluate_every=Steps(max(steps // 2, 1)),
            checkpoint_every=max(steps // 2, 1),
            log_every=1,
            final=(),
            early_stopping=None,
            run_dir=str(pathlib.Path(folder) / "run"),
        )
        # The watcher comes last: it ends when all others have.
        train(short, callbacks=[_Change(at=2), *callbacks, watch], console=Console(quiet=True))
    late = ", ".join(f"{program.name} ({program.seconds:.2f} s)" for program in watch.late)
    assert not watch.late, f"compiled after the first step: {late}"
