"""What the crash harness breaks: a tiny language model with dropout on shuffled data, with many saves.

lepjax chaos tests/chaos/experiment.py          10 ms per step, 1 MB of state
lepjax chaos tests/chaos/experiment.py:wide     the same with 100 MB of state (49 MB on disk: zeros compress)
lepjax chaos tests/chaos/experiment.py:deep     a step that takes more than 5 s to compile
"""

from __future__ import annotations

import dataclasses

from lepjax.experiment import Experiment, Steps
from lepjax.models.gpt2 import Gpt2
from tests.chaos import sabotage
from tests.tiny import TinyText, tiny

sabotage.apply()  # does nothing unless the environment asks for it


@dataclasses.dataclass(frozen=True)
class Text(TinyText):
    """Lives here, so that whoever rebuilds the experiment from its run directory imports this file."""


MODEL = Gpt2(vocab_size=256, context=32, layers=1, heads=4, width=64, dropout=0.1)


def experiment() -> Experiment:
    return tiny(
        model=MODEL, data=Text(), length=Steps(400), checkpoint_every=10, evaluate_every=Steps(50), best="dev_loss"
    )


def wide() -> Experiment:
    """Positions that no row reaches: state, and hardly anything to compute. Their average does not compress."""
    return dataclasses.replace(experiment(), model=dataclasses.replace(MODEL, context=100_000), ema=0.9)


def deep() -> Experiment:
    """Layers one by one instead of a scan."""
    return dataclasses.replace(experiment(), model=dataclasses.replace(MODEL, layers=24, scan=False))
