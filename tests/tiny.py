"""A whole experiment that trains in a second, and what mesh and resume tests ask of it."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib

import jax
import numpy as np

from lepjax import experiment as experiments
from lepjax.core.optimizers import AdamW
from lepjax.core.schedules import Cosine
from lepjax.core.step import Term
from lepjax.data.loader import place
from lepjax.data.source import Data, Splits
from lepjax.data.tokens import TokenWindows
from lepjax.data.vocabulary import Bytes
from lepjax.experiment import Built, Experiment, Steps
from lepjax.models.gpt2 import Gpt2
from lepjax.run.compiled import batch_shapes, compile_step
from lepjax.tasks.language_modeling import LanguageModeling

MESHES = (
    "data=8",
    "fsdp=8",
    "tensor=8",
    "data=4,fsdp=2",
    "data=2,fsdp=4",
    "data=4,tensor=2",
    "data=2,tensor=4",
    "fsdp=4,tensor=2",
    "fsdp=2,tensor=4",
    "data=2,fsdp=2,tensor=2",
)
CI_MESHES = ("data=8", "fsdp=4,tensor=2", "data=2,fsdp=2,tensor=2")


def text(size: int = 4000) -> np.ndarray:
    """Bytes with something to learn: a repeating pattern with pseudo-random interruptions. uint8[size]."""
    rng = np.random.default_rng(0)
    pattern = np.frombuffer(b"the quick brown fox jumps over the lazy dog. ", np.uint8)
    noisy = np.resize(pattern, size).copy()
    at = rng.random(size) < 0.1
    noisy[at] = rng.integers(97, 123, at.sum())
    return noisy


@dataclasses.dataclass(frozen=True)
class TinyText(Data):
    """`text()` in windows; the last tenth is `dev`. Record `bad_record` of the training data is not finite."""

    batch_size: int = 8
    length: int = 32
    size: int = 4000
    bad_record: int = -1

    def load(self) -> Splits:
        tokens = text(self.size)
        cut = self.size * 9 // 10
        return Splits(
            train=_Poisoned(TokenWindows(tokens[:cut], self.length, shift=True, where="tiny"), self.bad_record),
            evaluation={"dev": TokenWindows(tokens[cut:], self.length, shift=False, where="tiny dev")},
            vocabulary=Bytes(),
        )


class _Poisoned:
    def __init__(self, source: TokenWindows, bad_record: int) -> None:
        self.source, self.bad_record = source, bad_record
        self.digest = hashlib.sha256(f"{source.digest} {bad_record}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.source)

    def rows(self, ids: np.ndarray, epochs: np.ndarray) -> dict[str, np.ndarray]:
        rows = self.source.rows(ids, epochs)
        return {**rows, "factor": np.where(ids == self.bad_record, np.inf, 1.0).astype(np.float32)}


@dataclasses.dataclass(frozen=True)
class TinyTask(LanguageModeling):
    """Language modelling whose loss is multiplied by the row's `factor`."""

    bytes: bool = True

    def terms(self, outputs, batch, hparams):
        rows = {**batch, "weight": batch["weight"] * batch.get("factor", 1.0)}
        (term,) = super().terms(outputs, rows, hparams).values()
        weight = super().terms(outputs, batch, hparams)["nll"].weight
        return {"nll": Term(term.sum, weight)}


def tiny(**changes: object) -> Experiment:
    """GPT-2 with two layers of width 64; dropout on; AdamW with warmup, decay and clipping."""
    base = Experiment(
        model=Gpt2(vocab_size=256, context=32, layers=2, heads=8, width=64, dropout=0.1),
        task=TinyTask(),
        data=TinyText(),
        optimizer=AdamW(learning_rate=1e-3, clip_norm=1.0, schedule=Cosine(warmup=5)),
        length=Steps(20),
        log_every=1,
        checkpoint_every=0,
    )
    return dataclasses.replace(base, **changes)


@dataclasses.dataclass
class Stepper:
    """A built experiment, its compiled step, and its batches on the mesh."""

    built: Built
    compiled: object
    state: object
    change_batch: object = staticmethod(lambda rows: rows)

    def run(self, steps: int) -> list[float]:
        """The losses of the next steps."""
        built = self.built
        batches = built.batches(10**6)
        losses = []
        for _ in range(steps):
            rows = self.change_batch(batches[int(self.state.cursor)])
            shardings = {name: built.placement.batch(array, name) for name, array in rows.items()}
            self.state, metrics = self.compiled(self.state, place(rows, shardings))
            losses.append(float(metrics["loss"]))
        return losses


def stepper(experiment: Experiment, devices: int = 8) -> Stepper:
    built = experiments.build(experiment, jax.devices()[:devices])
    shapes = batch_shapes(built.batches(1)[0], built.placement)
    compiled = compile_step(built.step, built.abstract, [shapes], built.placement)
    return Stepper(built, compiled, built.init())


def relative(a: list[float], b: list[float]) -> float:
    """The largest relative difference of two lists of losses."""
    return float(np.max(np.abs(np.array(a) - np.array(b)) / np.abs(np.array(b))))


def hex_losses(run: pathlib.Path) -> dict[int, str]:
    """{step: training loss as hex} of a run directory."""
    import json

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: _hex(line["train_loss"]) for line in lines if "train_loss" in line}


def _hex(value: float | None) -> str:
    return "not finite" if value is None else float(value).hex()
