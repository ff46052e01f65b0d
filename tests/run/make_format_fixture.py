"""Writes tests/run/fixtures/format-1: a run that was interrupted after 4 of 6 steps, and the losses of all 6.

python -m tests.run.make_format_fixture    once per format of checkpoints; what is there stays as it is
"""

import dataclasses
import pathlib
import shutil

from rich.console import Console

from lepjax.core.serialise import to_json
from lepjax.experiment import Steps
from lepjax.models.gpt2 import Gpt2
from lepjax.run import files, manifest
from lepjax.run.train import train
from lepjax.testing import hex_losses
from lepjax.testing.worker import StopAt
from tests.tiny import TinyText, tiny

FOLDER = pathlib.Path(__file__).parent / "fixtures" / f"format-{manifest.FORMAT}"
KEPT = ("experiment.json", "plan.json", "metrics.jsonl", "checkpoints")


def experiment(run):
    model = Gpt2(vocab_size=256, context=16, layers=1, heads=2, width=8)
    data = TinyText(batch_size=4, length=16)
    return dataclasses.replace(
        tiny(run_dir=str(run), mesh="data=1", length=Steps(6), checkpoint_every=2, ema=0.9),
        model=model,
        data=data,
    )


def without_its_place(step):
    """Orbax notes where it wrote; nothing reads it back."""
    leaves = manifest.read(step)["leaves"]
    for note in step.rglob("commit_success.txt"):
        note.write_text("Checkpoint commit was successful\n")
    (step / manifest.NAME).unlink()  # a manifest does not list itself
    manifest.commit(step, int(step.name), leaves)


def main():
    if FOLDER.exists():
        raise SystemExit(f"{FOLDER} is there already: later versions must read what this one wrote")
    quiet = Console(quiet=True)
    oracle = FOLDER.with_name("oracle")
    train(experiment(oracle), console=quiet)
    train(experiment(FOLDER), callbacks=[StopAt(4)], console=quiet)
    for entry in FOLDER.iterdir():
        if entry.name not in KEPT:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    shutil.rmtree(FOLDER / "checkpoints" / "2")
    without_its_place(FOLDER / "checkpoints" / "4")
    files.write_json(FOLDER / "experiment.json", to_json(experiment("")))
    files.write_json(FOLDER / "losses.json", hex_losses(oracle))
    shutil.rmtree(oracle)


if __name__ == "__main__":
    main()
