"""Proofs that need fresh processes: a run goes on bit for bit, whoever continues it."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence

from lepjax.core.serialise import to_json
from lepjax.experiment import Experiment
from lepjax.run import files, launching


@dataclasses.dataclass(frozen=True)
class Job:
    """An experiment with a `run_dir`, to be trained or continued; `stop` ends it after that step, as a signal would."""

    experiment: Experiment
    stop: int | None = None


def in_fresh_processes(
    jobs: Sequence[Job],
    processes: int = 1,
    devices: int = 1,
    timeout: float = 600.0,
    environment: Mapping[str, str] = {},
) -> None:
    """Runs the jobs one after another in one fresh process, or in several that train together, with so many simulated
    devices each. The experiment's classes must be importable. Raises an AssertionError with the output of what failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "jobs.json"
        told = [{"experiment": to_json(job.experiment), "stop": job.stop} for job in jobs]
        path.write_text(json.dumps(told), encoding="utf-8")
        command = [sys.executable, "-m", "lepjax.testing.worker", str(path)]
        layout = launching.Job(processes, devices, (), launching.free_port())
        outputs = [pathlib.Path(folder) / f"output{i}.txt" for i in range(processes)]
        running = [
            _start(command, {**layout.environment(i), **environment}, output) for i, output in enumerate(outputs)
        ]
        end = time.monotonic() + timeout
        try:
            while None in (codes := [process.poll() for process in running]) and not any(codes):
                assert time.monotonic() < end, f"not done within {timeout:.0f} s: {_told(outputs)}"
                time.sleep(0.05)
            for index, code in enumerate(codes):
                assert not code, f"process {index} of {processes} ended with {code}: {_told(outputs)}"
        finally:
            for process in running:
                process.kill()
                process.wait()


def _told(outputs: Sequence[pathlib.Path]) -> str:
    return "\n".join(output.read_text(encoding="utf-8", errors="replace")[-4000:] for output in outputs)


def _start(command: Sequence[str], environment: Mapping[str, str], output: pathlib.Path) -> subprocess.Popen[bytes]:
    # What is importable here is importable there.
    found = os.pathsep.join(filter(None, [str(pathlib.Path.cwd()), *sys.path]))
    with open(output, "wb") as file:
        return subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": found, **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def assert_resumes_bitwise(experiment: Experiment, stops: Sequence[int] = (1,), timeout: float = 600.0) -> None:
    """Stopped after each of `stops` steps, a fresh process goes on with the losses of an uninterrupted run, hex for hex,
    and comes to the same result.

    Three processes: one trains without a break, one stops, one goes on. (Bitwise on the same devices, mesh and jax.)
    """
    with tempfile.TemporaryDirectory() as folder:
        logged = dataclasses.replace(experiment, log_every=1)

        def run(name: str) -> Experiment:
            return dataclasses.replace(logged, run_dir=str(pathlib.Path(folder) / name))

        devices = _devices(experiment)
        in_fresh_processes([Job(run("whole"))], devices=devices, timeout=timeout)
        in_fresh_processes([Job(run(f"stop{stop}"), stop) for stop in stops], devices=devices, timeout=timeout)
        in_fresh_processes([Job(run(f"stop{stop}")) for stop in stops], devices=devices, timeout=timeout)
        expected = hex_losses(pathlib.Path(folder) / "whole")
        assert expected, "the run logged no loss"
        for stop in stops:
            found = hex_losses(pathlib.Path(folder) / f"stop{stop}")
            assert found.keys() == expected.keys(), f"stopped at {stop}: logged steps {sorted(found)}"
            different = [step for step in expected if found[step] != expected[step]]
            assert not different, f"stopped at {stop}: the losses differ from step {different[0]} on"
            ours, theirs = (_result(pathlib.Path(folder) / name) for name in (f"stop{stop}", "whole"))
            assert ours == theirs, f"stopped at {stop}: the result is {ours}, without a stop {theirs}"


def _devices(experiment: Experiment) -> int:
    sizes = [part.partition("=")[2] for part in experiment.mesh.split(",")]
    count = 1
    for size in sizes:
        count *= int(size) if size.isdigit() else 1
    return count


def _result(run: pathlib.Path) -> dict[str, object]:
    """Without what may differ: times, and what counts the last process alone."""
    values = files.read_json(run / "result.json")
    differing = ("seconds", "reason", "tokens", "checkpoints")
    return {name: value for name, value in values.items() if name not in differing}


def hex_losses(run: pathlib.Path) -> dict[int, str]:
    """{step: training loss as hex} of a run directory."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {line["step"]: _hex(line["train_loss"]) for line in lines if "train_loss" in line}


def _hex(value: float | None) -> str:
    return "not finite" if value is None else float(value).hex()
