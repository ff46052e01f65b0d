"""Small labelled texts that a test can train an encoder on."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from lepjax.core.optimizers import AdamW
from lepjax.core.schedules import Linear
from lepjax.data.batching import Batching, Fixed
from lepjax.data.encoded import EncodedRecords
from lepjax.data.source import Data, Source, Splits, Work
from lepjax.experiment import Experiment, Steps
from lepjax.models.bert import Bert
from lepjax.models.bert_family import BertArchitecture
from lepjax.models.bert_heads import SequenceClassification
from lepjax.tasks.classification import Classification

SIZES = BertArchitecture(vocab_size=256, width=32, layers=2, heads=4, mlp_width=128, positions=32)


@dataclasses.dataclass(frozen=True)
class Labelled(Data):
    """Records of 3 to 16 tokens; the label says whether the first is odd."""

    batching: Batching = Fixed(16)
    records: int = 100

    def load(self) -> Splits:
        noise = np.random.default_rng(0)
        lengths = noise.integers(3, 17, self.records)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        tokens = noise.integers(1, 256, starts[-1]).astype(np.int32)
        source = EncodedRecords({"tokens": tokens}, starts, {"label": tokens[starts[:-1]] % 2})
        return Splits(train=source, evaluation={"dev": source}, labels=("even", "odd"), largest_token=255)

    def training(self, source: Source, seed: int, work: Work) -> tuple[Source, Any]:
        return self.batching.training(source, self.batch_size, seed, work)

    def scoring(self, source: Source, rows: int, work: Work) -> tuple[Source, Any]:
        return self.batching.evaluation(source, rows, work)


def labelled(**changes: Any) -> Experiment:
    """A tiny BERT, dropout on."""
    base = Experiment(
        model=Bert(architecture=SIZES, head=SequenceClassification(2), dropout=0.1),
        task=Classification(("even", "odd")),
        data=Labelled(batch_size=8),
        optimizer=AdamW(learning_rate=1e-3, weight_decay=0.01, clip_norm=1.0, schedule=Linear(warmup=5)),
        length=Steps(60),
        mesh="data=1",
    )
    return dataclasses.replace(base, **changes)
