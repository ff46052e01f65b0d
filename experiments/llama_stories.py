"""A small Llama from scratch: what its parts are worth, in the setting of `shakespeare_char`.

Data      tinyshakespeare, 1,115,394 characters (karpathy/char-rnn); the last tenth is `dev`. --data-dir names another
          text file, which may be packed (.gz)
Command   lepjax train experiments/llama_stories.py
Hardware  2 CPU cores
Measured  dev_loss 1.568 +- 0.003 on all of dev (n=3: 1.5676, 1.5701, 1.5647); 3 min 2 s in all (n=1), on a machine that
          was not idle. With the AdamW of `shakespeare_char` (:adamw) 1.646, with three times its learning rate 1.672;
          GPT-2 there 1.855, and with this Muon 1.618 (n=1 each). nanoGPT publishes 1.88, on 20 random batches

RMS norms, rotary positions, two query heads per key head, SwiGLU, no biases: 734,464 parameters (GPT-2 there: 809,856).
All else is `shakespeare_char`, 2,000 steps of 12 windows of 64 characters, but that Muon moves the matrices.
"""

from dataclasses import replace

from experiments import shakespeare_char
from lepjax.cli.train import main
from lepjax.core.optimizers import AdamW, Muon
from lepjax.core.schedules import Cosine
from lepjax.data.text import TextFile
from lepjax.data.tokenized import TokenizedText
from lepjax.experiment import Experiment, Steps
from lepjax.models.llama import Llama
from lepjax.models.llama_family import LlamaArchitecture
from lepjax.run.text import TextSample

SIZES = LlamaArchitecture(vocab_size=65, width=128, mlp_width=344, layers=4, heads=4, kv_heads=2, context=64, tied=True)


def experiment(data_dir: str = "$LEPJAX_TEST_DATA/lm/tinyshakespeare.txt.gz") -> Experiment:
    base = adamw(data_dir)
    muon = Muon(
        learning_rate=2e-3,
        weight_decay=0.1,
        clip_norm=1.0,
        adam=r"(^|\.)embed\.",
        schedule=base.optimizer.schedule,
    )
    return replace(base, optimizer=muon)


def adamw(data_dir: str = "$LEPJAX_TEST_DATA/lm/tinyshakespeare.txt.gz") -> Experiment:
    """Only the model differs from `shakespeare_char`."""
    return replace(
        shakespeare_char.experiment(),
        model=Llama(architecture=SIZES, scan=False),
        data=TextFile(path=data_dir, batch_size=12, length=64, characters=True),
    )


def tinystories(data_dir: str = "stories") -> Experiment:
    """Stories of a vocabulary of 512 tokens in the sizes and with the settings of llama2.c's stories260K.

    Data      TinyStories (Eldan and Li, 2023); the tokenizer is trained on it:
                  hf download roneneldan/TinyStories --repo-type dataset --include "TinyStories-*" --local-dir stories
    Command   lepjax train experiments/llama_stories.py:tinystories --data-dir stories
    Measured  not run. llama2.c publishes a validation loss of 1.2968, for its own tokenizer of 512 tokens
    """
    base = experiment()
    sizes = replace(SIZES, vocab_size=512, width=64, mlp_width=172, layers=5, heads=8, kv_heads=4, context=512)
    return replace(
        base,
        model=Llama(architecture=sizes, dropout=0.05),
        data=TokenizedText(path=data_dir, vocabulary=512, batch_size=128, length=512),
        optimizer=AdamW(learning_rate=1e-3, beta2=0.99, weight_decay=0.01, clip_norm=1.0, schedule=Cosine(warmup=1000)),
        length=Steps(100_000),
        evaluate_every=Steps(2000),
        evaluation_batch_size=128,
        best="dev_loss",
        final=(TextSample(prompt="Once upon a time", tokens=300),),
    )


if __name__ == "__main__":
    main(experiment)
