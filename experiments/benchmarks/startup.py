"""How long one waits before anything happens: for the help text, for the import, for the first training step.

Purpose   (a) `lepjax --help`, which must not import jax; (b) what importing lepjax adds to importing jax and flax; (c) from
          launching the quickstart to its first finished step, with an empty and with a filled compile cache
Command   python -m experiments.benchmarks.startup [--runs 5]
Target    (a) at most 0.5 s; (b) at most 0.3 s
Measured  see README.md
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np

from experiments.benchmarks.timing import collect, machine, spread

LEPJAX = str(pathlib.Path(sys.executable).with_name("lepjax"))
ROOT = pathlib.Path(__file__).resolve().parents[2]
QUICKSTART = "experiments/quickstart.py"
# What lepjax itself asks of JAX's cache where the environment says nothing: every program that took 0.2 s to compile.
CACHE_ALL = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
PATIENCE = 600.0  # seconds for one run to reach its first step


def help_seconds() -> float:
    """Seconds of `lepjax --help`, from launch to exit."""
    start = time.perf_counter()
    subprocess.run([LEPJAX, "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def assert_help_without_jax() -> None:
    """Raises CalledProcessError where the help text has imported jax."""
    code = "import sys; from lepjax.cli import main; main.run(['--help']); sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def import_seconds(*modules: str) -> list[float]:
    """Seconds that each of `modules` adds, imported in this order by one fresh process."""
    code = (
        "import importlib, sys, time\n"
        "for name in sys.argv[1:]:\n"
        "    start = time.perf_counter(); importlib.import_module(name); print(time.perf_counter() - start)"
    )
    out = subprocess.run([sys.executable, "-c", code, *modules], check=True, capture_output=True, text=True)
    return [float(line) for line in out.stdout.split()]


def first_step_seconds(cache: pathlib.Path, script: str = QUICKSTART) -> float:
    """Seconds from launching an experiment to its first step: the time in the first line of metrics.jsonl.

    That line is written when the step's values have reached the host and before anything is evaluated; then the process
    is killed, since held-out data is of no interest here.
    """
    environment = {**os.environ, **CACHE_ALL, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    with tempfile.TemporaryDirectory() as folder:
        metrics = pathlib.Path(folder) / "run" / "metrics.jsonl"
        options = ["--steps", "1", "--log-every", "1", "--run-dir", str(metrics.parent)]
        command = [LEPJAX, "train", str(ROOT / script), *options]
        launched = time.time()
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        try:
            line = _first_line(metrics, process)
        finally:
            process.kill()
            process.wait()
    assert line["step"] == 1 and "train_loss" in line, line
    return line["time"] - launched


def _first_line(file: pathlib.Path, process: subprocess.Popen[bytes]) -> dict[str, float]:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        text = file.read_text() if file.exists() else ""
        if "\n" in text:
            return json.loads(text.splitlines()[0])
        if process.poll() is not None:
            raise RuntimeError(f"the run ended with code {process.returncode} before its first step was logged")
        time.sleep(0.02)
    raise TimeoutError(f"no step in {PATIENCE:.0f} s")


def cold_and_warm(script: str = QUICKSTART) -> tuple[float, float]:
    """Seconds to the first step with an empty compile cache, then with the one that this left behind."""
    with tempfile.TemporaryDirectory() as folder:
        cache = pathlib.Path(folder)
        assert not any(cache.iterdir()), "the cache of a cold start must be empty"
        cold = first_step_seconds(cache, script)
        filled = sorted(cache.iterdir())
        assert any(path.name.startswith("jit_step") for path in filled), "the cold start must leave the step behind"
        warm = first_step_seconds(cache, script)
        programs = [path for path in cache.iterdir() if path.name.endswith("-cache")]
        assert set(programs) <= set(filled), "a warm start must compile nothing that the cold one has not"
    return cold, warm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="processes per measurement")
    runs = parser.parse_args().runs

    assert_help_without_jax()
    kept = collect(lambda _: help_seconds(), runs)
    seconds = kept.results
    print(f"lepjax --help   {spread(seconds)}   {target(seconds, 0.5)}   does not import jax")
    print(f"  {kept.disturbance}")

    # `import lepjax` reads the version and nothing else; what training imports is told apart.
    kept = collect(lambda _: import_seconds("jax", "flax", "lepjax", "lepjax.cli.train"), runs)
    jax_, flax, lepjax, training = np.array(kept.results).T
    print(f"import jax, flax   {spread(jax_ + flax)}")
    print(f"import lepjax adds   {spread(lepjax)}   {target(lepjax, 0.3)}")
    print(f"what training imports adds   {spread(training)}")
    print(f"  {kept.disturbance}", flush=True)

    kept = collect(lambda _: cold_and_warm(), runs)
    cold, warm = zip(*kept.results, strict=True)
    print(f"quickstart, launch to first step, empty compile cache    {spread(cold)}   {machine()}")
    print(f"quickstart, launch to first step, filled compile cache   {spread(warm)}   {machine()}")
    print(f"  {kept.disturbance}")


def target(seconds: Sequence[float], most: float) -> str:
    return f"target at most {most} s: {'met' if np.median(seconds) <= most else 'MISSED'}"


if __name__ == "__main__":
    main()
