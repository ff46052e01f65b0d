"""Quickstart: a GPT that learns Python from Python's own standard library.

Data      the .py files of the running interpreter's library, byte by byte; about 3 % of the text, whole packages, held out
Command   lepjax train experiments/quickstart.py
Hardware  2 CPU cores
Measured  3 min 8 s in all, compilation included (n=1); heldout 2.02 bits per byte; bigram 3.57, interpolated 5-gram 1.89,
          xz 1.65 on the same bytes. With AdamW (2e-3, beta2 0.99) instead of Muon: 2.39 (n=1)
"""

from lepjax.cli.train import main
from lepjax.core.optimizers import Muon
from lepjax.core.schedules import Cosine
from lepjax.data.stdlib import StandardLibrary
from lepjax.experiment import Experiment, Steps
from lepjax.models.gpt2 import Gpt2
from lepjax.run.text import TextBaselines, TextSample
from lepjax.tasks.language_modeling import LanguageModeling


def experiment() -> Experiment:
    return Experiment(
        model=Gpt2(vocab_size=256, context=128, layers=4, heads=6, width=192, scan=False),
        task=LanguageModeling(bytes=True),
        data=StandardLibrary(batch_size=16, length=128),
        optimizer=Muon(learning_rate=2e-3, weight_decay=0.1, clip_norm=1.0, schedule=Cosine(warmup=100, final=0.05)),
        length=Steps(900),
        final=(TextBaselines(), TextSample()),
    )


if __name__ == "__main__":
    main(experiment)
