"""A whole experiment that trains in a second."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from lepjax.core.optimizers import AdamW
from lepjax.core.schedules import Cosine
from lepjax.core.step import Term
from lepjax.data.source import Data, Splits
from lepjax.data.tokens import TokenWindows
from lepjax.data.vocabulary import Bytes
from lepjax.experiment import Experiment, Steps
from lepjax.models.gpt2 import Gpt2
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

    rowwise = True

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
