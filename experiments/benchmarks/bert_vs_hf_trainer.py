"""Fine-tuning BERT: lepjax against Hugging Face's Trainer on PyTorch, both on two processors.

Purpose   MiniLM (6 layers x 384) on SST-2, batches of 32, AdamW, float32: (step) training steps of one shape, both programs
          at rest in turn; (job) fresh processes from launch to exit, 3,200 sentences for one epoch and the evaluation, with
          an empty and a filled compile cache, against the Trainer with and without grouping by length; (epoch) the same
          over all 67,349 rows, with an empty cache, against grouping
Needs     an environment for the Trainer: pip install torch==2.13.0 transformers==5.23.0 accelerate==1.15.0; and a folder
          with sst2/{train,train_sentences,validation}.tsv.gz and weights/minilm_l6_fp16
Command   python -m experiments.benchmarks.bert_vs_hf_trainer --part step --peer-python ENVIRONMENT/bin/python [--blocks 10]
          ... --part job [--runs 3]; ... --part epoch [--runs 1]; any with --smoke, to see that everything is in place
Target    seconds of ours / theirs: (job) at most 1.0 cold and 0.75 warm with grouping, 0.55 cold without; (epoch) 0.65
Measured  see README.md
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import tempfile
import time

import numpy as np

from experiments.benchmarks import timing
from experiments.benchmarks.startup import CACHE_ALL, LEPJAX, ROOT
from experiments.benchmarks.step_overhead import LOADED, Blocks, lepjax_step
from experiments.benchmarks.timing import Paired, Peer, collect, interleave, machine, spread
from lepjax import experiment as experiments
from lepjax.core.optimizers import AdamW
from lepjax.core.schedules import Linear
from lepjax.data import datasets
from lepjax.data.batching import Fixed, Packed
from lepjax.data.datasets import Dataset
from lepjax.data.labelled import LabelledText
from lepjax.data.loader import place
from lepjax.data.quarantine import Sieve
from lepjax.experiment import Epochs, Experiment, Steps
from lepjax.models.bert import Bert
from lepjax.models.bert_heads import SequenceClassification
from lepjax.run.memory import keep_freed_memory
from lepjax.tasks.classification import Classification

HERE = "experiments/benchmarks/bert_vs_hf_trainer.py"
PEER = str(ROOT / "experiments/benchmarks/bert_vs_hf_trainer_peer.py")
BATCH, LENGTH, THREADS = 32, 64, 2
OURS = {**CACHE_ALL, "JAX_PLATFORMS": "cpu"}
THEIRS = {
    "OMP_NUM_THREADS": str(THREADS),
    "HF_HUB_OFFLINE": "1",
    # What `keep_freed_memory` asks of glibc for lepjax: it serves PyTorch too.
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(2**28),
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_ARENA_MAX": "1",
}
NAMES = {
    "cold": "lepjax, empty compile cache",
    "warm": "lepjax, filled compile cache",
    "grouped": "Trainer, grouped by length",
    "ungrouped": "Trainer, not grouped",
}
ORDERS = (("cold", "grouped", "warm", "ungrouped"), ("grouped", "cold", "ungrouped", "warm"))  # by turns


@dataclasses.dataclass(frozen=True)
class Sst2(LabelledText):
    """SST-2 with any split to train on."""

    train: str = "train"
    """The training rows, such as train_sentences[:3200]."""

    def parts(self, sieve: Sieve) -> tuple[Dataset, dict[str, Dataset], dict[str, Dataset]]:
        train, dev = datasets.load(self.dataset, split=[self.train, self.dev], data_dir=self.data_dir, sieve=sieve)
        return train, {"dev": dev}, {}


def experiment(
    model: str = "", data_dir: str = "", train: str = "train", length: int = 0, rows: int = BATCH
) -> Experiment:
    """What `bert_vs_hf_trainer_peer.arguments` says, in lepjax.

    length  tokens of every sentence; 0 packs several into rows of 72 (the longest has 66)
    rows    rows of a batch
    """
    data = Sst2(data_dir=data_dir, train=train, tokenizer=model, batch_size=rows, max_length=length or 72)
    return Experiment(
        model=Bert(pretrained=model, head=SequenceClassification(num_labels=2), dropout=0.1),
        task=Classification(labels=("negative", "positive")),
        data=dataclasses.replace(data, batching=Fixed(length) if length else Packed(length=72, slots=16)),
        optimizer=AdamW(learning_rate=6e-5, weight_decay=0.01, clip_norm=1.0, schedule=Linear(warmup=0)),
        length=Epochs(1),
        checkpoint_every=0,  # the last step only, which the Trainer does not save
    )


@dataclasses.dataclass(frozen=True)
class Job:
    """One epoch over a training file, or over its first `rows`; `targets`: (ours, theirs, most of ours / theirs)."""

    train: str
    rows: int
    packed: int
    """Rows of 72 tokens in a batch of ours: as many as hold about the 32 sentences of a batch of theirs."""
    targets: tuple[tuple[str, str, float], ...]

    @property
    def split(self) -> str:
        return f"{self.train}[:{self.rows}]" if self.rows else self.train


JOBS = {
    "job": Job(
        "train_sentences", 3200, 12, (("cold", "grouped", 1.0), ("warm", "grouped", 0.75), ("cold", "ungrouped", 0.55))
    ),
    "epoch": Job("train", 0, 6, (("cold", "grouped", 0.65),)),
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where the data, the encoder and the Trainer's interpreter are."""

    data: pathlib.Path
    model: pathlib.Path
    python: str

    def peer(self, part: str, train: str, rows: int) -> list[str]:
        file = self.data / f"{train}.tsv.gz"
        return [self.python, PEER, part, "--model", str(self.model), "--train", str(file), "--rows", str(rows)]


