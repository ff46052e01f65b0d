"""muP: does the learning rate that is best in a narrow GPT stay the best in a wide one?

Purpose   the coordinate check (how far five steps move blocks and logits, by width), then the loss by learning rate in every
          width: in muP of the narrowest as its base, in muP of the widest, and in GPT-2's own parametrisation. The latter is
          the same model as muP where the width is the base's
Data      tinyshakespeare ($LEPJAX_TEST_DATA, as in shakespeare_char), 8 x 64 characters a step, in every width the same
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
from lepjax.core.colours import SERIES
from lepjax.core.errors import guarded
from lepjax.core.optimizers import Adam
from lepjax.core.schedules import Constant, Cosine
from lepjax.data.text import TextFile
from lepjax.experiment import Experiment, Steps
from lepjax.models.gpt2 import Gpt2
from lepjax.models.mup import Mup
from lepjax.tasks.language_modeling import LanguageModeling
from lepjax.testing import Stepper, stepper
from lepjax.testing.coordinates import FLAT, coordinates, slopes

WIDTHS = (64, 128, 256, 512)
HEADS = 4  # in every width: they grow, and so attention's 1 / size is put to the test
POWERS = tuple(range(-12, -4))  # the grid of learning rates, 2**power
STEPS = 200
LAST = 40  # the loss is the mean over so many steps at the end; the batches are new to the model
BASES = {"muP": Mup(WIDTHS[0], HEADS), "muP of wide": Mup(WIDTHS[-1], HEADS), "standard": None}
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


def measure(found: Found, widths: Sequence[int], powers: Sequence[int], seeds: int, save: Callable[[], object]) -> None:
    """Fills in what is missing. `save()` is called after each number, which may have taken a minute."""
    for name, width in itertools.product(BASES, widths):
        moves = found["coordinates"].setdefault(name, {})
        if str(width) not in moves:
            moves[str(width)] = moved(width, BASES[name])
            save()
    for seed, width, name in itertools.product(range(seeds), widths, BASES):
        by_rate = found["losses"].setdefault(name, {}).setdefault(str(width), {}).setdefault(str(seed), {})
        missing = [2.0**power for power in powers if str(2.0**power) not in by_rate]
        compiled = Width(width, BASES[name]) if missing else None
        for rate in missing:
            by_rate[str(rate)] = compiled.loss(rate, seed)
            print(f"{name:11} width {width:4} seed {seed} rate {rate:.5f} loss {by_rate[str(rate)]:.4f}", flush=True)
            save()


def mean_losses(found: Found, name: str, width: str) -> dict[int, float]:
    """{power: mean loss}, over the seeds in which the rate was measured, for those that the first seed has."""
    seeds = found["losses"][name][width]
    rates = sorted(seeds["0"], key=float)
    return {
        round(np.log2(float(rate))): float(np.mean([s[rate] for s in seeds.values() if rate in s])) for rate in rates
    }


def report(found: Found) -> int:
    """Prints what was found; the number of targets that were missed."""
    missed = 0
    for name in found["losses"]:
        moves = {int(width): found["coordinates"][name][width] for width in found["coordinates"][name]}
        found_slopes = slopes(moves)
        steepest = max(found_slopes, key=lambda module: abs(found_slopes[module]))
        told = ", ".join(f"{label} width^{found_slopes[module]:+.2f}" for module, label in SHOWN.items())
        print(f"{name:11} coordinates: {told}; steepest {steepest} {found_slopes[steepest]:+.2f}")
        parametrisation = BASES[name]
        its = str(WIDTHS[0] if parametrisation is None else parametrisation.width)
        at_base = mean_losses(found, name, its) if its in found["losses"][name] else {}
        base = min(at_base, key=lambda power: at_base[power], default=None)
        for width in found["losses"][name]:
            losses = mean_losses(found, name, width)
            best = min(losses, key=lambda power: losses[power])
            if base is None:
                print(
                    f"{name:11} width {width:>4}: best 2^{best} {losses[best]:.3f}; the base, {its}, was not measured"
                )
                continue
            kept = f"{losses[base]:.3f}" if base in losses else "not measured"
            print(f"{name:11} width {width:>4}: best 2^{best} {losses[best]:.3f}, at the base's best 2^{base} {kept}")
            missed += name == "muP" and abs(best - base) > 1
        missed += name == "muP" and abs(found_slopes[steepest]) > FLAT
    return missed


def plot(found: Found, path: pathlib.Path) -> None:
    """Above the coordinate check, below the losses; one column per parametrisation."""
    names = list(found["losses"])
    figure = matplotlib.figure.Figure(figsize=(4.5 * len(names), 7), layout="constrained")
    panels = figure.subplots(2, len(names), sharey="row")
    for column, name in enumerate(names):
        above, below = panels[0][column], panels[1][column]
        moves = found["coordinates"][name]
        for (module, label), style in zip(SHOWN.items(), ("-", "--"), strict=True):
            for step, colour in ((0, SERIES[0]), (len(next(iter(moves.values()))[module]) - 1, SERIES[1])):
                changes = [moves[width][module][step] for width in moves]
                above.plot(
                    list(map(int, moves)),
                    changes,
                    style,
                    color=colour,
                    marker="o",
                    markersize=4,
                    label=f"{label}, step {step + 1}",
                )
        above.set_xscale("log", base=2)
        above.set_yscale("log")
        above.set_title(f"{name}: mean change of activations", fontsize=10, loc="left")
        above.set_xlabel("width", fontsize=9)
        for width, colour in zip(found["losses"][name], SERIES, strict=False):
            losses = mean_losses(found, name, width)
            below.plot(
                list(losses), list(losses.values()), color=colour, marker="o", markersize=3, label=f"width {width}"
            )
            best = min(losses, key=lambda power: losses[power])
            below.plot([best], [losses[best]], "*", color=colour, markersize=12)
        below.set_title(f"{name}: loss, steps {STEPS - LAST + 1} to {STEPS}", fontsize=10, loc="left")
        below.set_xlabel("log2 of the learning rate", fontsize=9)
        for axes in (above, below):
            axes.legend(fontsize=8, frameon=False)
            axes.grid(alpha=0.25)
            axes.tick_params(labelsize=8)
            axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=pathlib.Path, default=pathlib.Path("mup_transfer.json"))
    parser.add_argument("--plot", type=pathlib.Path, default=pathlib.Path("mup_transfer.png"))
    parser.add_argument("--widths", type=int, nargs="*", default=WIDTHS)
    parser.add_argument("--powers", type=int, nargs="+", default=POWERS, help="learning rates, as powers of 2")
    parser.add_argument("--seeds", type=int, default=2)
    chosen = parser.parse_args()
    found: Found = json.loads(chosen.json.read_text()) if chosen.json.exists() else {"coordinates": {}, "losses": {}}
    measure(
        found, chosen.widths, chosen.powers, chosen.seeds, lambda: chosen.json.write_text(json.dumps(found, indent=1))
    )
    plot(found, chosen.plot)
    missed = report(found)
    print(f"targets: {'met' if not missed else f'{missed} MISSED'}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(guarded(main))
