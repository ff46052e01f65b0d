"""What searches find with equal work: samplers against chance, early stopping, and schedules that evolve.

Purpose   on digits (MLP) or 1,000 rows of SST-2 (a small BERT from scratch), several sampler seeds each:
          (a) the best dev loss of 48 trials of tpe, gp and genetic against random; (b) trial-steps that asha needs to reach
          the best of 48 random trials that were trained to their ends; (c) dev loss of population-based training against
          the best of as many fixed learning rates, without a schedule
Command   python -m experiments.benchmarks.searches digits|sst2 [--seeds 5] [--asha] [--rungs 2] [--data FOLDER]
Measured  see README.md
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import tempfile
from typing import Any

import numpy as np

from experiments.digits_mlp import experiment as digits_mlp
from lepjax import tune
from lepjax.core.optimizers import AdamW
from lepjax.core.schedules import Constant, Linear
from lepjax.data import datasets, wordpiece
from lepjax.data.batching import Fixed
from lepjax.data.labelled import LabelledText
from lepjax.experiment import Experiment, Steps
from lepjax.models.bert import Bert
from lepjax.models.bert_family import BertArchitecture
from lepjax.models.bert_heads import SequenceClassification
from lepjax.run.memory import keep_freed_memory
from lepjax.tasks.classification import Classification
from lepjax.tune.pruners.asha import Asha
from lepjax.tune.result import Result
from lepjax.tune.trial import COMPLETE

TRIALS, TOGETHER = 48, 8
ROWS = 1000  # of sst2
SPACE = {
    "learning_rate": tune.loguniform(1e-5, 1e-1),
    "weight_decay": tune.loguniform(1e-4, 1.0),
    "dropout": tune.uniform(0.0, 0.5),
    "label_smoothing": tune.uniform(0.0, 0.3),
    "warmup": tune.uniform(0.0, 0.5),
    "beta1": tune.uniform(0.5, 0.99),
}


def digits(data: str) -> Experiment:
    return dataclasses.replace(digits_mlp(), length=Steps(128), best="", mesh="data=1")


def sst2(data: str) -> Experiment:
    """Two layers of width 32 from random weights, 1,000 rows of at most 32 tokens, and a vocabulary trained on them: with
    one of 30,000 words the optimizer would do little but update those that do not occur.
    """
    folder, tokenizer = pathlib.Path(data), pathlib.Path(tempfile.mkdtemp())
    (train,) = datasets.load("sst2", split=["train"], data_dir=str(folder / "sst2"))
    pieces = wordpiece.train(train.head(ROWS).columns["text"], 2000)
    (tokenizer / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    architecture = BertArchitecture(vocab_size=len(pieces), width=32, layers=2, heads=2, mlp_width=128)
    return Experiment(
        model=Bert(architecture=architecture, head=SequenceClassification(num_labels=2), dropout=0.1),
        task=Classification(labels=("negative", "positive")),
        data=LabelledText(
            dataset="sst2",
            data_dir=str(folder / "sst2"),
            tokenizer=str(tokenizer),
            batch_size=32,
            max_length=32,
            batching=Fixed(32),
            max_train_examples=ROWS,
        ),
        optimizer=AdamW(learning_rate=1e-3, schedule=Linear(warmup=0.1)),
        length=Steps(96),
        mesh="data=1",
    )


def swept(experiment: Experiment, seed: int, sampler: str, trials: int = TRIALS, pruner: Any = "none") -> Result:
    with tempfile.TemporaryDirectory() as folder:
        return tune.sweep(
            experiment,
            SPACE,
            trials=trials,
            sampler=sampler,
            pruner=pruner,
            together=TOGETHER,
            sampler_seed=seed,
            run_dir=folder,
        )


def best_of(result: Result) -> float:
    return min(trial.score for trial in result.trials if trial.state == COMPLETE and trial.score is not None)


def told(name: str, values: list[float]) -> str:
    return (
        f"{name:<10} {np.mean(values):.4f} +- {np.std(values, ddof=1):.4f}  [{', '.join(f'{x:.4f}' for x in values)}]"
    )


def steps_to(result: Result, goal: float) -> float:
    """Optimizer steps of all trials until a complete one scores as well as `goal`; infinite: none does.

    As well within 0.1 %: the same trial rounds differently in a program of another size.
    """
    total = 0
    for start in range(0, len(result.trials), TOGETHER):
        cohort = result.trials[start : start + TOGETHER]
        total += sum(trial.steps for trial in cohort)
        if any(t.state == COMPLETE and t.score is not None and t.score <= goal * 1.001 for t in cohort):
            return total
    return float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("digits", "sst2"))
    parser.add_argument("--rungs", type=int, default=2, help="of asha")
    parser.add_argument("--asha", action="store_true", help="(b) alone")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", default=os.environ.get("LEPJAX_TEST_DATA", "../shared/data"))
    arguments = parser.parse_args()
    keep_freed_memory()
    experiment = {"digits": digits, "sst2": sst2}[arguments.what](arguments.data)
    seeds = range(arguments.seeds)
    random = [swept(experiment, seed, "random") for seed in seeds]
    print(told("random", [best_of(result) for result in random]), flush=True)
    for sampler in () if arguments.asha else ("tpe", "gp", "genetic"):
        print(told(sampler, [best_of(swept(experiment, seed, sampler)) for seed in seeds]), flush=True)
    full = TRIALS * experiment.length.in_steps(1, 1)
    for sampler in ("random", "tpe"):
        pruned = [swept(experiment, seed, sampler, 4 * TRIALS, Asha(count=arguments.rungs)) for seed in seeds]
        ours = [steps_to(result, best_of(other)) for result, other in zip(pruned, random, strict=True)]
        theirs = [steps_to(result, best_of(result)) for result in random]
        ratios = ", ".join(f"{y / x:.1f}" for x, y in zip(ours, theirs, strict=True))
        print(f"asha, {sampler}: {ours} trial-steps; random found it after {theirs}: {ratios} times fewer")
        print(
            f"    of the {full:,} that all of random's take: {', '.join(f'{full / x:.1f}' for x in ours)}", flush=True
        )
    if arguments.asha:
        return
    fixed = dataclasses.replace(experiment, optimizer=dataclasses.replace(experiment.optimizer, schedule=Constant()))
    rates = {"learning_rate": SPACE["learning_rate"]}
    evolved, constant = [], []
    for seed in seeds:
        found = tune.pbt(fixed, rates, population=16, rounds=8, seed=seed)
        evolved.append(float(np.nanmin(found.scores[-1])))
        with tempfile.TemporaryDirectory() as folder:
            constant.append(
                best_of(
                    tune.sweep(
                        fixed, rates, trials=16, sampler="random", together=16, sampler_seed=seed, run_dir=folder
                    )
                )
            )
    print(told("pbt", evolved), flush=True)
    print(told("fixed rate", constant), flush=True)


if __name__ == "__main__":
    main()
