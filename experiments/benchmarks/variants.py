"""lepjax's step against itself under another setting: layers scanned or unrolled, ways to hold memory.

Purpose   a setting may be one of the process (an environment variable), so each side is a process of its own that keeps its
          compiled step and runs a block of steps whenever it is asked to; the idle one sleeps
Command   python -m experiments.benchmarks.variants [--blocks 10] [--steps 5]
Measured  see README.md
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import subprocess
import sys

from experiments.benchmarks.timing import interleave


@dataclasses.dataclass(frozen=True)
class Variant:
    """A process's settings: `scan` the layers, `keep_freed_memory`, and environment variables of its own."""

    name: str
    scan: bool = False
    keep: bool = False
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def flags(self) -> list[str]:
        return ["--scan"] * self.scan + ["--keep"] * self.keep


DEFAULT = Variant("glibc's default")
HUGE_PAGES = (("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),)
PAIRS = (
    (Variant("huge pages", environment=HUGE_PAGES), DEFAULT),
    (Variant("memory kept", keep=True), DEFAULT),
    (Variant("scanned", scan=True), Variant("unrolled")),
    (Variant("scanned, memory kept", scan=True, keep=True), Variant("unrolled, memory kept", keep=True)),
)


class Worker(contextlib.AbstractContextManager["Worker"]):
    """A process that holds one variant. Calling it runs one block there and returns its seconds per step."""

    def __init__(self, variant: Variant, steps: int) -> None:
        command = [sys.executable, "-m", __spec__.name, "--worker", "--steps", str(steps), *variant.flags]
        environment = {**os.environ, **dict(variant.environment)}
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self()  # compiled and ready: no two processes compile at once, and none compiles while the other is timed

    def __call__(self) -> float:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("block\n")
        return float(self.process.stdout.readline())

    def __exit__(self, *exc: object) -> None:
        self.process.communicate()  # closes its input, which ends it


def work(scan: bool, keep: bool, steps: int) -> None:
    """What a worker does: a block of lepjax's step per line of standard input."""
    from lepjax.run.memory import keep_freed_memory

    if keep:
        keep_freed_memory()  # as `lepjax train` does: before JAX is imported

    from experiments.benchmarks.step_overhead import LOADED, Blocks, experiment, lepjax_step
    from lepjax import experiment as experiments
    from lepjax.data.loader import place

    built = experiments.build(experiment(scan))
    step, shardings = lepjax_step(built)
    host = built.batches(LOADED)
    block = Blocks(step, built.init(), [place(host[i], shardings) for i in range(LOADED)], steps)
    for _ in sys.stdin:
        print(block(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=10, help="blocks of each variant")
    parser.add_argument("--steps", type=int, default=5, help="steps per block")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--scan", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        return work(chosen.scan, chosen.keep, chosen.steps)
    for first, second in PAIRS:
        with Worker(first, chosen.steps) as ours, Worker(second, chosen.steps) as theirs:
            paired = interleave(ours, theirs, chosen.blocks, (ours.process.pid, theirs.process.pid))
        print(paired.line("gpt 4x192 16x128", first.name, second.name, chosen.steps))
        print(f"  {paired.disturbance}", flush=True)
    return None


if __name__ == "__main__":
    main()