def compare_steps(where: Setting, blocks: int, steps: int, loaded: int) -> str:
    """The compiled step as `lepjax train` calls it against the Trainer's, both without reading and collating rows."""
    recipe = experiment(str(where.model), str(where.data), f"train_sentences[:{BATCH * loaded}]", LENGTH)
    built = experiments.build(dataclasses.replace(recipe, length=Steps(1_000_000)))
    step, shardings = lepjax_step(built)
    host = built.batches(loaded)
    assert host[0]["tokens"].shape == (BATCH, LENGTH)
    ours = Blocks(step, built.init(), [place(host[i], shardings) for i in range(loaded)], steps)
    command = [*where.peer("steps", "train_sentences", BATCH * loaded), "--length", str(LENGTH)]
    with Peer(command, THEIRS) as theirs:
        paired = interleave(ours, lambda: theirs.ask(steps)["seconds"], blocks, [theirs.process.pid])
    low, high = paired.interval()
    our_rate, their_rate = (BATCH / float(np.median(seconds)) for seconds in (paired.ours, paired.theirs))
    return (
        f"bert step {BATCH}x{LENGTH}   lepjax {our_rate:.1f} ex/s   Trainer {their_rate:.1f} ex/s   "
        f"ratio {paired.ratio:.3f} [{low:.3f}, {high:.3f}]   n={blocks} interleaved blocks of {steps}, "
        f"{machine()}, {theirs.versions}\n  {paired.disturbance}"
    )


@dataclasses.dataclass(frozen=True)
class Run:
    """One process from launch to exit: its wall clock, the seconds of its parts as it tells them, and what it reached."""

    seconds: float
    parts: dict[str, float]
    steps: int
    accuracy: float


def our_run(where: Setting, job: Job, seed: int, cache: pathlib.Path) -> Run:
    """`lepjax train` with this folder as its compile cache."""
    with tempfile.TemporaryDirectory() as folder:
        run = pathlib.Path(folder) / "run"
        options = ["--model", str(where.model), "--data-dir", str(where.data), "--train", job.split]
        options += ["--rows", str(job.packed), "--seed", str(seed), "--run-dir", str(run)]
        seconds, _ = launched([LEPJAX, "train", HERE, *options], {**OURS, "JAX_COMPILATION_CACHE_DIR": str(cache)})
        result = json.loads((run / "result.json").read_text())
    assert result["status"] == "done" and result["skipped"] == 0, result
    return Run(seconds, result["seconds"], result["steps"], result["dev_accuracy"])


def peer_run(where: Setting, job: Job, seed: int, grouped: bool) -> Run:
    options = ["--dev", str(where.data / "validation.tsv.gz"), "--seed", str(seed), *["--grouped"] * grouped]
    seconds, out = launched([*where.peer("job", job.train, job.rows), *options], THEIRS)
    found = json.loads(out)
    return Run(seconds, found["seconds"], found["steps"], found["accuracy"])


