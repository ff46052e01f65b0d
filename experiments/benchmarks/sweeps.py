"""Trials per minute: many trials in one program, against the ways that people have without it.

Purpose   the MLP of experiments/digits_mlp.py for 200 steps and its evaluation, learning rate and weight decay swept:
          (a) 16 trials in one program against one after another with one compile; (b) against one after another with a
          compile each (no compile cache); (c) against Optuna driving a plain PyTorch loop of the same network in a process
          of its own, its AdamW as it comes and fused; (k) trials per minute for 1 to 64 side by side
Command   python -m experiments.benchmarks.sweeps [--parts abck] [--blocks 10] [--devices 1] [--peer-python PYTHON]
          --devices 2: the trials of a program are spread over two CPU devices, which share the cores
          PYTHON: an environment with torch, optuna and numpy; without it (c) is left out
Target    1.0 (a), 3 (b) and 2 (c) times the trials per minute, as the lower end of a 95 % interval
Measured  see README.md
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import pathlib
import tempfile
from collections.abc import Callable

import jax
import numpy as np

from experiments.benchmarks.timing import Peer, collect, interleave, machine, timed
from experiments.digits_mlp import experiment as digits_mlp
from lepjax.experiment import Experiment, Steps
from lepjax.run.memory import keep_freed_memory
from lepjax.tune import loguniform
from lepjax.tune.assign import assigned, resolve
from lepjax.tune.cohort import Entry, train
from lepjax.tune.groups import Groups
from lepjax.tune.objective import objective
from lepjax.tune.samplers.random import Random

TRIALS, STEPS = 16, 200
SPACE = {"learning_rate": loguniform(1e-4, 1e-1), "weight_decay": loguniform(1e-4, 1.0)}
PEER = pathlib.Path(__file__).with_name("sweeps_peer.py")


def experiment() -> Experiment:
    made = digits_mlp()
    return dataclasses.replace(
        made, length=Steps(STEPS), mesh="data=1", best="", model=dataclasses.replace(made.model, dropout=None)
    )


def trials(count: int) -> list[Experiment]:
    base, found = experiment(), resolve(experiment(), SPACE)
    return [assigned(base, Random().suggest(SPACE, (), i, 0), found) for i in range(count)]


class Side:
    """`together` trials at a time, compiled before they are timed."""

    def __init__(self, together: int) -> None:
        self.goal = objective(experiment(), ("dev",))
        self.groups = Groups(self.goal, together, None, jax.devices()[: None if together > 1 else 1], {})
        self.together = together

    def run(self, many: list[Experiment]) -> list[float]:
        scores = []
        for start in range(0, len(many), self.together):
            some = many[start : start + self.together]
            key = self.groups.key(some[0])
            entries = [Entry((self.groups.job(one),), ()) for one in some]
            ended = train(entries, lambda count, key=key: self.groups.program(key, True, count), self.goal)  # type: ignore[misc]
            scores += [end.score for end in ended]
        return scores


def block(side: Side, count: int = TRIALS) -> Callable[[], float]:
    """Seconds per trial."""
    many = trials(count)
    return lambda: timed(lambda: side.run(many) and None, count)


def compiled_each() -> float:
    """Seconds per trial where the program is made anew for each: two of them, without the persistent cache."""
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        return timed(lambda: [Side(1).run([one]) for one in trials(2)] and None, 2)
    finally:
        jax.config.update("jax_enable_compilation_cache", True)


def told(name: str, seconds: np.ndarray) -> str:
    return f"{name} {60 / np.median(seconds):,.0f} trials/min"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default="abck")
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--peer-python", default="")
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", arguments.devices)
    keep_freed_memory()
    stacked = block(Side(TRIALS))

    def compare(name: str, theirs: Callable[[], float], target: float, blocks: int, pids: tuple[int, ...] = ()) -> None:
        paired = interleave(stacked, theirs, blocks, pids)
        low, high = paired.interval()
        print(
            f"{told(f'{TRIALS} in one program', paired.ours)}   {told(name, paired.theirs)}   "
            f"ratio {paired.ratio:.2f} [{low:.2f}, {high:.2f}]   n={blocks}, {machine()}"
        )
        print(paired.verdict(target), flush=True)

    if "a" in arguments.parts:
        compare("(a) one compile, one after another", block(Side(1)), 1.0, arguments.blocks)
    if "b" in arguments.parts:
        compare("(b) a compile each", compiled_each, 3.0, max(arguments.blocks // 2, 3))
    if "c" in arguments.parts and arguments.peer_python:
        with tempfile.TemporaryDirectory() as folder:
            data = pathlib.Path(folder) / "digits.npz"
            splits = experiment().data.load()
            ids = np.arange(len(splits.train))
            train_rows = splits.train.rows(ids, np.zeros_like(ids))
            dev = splits.evaluation["dev"]
            ids = np.arange(len(dev))
            dev_rows = dev.rows(ids, np.zeros_like(ids))
            np.savez(
                data,
                x=train_rows["features"],
                y=train_rows["label"],
                dev_x=dev_rows["features"],
                dev_y=dev_rows["label"],
            )
            # How many threads are better depends on the machine.
            for kind, threads in itertools.product(("plain", "fused"), ("1", "2")):
                command = [arguments.peer_python, str(PEER), str(data), str(STEPS), threads, kind]
                with Peer(command, {"OMP_NUM_THREADS": threads}) as peer:
                    seconds = lambda: float(peer.ask(TRIALS)["seconds"])  # noqa: B023, E731
                    name = f"(c) Optuna and PyTorch ({peer.versions}), AdamW {kind}, threads: {threads}"
                    compare(name, seconds, 2.0, arguments.blocks, (peer.process.pid,))
    for side_by_side in (1, 2, 4, 8, 16, 32, 64) if "k" in arguments.parts else ():
        run = block(Side(side_by_side), 64)
        run()
        kept = collect(lambda _: run(), 3)  # noqa: B023
        print(
            f"{told(f'{side_by_side:>3} side by side', np.array(kept.results))}   n=3, {kept.disturbance}", flush=True
        )


if __name__ == "__main__":
    main()
