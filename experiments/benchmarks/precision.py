"""Half precision against float32: GPT, BERT and Llama, 500 real steps each, the same seed and batches.

Purpose   bfloat16 and float16 (with its dynamic loss scale) must reach the loss of float32: within BAND, relative, on the
          evaluation split after 500 steps of the recipes `shakespeare_char`, `bert_mlm` and `llama_stories:adamw`
Needs     tinyshakespeare for the first and the last ($LEPJAX_TEST_DATA, see there)
Command   python -m experiments.benchmarks.precision [--steps 500] [--family gpt]
Target    all six within BAND; exits with 1 otherwise
Measured  see README.md
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys
import tempfile

from rich.console import Console

from experiments import bert_mlm, llama_stories, shakespeare_char
from lepjax.core.errors import guarded
from lepjax.experiment import Experiment, Steps
from lepjax.run.directory import RunDirectory
from lepjax.run.train import train

BAND = 0.02
FAMILIES = {
    "gpt": (shakespeare_char.experiment, "dev_loss"),
    "bert": (bert_mlm.experiment, "heldout_loss"),
    "llama": (llama_stories.adamw, "dev_loss"),
}


@dataclasses.dataclass(frozen=True)
class Reached:
    """The loss at the end, the seconds of steps, steps skipped, and the loss scale as (step, scale) where it changed."""

    loss: float
    seconds: float
    skipped: int
    scales: tuple[tuple[int, float], ...]


def reached(experiment: Experiment, metric: str, precision: str, steps: int) -> Reached:
    with tempfile.TemporaryDirectory() as folder:
        run = pathlib.Path(folder) / "run"
        length = {"length": Steps(steps), "evaluate_every": Steps(0), "final": (), "log_every": 1}
        outcome = train(
            dataclasses.replace(experiment, precision=precision, run_dir=str(run), checkpoint_every=0, **length),
            console=Console(quiet=True),
        )
        lines = [line for line in RunDirectory(run).read_metrics() if "train_loss_scale" in line]
        scales = [(line["step"], line["train_loss_scale"]) for line in lines]
        changes = tuple(now for before, now in zip([(0, 0.0), *scales], scales, strict=False) if now[1] != before[1])
        result = outcome.result
        return Reached(result[metric], result["seconds"]["step"], result["skipped"], changes)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--family", choices=FAMILIES)
    chosen = parser.parse_args()
    missed = 0
    for family in [chosen.family] if chosen.family else FAMILIES:
        make, metric = FAMILIES[family]
        whole = reached(make(), metric, "float32", chosen.steps)
        print(f"{family:6} float32   {metric} {whole.loss:.4f}, steps {whole.seconds:.0f} s", flush=True)
        for precision in ("bfloat16", "float16"):
            half = reached(make(), metric, precision, chosen.steps)
            off = half.loss / whole.loss - 1.0
            missed += abs(off) > BAND
            told = ", ".join(f"{scale:g} from step {step}" for step, scale in half.scales)
            scale = f", {half.skipped} skipped, loss scale {told}" if precision == "float16" else ""
            print(
                f"{family:6} {precision:9} {metric} {half.loss:.4f} ({off:+.2%}), steps {half.seconds:.0f} s{scale}",
                flush=True,
            )
    print(f"band {BAND:.0%}: {'met' if not missed else f'{missed} MISSED'}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(guarded(main))
