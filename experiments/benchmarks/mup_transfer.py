"""muP: does the learning rate that is best in a narrow GPT stay the best in a wide one?

Purpose   the coordinate check (how far five steps move blocks and logits, by width), then the loss by learning rate in every
          width, in muP with the narrowest as its base and in GPT-2's own parametrisation; both are one model in that width
Data      tinyshakespeare ($LEPJAX_TEST_DATA, as in shakespeare_char), 8 x 64 characters a step, the same batches in every width
Command   python -m experiments.benchmarks.mup_transfer [--json found.json] [--plot mup_transfer.png]
          What is in the file already is not measured again
Target    in muP every width is best within one step of the grid (a factor of 2) of the base's best, and every slope of the
          coordinate check is within 0.2
Measured  see README.md
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np

from lepjax import experiment as experiments
from lepjax.core.errors import guarded
from lepjax.core.optimizers import Adam
from lepjax.core.schedules import Constant, Cosine
from lepjax.data.text import TextFile
from lepjax.experiment import Experiment, Steps
from lepjax.models.gpt2 import Gpt2
from lepjax.models.mup import Mup
from lepjax.report.curves import COLOURS
from lepjax.tasks.language_modeling import LanguageModeling
from lepjax.testing import Stepper, stepper
from lepjax.testing.coordinates import coordinates, slopes

WIDTHS = (64, 128, 256, 512)
HEADS = 4  # in every width: they grow, and so attention's 1 / size is put to the test
RATES = tuple(2.0**power for power in range(-11, -4))
STEPS = 200
LAST = 40  # the loss is the mean over so many steps at the end; the batches are new to the model
BASES = {"muP": Mup(WIDTHS[0], HEADS), "standard": None}
SHOWN = {"Gpt2Module.Block[0]": "block", "Gpt2Module": "logits"}

Found = dict[str, Any]
"""`coordinates`: {parametrisation: {width: {module: change after each step}}}; `losses`: {parametrisation: {width: {seed:
{rate: loss}}}}. Keys are text, as JSON has them."""


def experiment(width: int, mup: Mup | None) -> Experiment:
    return Experiment(
        model=Gpt2(vocab_size=65, context=64, layers=1, heads=HEADS, width=width, scan=False, mup=mup),
        task=LanguageModeling(),
        data=TextFile(path="$LEPJAX_TEST_DATA/lm/tinyshakespeare.txt.gz", batch_size=8, length=64, characters=True),
        optimizer=Adam(learning_rate=2.0**-9, beta2=0.99, clip_norm=1.0, schedule=Cosine(warmup=20, final=0.1)),
        length=Steps(STEPS),
    )


def moved(width: int, mup: Mup | None) -> dict[str, list[float]]:
    """The coordinate check of one width, at a constant rate."""
    whole = experiment(width, mup)
    constant = dataclasses.replace(whole.optimizer, schedule=Constant())
    return {name: x.tolist() for name, x in coordinates(dataclasses.replace(whole, optimizer=constant)).items()}


class Width:
    """One width, compiled once: the rate is a leaf of the state, and another seed is another state and other batches."""

    def __init__(self, width: int, mup: Mup | None) -> None:
        self.experiment = experiment(width, mup)
        self.compiled = stepper(self.experiment, jax.devices()[:1]).compiled
        self.starts: dict[int, tuple[Any, Any]] = {}

    def loss(self, rate: float, seed: int) -> float:
        if seed not in self.starts:
            built = experiments.build(dataclasses.replace(self.experiment, seed=seed), jax.devices()[:1])
            self.starts[seed] = built, built.init()
        built, start = self.starts[seed]
        copy = jax.tree.map(jnp.copy, start)  # the step takes its state's memory
        state = experiments.with_hparams(copy, {**start.hparams, "learning_rate": rate})
        losses = Stepper(built, self.compiled, state).run(STEPS)
        return float(np.mean(losses[-LAST:]))


def measure(found: Found, widths: Sequence[int], seeds: int, save: Callable[[], object]) -> None:
    """Fills in what is missing. `save()` is called after each number, which may have taken a minute."""
    for name, width in itertools.product(BASES, widths):
        moves = found["coordinates"].setdefault(name, {})
        if str(width) not in moves:
            moves[str(width)] = moved(width, BASES[name])
            save()
    for seed, width, name in itertools.product(range(seeds), widths, BASES):
        by_rate = found["losses"].setdefault(name, {}).setdefault(str(width), {}).setdefault(str(seed), {})
        missing = [rate for rate in RATES if str(rate) not in by_rate]
        compiled = Width(width, BASES[name]) if missing else None
        for rate in missing:
            by_rate[str(rate)] = compiled.loss(rate, seed)
            print(f"{name:8} width {width:4} seed {seed} rate {rate:.5f} loss {by_rate[str(rate)]:.4f}", flush=True)
            save()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=pathlib.Path, default=pathlib.Path("mup_transfer.json"))
    parser.add_argument("--plot", type=pathlib.Path, default=pathlib.Path("mup_transfer.png"))
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--seeds", type=int, default=2)
    chosen = parser.parse_args()
    found: Found = json.loads(chosen.json.read_text()) if chosen.json.exists() else {"coordinates": {}, "losses": {}}
    measure(found, chosen.widths, chosen.seeds, lambda: chosen.json.write_text(json.dumps(found, indent=1)))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