def launched(command: list[str], environment: dict[str, str]) -> tuple[float, str]:
    """(seconds from launch to exit, standard output). Raises RuntimeError where the process fails."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with code {done.returncode}: {done.stderr[-2000:]}")
    return seconds, done.stdout


def one_round(where: Setting, job: Job, seed: int) -> dict[str, Run]:
    """One run of each program that the job's targets name."""
    wanted = {name for ours, theirs, _ in job.targets for name in (ours, theirs)}
    runs: dict[str, Run] = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = pathlib.Path(folder)
        for name in (name for name in ORDERS[seed % 2] if name in wanted):
            if name in ("cold", "warm"):
                before = compiled_steps(cache)
                assert any(cache.iterdir()) == bool(before) == (name == "warm"), f"the cache of a {name} run: {before}"
                runs[name] = our_run(where, job, seed, cache)
                assert compiled_steps(cache) and (name == "cold" or compiled_steps(cache) == before), "not a warm cache"
            else:
                runs[name] = peer_run(where, job, seed, name == "grouped")
    steps = [run.steps for run in runs.values()]
    assert max(steps) <= 1.1 * min(steps) + 1, f"batches of unequal size: {steps} steps"
    return runs


def compiled_steps(cache: pathlib.Path) -> set[str]:
    """The training steps in a compile cache, one per batch shape."""
    return {path.name for path in cache.iterdir() if path.name.startswith("jit_step") and path.name.endswith("-cache")}


def compare_jobs(where: Setting, job: Job, runs: int) -> str:
    kept = collect(lambda index: one_round(where, job, index), runs)
    lines = [f"{job.split}, {kept.results[0]['cold'].steps} steps, {machine()}"]
    for name in kept.results[0]:
        lines.append(f"  {NAMES[name]:<30} {told([round_[name] for round_ in kept.results])}")
    for ours, theirs, most in job.targets:
        our_seconds, their_seconds = (np.array([r[name].seconds for r in kept.results]) for name in (ours, theirs))
        share = Paired(their_seconds, our_seconds, kept.disturbance)  # the other way round: less is better
        low, high = share.interval()
        verdict = "met" if share.ratio <= most else "MISSED"
        found = f"{share.ratio:.3f} [{low:.3f}, {high:.3f}]"
        lines.append(f"  {ours} / {theirs}   {found}   target at most {most}: {verdict}")
    return "\n".join([*lines, f"  {kept.disturbance}"])


def told(runs: list[Run]) -> str:
    """Wall clock, accuracy over the seeds, and the medians of the parts; `rest`: what no part accounts for."""
    parts = {name: [run.parts.get(name, 0.0) for run in runs] for name in runs[0].parts}
    parts["rest"] = [run.seconds - sum(run.parts.values()) for run in runs]
    medians = ", ".join(f"{name} {np.median(seconds):.2f}" for name, seconds in parts.items())
    scores = [run.accuracy for run in runs]
    accuracy = f"accuracy {np.mean(scores):.4f} +- {np.std(scores):.4f}"
    return f"{spread([run.seconds for run in runs])}   {accuracy}   {medians}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("step", *JOBS), required=True)
    parser.add_argument("--peer-python", required=True, help="interpreter with torch, transformers and accelerate")
    parser.add_argument("--data", default=os.environ.get("LEPJAX_TEST_DATA"), help="default: $LEPJAX_TEST_DATA")
    parser.add_argument("--model", help="default: <data>/weights/minilm_l6_fp16")
    parser.add_argument("--blocks", type=int, default=10, help="blocks of each program (step)")
    parser.add_argument("--steps", type=int, default=5, help="steps per block (step)")
    parser.add_argument("--runs", type=int, default=3, help="rounds, each with a seed of its own (job, epoch)")
    parser.add_argument("--smoke", action="store_true", help="2 blocks of 2 steps, 1 round of 64 rows: no measurement")
    chosen = parser.parse_args()
    if not chosen.data:
        parser.error("--data or $LEPJAX_TEST_DATA must name the data's folder")
    data = pathlib.Path(chosen.data).resolve()
    model = pathlib.Path(chosen.model).resolve() if chosen.model else data / "weights" / "minilm_l6_fp16"
    where = Setting(data / "sst2", model, chosen.peer_python)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])  # of all threads and processes yet to start
    if chosen.smoke:
        timing.PATIENCE = 0.0  # nothing is measured: any machine is quiet enough
    if chosen.part == "step":
        keep_freed_memory()  # as `lepjax train` does
        blocks, steps, loaded = (2, 2, 2) if chosen.smoke else (chosen.blocks, chosen.steps, LOADED)
        print(compare_steps(where, blocks, steps, loaded))
        return
    few = dataclasses.replace(JOBS[chosen.part], rows=2 * BATCH)
    if not chosen.smoke:
        one_round(where, few, 0)  # after this, programs and data are in the page cache
    print(compare_jobs(where, few if chosen.smoke else JOBS[chosen.part], 1 if chosen.smoke else chosen.runs))


if __name__ == "__main__":
    main()
