"""Language models on one GPU: lepjax's training step against the same model in PyTorch under torch.compile.

Purpose   GPT-2 124M (vocabulary 50,304 as nanoGPT rounds it, 32 x 1024 tokens) and a Llama with the sizes of Llama 3.2 1B
          (tied, plain rotary positions, 4 x 2048), parameters and AdamW in float32, computing in bfloat16. Each side runs
          in fresh processes by turns: tokens/s, share of the matrix-product rate measured here and of the published peak,
          memory, and the kernels that take the time (is attention a fused kernel?). Before that a small copy of each model
          must give both sides the same losses in float32, from the same weights and tokens, on the CPU
Needs     an NVIDIA GPU; for the other side an environment of its own: pip install torch==2.13.0 numpy
Command   python -m experiments.benchmarks.llm_vs_torch_compile --peer-python ENVIRONMENT/bin/python --json result.json
          --smoke: small models on the CPU, which measures nothing; without --peer-python lepjax runs alone
Target    none yet
Measured  never on a GPU so far: only --smoke has been run
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from typing import Any

import numpy as np

from experiments.benchmarks.gpt_vs_torch import louder, torch_weights, write_start
from experiments.benchmarks.startup import CACHE_ALL, ROOT
from experiments.benchmarks.timing import Paired
from lepjax.core.optimizers import AdamW
from lepjax.core.schedules import Constant
from lepjax.data.text import TokenFiles
from lepjax.experiment import Experiment, Steps
from lepjax.models.gpt2 import Gpt2
from lepjax.models.llama import Llama
from lepjax.models.llama_family import LlamaArchitecture
from lepjax.ops.rope import Rope
from lepjax.tasks.language_modeling import LanguageModeling

PEER = str(ROOT / "experiments/benchmarks/llm_vs_torch_compile_peer.py")
LOADED = 4  # batches, seen in turn
LOSSES = 5  # the first losses, which both report
AGREE = 1e-4  # relative difference of the small models' losses
# Dense bfloat16 FLOP/s from NVIDIA's data sheets, by the name that the driver gives.
PEAKS = {
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}
ON_CPU = {"JAX_PLATFORMS": "cpu"}
# JAX takes three quarters of the memory by default; PyTorch takes what it needs.
ON_GPU = {"JAX_PLATFORMS": "cuda", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"}


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and the shape of its batch."""

    model: Gpt2 | Llama
    rows: int
    length: int


def cases(small: bool) -> dict[str, Case]:
    """By name. The small ones are as long as the long ones, so that attention takes the same way."""
    gpt2 = {"layers": 2, "heads": 2, "width": 32} if small else {"layers": 12, "heads": 12, "width": 768}
    llama = {"width": 2048, "mlp_width": 8192, "layers": 16, "heads": 32, "kv_heads": 8}
    if small:
        llama = {"width": 32, "mlp_width": 64, "layers": 2, "heads": 4, "kv_heads": 2}
    arch = LlamaArchitecture(
        vocab_size=256 if small else 128256, **llama, context=2048, rope=Rope(theta=500_000.0), tied=True
    )
    return {
        "gpt2": Case(Gpt2(vocab_size=256 if small else 50304, context=1024, **gpt2), 2 if small else 32, 1024),
        "llama": Case(Llama(architecture=arch), 2 if small else 4, 1024 if small else 2048),
    }


@dataclasses.dataclass(frozen=True)
class Wanted:
    """One process: what it trains and for how long.

    scan, remat      of lepjax's model; remat "" leaves the model's own
    warmup           steps before anything is timed
    blocks, steps    blocks of so many steps are timed; no blocks: losses only
    """

    case: str
    small: bool
    rows: int = 0
    length: int = 0
    precision: str = "bfloat16"
    scan: bool = True
    remat: str = ""
    warmup: int = 5
    blocks: int = 5
    steps: int = 10

    def chosen(self) -> Case:
        """The case with these changes."""
        case = cases(self.small)[self.case]
        changes = {"scan": self.scan, **({"remat": self.remat} if self.remat else {})}
        model = dataclasses.replace(case.model, **changes)
        return Case(model, self.rows or case.rows, self.length or case.length)

    def experiment(self, tokens: str) -> Experiment:
        case = self.chosen()
        return Experiment(
            model=case.model,
            task=LanguageModeling(),
            data=TokenFiles(train=tokens, dev=tokens, batch_size=case.rows, length=case.length),
            optimizer=AdamW(learning_rate=1e-3, beta2=0.95, weight_decay=0.1, clip_norm=1.0, schedule=Constant()),
            length=Steps(1_000_000),
            precision=self.precision,
            mesh="data=1",
        )

    def for_peer(self, device: str, compile: bool) -> dict[str, Any]:
        """The same as the peer's `Wanted`."""
        model = self.chosen().model
        names = ["vocab_size", "context", "layers", "heads", "width", "bias"]
        if isinstance(model, Llama):
            names = ["vocab_size", "width", "mlp_width", "layers", "heads", "kv_heads", "eps"]
        sizes = {name: getattr(model.arch if isinstance(model, Llama) else model, name) for name in names}
        theta = {"theta": model.arch.rope.theta} if isinstance(model, Llama) else {}
        adamw = self.experiment("").optimizer
        rates = ("learning_rate", "beta1", "beta2", "eps", "weight_decay", "clip_norm")
        return {
            "kind": self.case,
            "model": {**sizes, **theta},
            "optimizer": {name: getattr(adamw, name) for name in rates},
            "compile": compile,
            "device": device,
            **{name: getattr(self, name) for name in ("precision", "warmup", "blocks", "steps")},
        }


