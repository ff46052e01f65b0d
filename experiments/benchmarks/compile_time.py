"""How long a training step compiles, by the number of layers: scanned they are compiled once, unrolled one by one.

Purpose   GPT-2's step with AdamW, 12 and 48 layers of width 128 (4 heads, vocabulary 256, 16 x 128 tokens), compiled as
          `lepjax train` does: tracing and lowering, then XLA, each in a fresh process and without a persistent cache; and
          from launch to the first step of 12 scanned layers, with an empty and with a filled compile cache
Command   python -m experiments.benchmarks.compile_time [--runs 5]
Target    48 scanned layers compile in at most 1.3 times as long as 12
Measured  see README.md
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time

import numpy as np

from experiments.benchmarks import step_overhead
from experiments.benchmarks.startup import ROOT, cold_and_warm
from experiments.benchmarks.timing import Paired, collect, machine, spread
from lepjax.experiment import Experiment
from lepjax.models.gpt2 import Gpt2

HERE = "experiments/benchmarks/compile_time.py"
FEW, MANY = 12, 48
MOST = 1.3
CACHES = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")


@dataclasses.dataclass(frozen=True)
class Case:
    layers: int
    scan: bool

    @property
    def name(self) -> str:
        return f"{self.layers} layers, {'scanned' if self.scan else 'unrolled'}"


@dataclasses.dataclass(frozen=True)
class Seconds:
    """`lower`: tracing and lowering; `compile`: XLA."""

    lower: float
    compile: float

    @property
    def whole(self) -> float:
        return self.lower + self.compile


CASES = tuple(Case(layers, scan) for scan in (True, False) for layers in (FEW, MANY))


def experiment(layers: int = FEW, scan: bool = True) -> Experiment:
    """The experiment of `step_overhead` with another model."""
    model = Gpt2(vocab_size=256, context=128, layers=layers, heads=4, width=128, scan=scan)
    return dataclasses.replace(step_overhead.experiment(), model=model)


def work(case: Case) -> Seconds:
    """Compiles one step in this process."""
    import jax

    from lepjax import experiment as experiments

    xla = 0.0

    def heard(event: str, seconds: float, **_: object) -> None:
        nonlocal xla
        xla += seconds * (event == "/jax/core/compile/backend_compile_duration")

    built = experiments.build(experiment(case.layers, case.scan))
    jax.jit(lambda x: x + 1)(0)  # starts the backend, which is not what is measured
    jax.monitoring.register_event_duration_secs_listener(heard)
    begun = time.perf_counter()
    step_overhead.lepjax_step(built)
    return Seconds(time.perf_counter() - begun - xla, xla)


def fresh(case: Case) -> Seconds:
    """The same in a process of its own, without a persistent compile cache."""
    command = [sys.executable, "-m", __spec__.name, "--layers", str(case.layers), *["--unrolled"] * (not case.scan)]
    environment = {name: value for name, value in os.environ.items() if name not in CACHES}
    done = subprocess.run(
        command, cwd=ROOT, env={**environment, CACHES[1]: "false"}, check=True, stdout=subprocess.PIPE, text=True
    )
    return Seconds(**json.loads(done.stdout.splitlines()[-1]))


def one_round(index: int) -> dict[Case, Seconds]:
    """All cases, by turns in both orders."""
    return {case: fresh(case) for case in (CASES if index % 2 else reversed(CASES))}


def longer(rounds: list[dict[Case, Seconds]], scan: bool, disturbance: str) -> Paired:
    """`ratio`: how many times as long many layers take as few."""
    few, many = (np.array([r[Case(layers, scan)].whole for r in rounds]) for layers in (FEW, MANY))
    return Paired(few, many, disturbance)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="processes per measurement")
    parser.add_argument("--layers", type=int, default=0, help=argparse.SUPPRESS)  # compile this and answer
    parser.add_argument("--unrolled", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.layers:
        print(json.dumps(dataclasses.asdict(work(Case(chosen.layers, not chosen.unrolled)))))
        return
    kept = collect(one_round, chosen.runs)
    for case in CASES:
        found = [r[case] for r in kept.results]
        parts = ", ".join(f"{part} {spread([getattr(s, part) for s in found])}" for part in ("lower", "compile"))
        print(f"{case.name:<22} {spread([s.whole for s in found])}   {parts}")
    for scan in (True, False):
        paired = longer(kept.results, scan, kept.disturbance)
        low, high = paired.interval()
        verdict = f"   target at most {MOST}: {'met' if paired.ratio <= MOST else 'MISSED'}" if scan else ""
        what = "scanned" if scan else "unrolled"
        print(f"{MANY} / {FEW} layers, {what:<8}   {paired.ratio:.3f} [{low:.3f}, {high:.3f}]{verdict}")
    print(f"  {machine()}, {kept.disturbance}", flush=True)

    kept = collect(lambda _: cold_and_warm(HERE), chosen.runs)
    cold, warm = zip(*kept.results, strict=True)
    print(f"{CASES[0].name}, launch to first step, empty compile cache    {spread(cold)}")
    print(f"{CASES[0].name}, launch to first step, filled compile cache   {spread(warm)}")
    print(f"  {kept.disturbance}")


if __name__ == "__main__":
    main()
