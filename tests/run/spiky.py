"""Experiments whose data hold a range of batches with scrambled labels."""

import dataclasses
import hashlib

import numpy as np

from lepjax.core.optimizers import AdamW
from lepjax.core.schedules import Constant
from lepjax.core.spikes import RewindSpikes
from lepjax.experiment import Steps
from lepjax.models.gpt2 import Gpt2
from tests.tiny import TinyText, tiny

FIRST, LAST = 40, 47  # the scrambled batches
STEPS = 56
RULE = RewindSpikes(sigma=6.0, window=16, warmup=10, patience=3, skip=10, most=2)


@dataclasses.dataclass(frozen=True)
class Scrambled(TinyText):
    """The targets of batches `first` to `last` of the plan are bytes that no text has."""

    first: int = -1
    last: int = -1

    def training(self, source, seed, work):
        source, plan = super().training(source, seed, work)
        scrambled = _Scrambled(source, plan, range(self.first, self.last + 1) if self.first >= 0 else ())
        return scrambled, dataclasses.replace(plan, digest=scrambled.digest)


class _Scrambled:
    def __init__(self, source, plan, cursors):
        self.source = source
        self.bad = {
            pair for cursor in cursors for pair in zip(*map(np.ndarray.tolist, plan.batch(cursor)), strict=True)
        }
        self.digest = hashlib.sha256(f"{source.digest} {cursors}".encode()).hexdigest()

    rowwise = True

    def __len__(self):
        return len(self.source)

    def rows(self, ids, epochs):
        rows = self.source.rows(ids, epochs)
        bad = np.array([pair in self.bad for pair in zip(ids.tolist(), epochs.tolist(), strict=True)])
        other = 128 + (rows["targets"] * 7 + ids[:, None]) % 128
        return {**rows, "targets": np.where(bad[:, None], other, rows["targets"]).astype(np.int32)}


def spiky(run, first=FIRST, last=LAST, **changes):
    settings = {
        "model": Gpt2(vocab_size=256, context=32, layers=1, heads=2, width=32),
        "optimizer": AdamW(learning_rate=3e-3, schedule=Constant(warmup=5)),
        "data": Scrambled(first=first, last=last),
        "spikes": RULE,
        "length": Steps(STEPS),
        "checkpoint_every": 5,
        "mesh": "data=1",
    }
    return tiny(run_dir=str(run), **{**settings, **changes})