def write_tokens(wanted: Wanted, file: pathlib.Path) -> None:
    """Random ids, enough for the batches that are seen."""
    case = wanted.chosen()
    count = (LOADED + 2) * case.rows * case.length
    np.save(file, np.random.default_rng(0).integers(case.model.vocab_size, size=count, dtype=np.int32))


def work(wanted: Wanted, folder: pathlib.Path) -> dict[str, Any]:
    """Trains in this process, and writes what the peer begins with: the batches, and the weights of a small model."""
    import jax

    from experiments.benchmarks.step_overhead import Blocks, lepjax_step
    from lepjax import experiment as experiments
    from lepjax.core import cost, parameters
    from lepjax.data.loader import place

    built = experiments.build(wanted.experiment(str(folder / "tokens.npy")))
    host = built.batches(LOADED)
    rows = [host[i] for i in range(LOADED)]
    state, weights = built.init(), {}
    if wanted.small:
        state = dataclasses.replace(state, params=jax.tree.map(louder, built.model.leaves, state.params))
        weights = torch_weights(built, state.params, getattr(built.experiment.model, "heads", 0))
    write_start(folder, {}, rows, weights)
    begun = time.perf_counter()
    step, shardings = lepjax_step(built)
    compiled = time.perf_counter() - begun
    block = Blocks(step, state, [place(r, shardings) for r in rows], wanted.steps)
    losses = block.losses(LOSSES)
    block.losses(wanted.warmup)
    seconds = [block() for _ in range(wanted.blocks)]
    device = jax.devices()[0]
    return {
        "versions": {name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")},
        "device": device.device_kind,
        "platform": device.client.platform_version,
        "parameters": parameters.count(built.model.leaves),
        "flops_per_token": built.experiment.model.flops_per_token(wanted.chosen().length),
        "losses": losses,
        "compile_seconds": compiled,
        "seconds": seconds,
        "peak_bytes": (device.memory_stats() or {}).get("peak_bytes_in_use"),
        "custom_calls": dict(collections.Counter(re.findall(r'custom_call_target="([^"]+)"', step.as_text()))),
        "kernels_ms": top_kernels(block) if wanted.blocks else {},
        "matmul_rate": cost.matmul_rate(built.policy.compute),
    }


def top_kernels(block: Any, count: int = 15) -> dict[str, float]:
    """{name: milliseconds per step} of what a block spends most time in: on the GPU's streams, else in XLA's threads."""
    import jax
    from jax.profiler import ProfileData

    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            block()
        (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
        planes = list(ProfileData.from_file(str(file)).planes)
        lines = [(plane.name, line) for plane in planes for line in plane.lines]
        chosen = [line for name, line in lines if "GPU" in name and line.name.startswith("Stream")]
        spent: collections.Counter[str] = collections.Counter()
        for line in chosen or [line for _, line in lines if "XLA" in line.name]:
            for event in line.events:
                spent[event.name] += event.duration_ns / 1e6 / block.steps
    return dict(spent.most_common(count))


def launched(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """The last line that a process says, as JSON. Raises RuntimeError with its last words where it fails."""
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} ended with code {done.returncode}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def our_run(wanted: Wanted, folder: pathlib.Path, environment: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-m", __spec__.name, "--worker", json.dumps(dataclasses.asdict(wanted)), str(folder)]
    cache = {**CACHE_ALL, "JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    return launched(command, {**cache, **environment})


def peer_run(wanted: Wanted, folder: pathlib.Path, python: str, device: str, compile: bool) -> dict[str, Any]:
    """After `our_run` in the same folder, which writes the batches."""
    (folder / "wanted.json").write_text(json.dumps(wanted.for_peer(device, compile)))
    environment = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
    return launched([python, PEER, str(folder / "start.npz"), str(folder / "wanted.json")], environment)


def agree(case: str, python: str) -> list[float]:
    """The first losses of the small model. Raises AssertionError where PyTorch's are others."""
    wanted = Wanted(case, small=True, precision="float32", warmup=0, blocks=0)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_tokens(wanted, folder / "tokens.npy")
        ours = our_run(wanted, folder, ON_CPU)
        theirs = peer_run(wanted, folder, python, "cpu", compile=False)
    assert ours["parameters"] == theirs["parameters"], (ours["parameters"], theirs["parameters"])
    np.testing.assert_allclose(ours["losses"], theirs["losses"], rtol=AGREE)
    return ours["losses"]


def measure(wanted: Wanted, python: str, rounds: int, on_gpu: bool) -> dict[str, list[dict[str, Any]]]:
    """Fresh processes of both by turns; the first round compiles, the others find their programs in a cache."""
    found: dict[str, list[dict[str, Any]]] = {"lepjax": [], "torch": []}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_tokens(wanted, folder / "tokens.npy")

        def ours() -> None:
            found["lepjax"].append(our_run(wanted, folder, ON_GPU if on_gpu else ON_CPU))

        def theirs() -> None:
            if python:
                found["torch"].append(peer_run(wanted, folder, python, "cuda" if on_gpu else "cpu", compile=True))

        for index in range(rounds):
            for run in (theirs, ours) if index % 2 else (ours, theirs):
                run()
    return found


def summary(wanted: Wanted, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Tokens/s and utilisation of both: medians over rounds of each round's median block."""
    case, first = wanted.chosen(), found["lepjax"][0]
    tokens, rate, peak = case.rows * case.length, first["matmul_rate"], PEAKS.get(first["device"])
    told: dict[str, Any] = {"tokens_per_step": tokens, "matmul_rate": rate, "peak": peak}
    seconds = {name: np.array([np.median(run["seconds"]) for run in runs]) for name, runs in found.items() if runs}
    for name, each in seconds.items():
        speed = tokens / float(np.median(each))
        flops = first["flops_per_token"] * speed
        told[name] = {
            "tokens_per_second": speed,
            "per_round": (tokens / each).tolist(),
            "mfu_of_measured": flops / rate,
            "mfu_of_peak": flops / peak if peak else None,
        }
    if "torch" in seconds:
        paired = Paired(seconds["lepjax"], seconds["torch"], "")
        told["ratio"], told["interval"] = paired.ratio, paired.interval()
    return told


def told(name: str, found: dict[str, Any]) -> str:
    """Lines for a person."""
    lines = []
    for side in ("lepjax", "torch"):
        if side in found:
            of_peak = found[side]["mfu_of_peak"]
            share = f", {of_peak:.1%} of the peak" if of_peak else ""
            lines.append(
                f"{name:<6} {side:<7} {found[side]['tokens_per_second']:,.0f} tokens/s, "
                f"{found[side]['mfu_of_measured']:.1%} of {found['matmul_rate'] / 1e12:.1f} TFLOP/s measured{share}"
            )
    if "ratio" in found:
        low, high = found["interval"]
        rounds = len(found["lepjax"]["per_round"])
        lines.append(f"{name:<6} ratio   {found['ratio']:.3f} [{low:.3f}, {high:.3f}], n={rounds} processes each")
    return "\n".join(lines)


def gpus() -> str:
    """What the driver says of itself and its devices; empty without one."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,power.limit,clocks.max.sm", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peer-python", default="", help="interpreter with torch and numpy; without it lepjax runs alone"
    )
    parser.add_argument("--cases", nargs="+", choices=("gpt2", "llama"), default=("gpt2", "llama"))
    parser.add_argument("--rows", type=int, default=0, help="rows of a batch; 0: the case's own")
    parser.add_argument("--length", type=int, default=0, help="tokens of a row; 0: the case's own")
    parser.add_argument("--unrolled", action="store_true", help="lepjax's layers unrolled instead of scanned")
    parser.add_argument("--remat", default="", help="lepjax's policy of recomputation; empty: the model's own")
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes of each side")
    parser.add_argument("--blocks", type=int, default=5, help="timed blocks in each process")
    parser.add_argument("--steps", type=int, default=10, help="steps per block")
    parser.add_argument("--json", type=pathlib.Path, help="where to write everything that was found")
    parser.add_argument("--smoke", action="store_true", help="small models on the CPU, 1 round of 2 blocks of 1 step")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        wanted = Wanted(**json.loads(chosen.worker[0]))
        print(json.dumps(work(wanted, pathlib.Path(chosen.worker[1]))))
        return
    smoke = {"rounds": 1, "blocks": 2, "steps": 1} if chosen.smoke else {}
    arguments = {**vars(chosen), **smoke, "json": str(chosen.json or "")}
    record: dict[str, Any] = {
        "arguments": arguments,
        "python": platform.python_version(),
        "gpus": gpus(),
        "environment": {name: value for name, value in os.environ.items() if re.match("XLA|JAX|NCCL|CUDA|TORCH", name)},
        "cases": {},
    }
    for case in chosen.cases:
        losses = agree(case, chosen.peer_python) if chosen.peer_python else []
        names = ("rows", "length", "remat", "blocks", "steps")
        options = {name: arguments[name] for name in names}
        wanted = Wanted(case, small=chosen.smoke, scan=not chosen.unrolled, **options)
        found = measure(wanted, chosen.peer_python, arguments["rounds"], on_gpu=not chosen.smoke)
        result = summary(wanted, found)
        record["cases"][case] = {"summary": result, "runs": found, "agreed_losses": losses}
        print(told(case, result), flush=True)
        if chosen.json:  # after every case: a later one may fail
            chosen.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
