"""Llama 3.1 8B on 32 devices: pretraining at its sizes, or continued pretraining of its weights.

Data      a folder of tables with a column `text`, or of plain text. Tokenised once, and kept. FineWeb's sample:
              hf download HuggingFaceFW/fineweb --repo-type dataset --include "sample/100BT/*" --local-dir fineweb
Command   lepjax train experiments/llama_8b.py --data-dir fineweb/sample/100BT
          lepjax train experiments/llama_8b.py:continued --model meta-llama/Llama-3.1-8B --data-dir mine
          on a laptop lepjax train experiments/llama_8b.py:tiny
Hardware  32 devices, with parameters and optimizer cut over all; --mesh data=2,fsdp=16 cuts them over 16
Measured  not run. By arithmetic, 8,030,261,248 parameters and their optimizer hold 3.01 GB on each of 32 devices; the
          tests lower the whole step for them. Compiled for 32 simulated CPU devices it takes 22.5 GB of temporaries on
          each (bfloat16, one row of 8,192 tokens at a time, blocks recomputed); other compilers decide anew

Peak learning rate, warmup, and the 4M tokens of the first batches are those of The Llama 3 Herd of Models (Grattafiori
et al., 2024, sections 3.2 and 3.4); betas and decay are the usual ones, and the number of steps is ours.
"""

from dataclasses import replace

from lepjax.cli.train import main
from lepjax.core.optimizers import AdamW
from lepjax.core.schedules import Cosine
from lepjax.data.stdlib import StandardLibrary
from lepjax.data.tokenized import TokenizedText
from lepjax.experiment import Experiment, Steps
from lepjax.models.llama import Llama
from lepjax.models.llama_family import LlamaArchitecture
from lepjax.ops.rope import Llama3, Rope
from lepjax.tasks.language_modeling import LanguageModeling

LLAMA_31_8B = LlamaArchitecture(
    vocab_size=128_256,
    width=4096,
    mlp_width=14_336,
    layers=32,
    heads=32,
    kv_heads=8,
    context=131_072,
    rope=Rope(theta=500_000.0, scaling=Llama3(factor=8.0, low=1.0, high=4.0, original=8192)),
)


def experiment(data_dir: str = "fineweb/sample/100BT", tokenizer: str = "meta-llama/Llama-3.1-8B") -> Experiment:
    return Experiment(
        model=Llama(architecture=LLAMA_31_8B, remat="full"),
        task=LanguageModeling(),
        data=TokenizedText(path=data_dir, tokenizer=tokenizer, dev=0.0001, batch_size=512, length=8192),
        optimizer=AdamW(
            learning_rate=3e-4,
            beta2=0.95,
            weight_decay=0.1,
            clip_norm=1.0,
            schedule=Cosine(warmup=8000, final=0.01),
        ),
        length=Steps(24_000),
        precision="bfloat16",
        accumulate=16,  # one row per device and microbatch
        mesh="fsdp=32",
        evaluate_every=Steps(1000),
        evaluation_batch_size=32,
        checkpoint_every=500,
    )


def continued(model: str = "meta-llama/Llama-3.1-8B", data_dir: str = "mine") -> Experiment:
    """From its weights (a folder, or the hub), on one's own text, with a tenth of the learning rate."""
    base = experiment(data_dir, model)
    return replace(
        base,
        model=Llama(pretrained=model, remat="full"),
        optimizer=replace(base.optimizer, learning_rate=3e-5, schedule=Cosine(warmup=0.01, final=0.1)),
        length=Steps(1000),
    )


def tiny() -> Experiment:
    """The same, with two layers of width 64 on the bytes of Python's standard library: seconds on a laptop."""
    base = experiment()
    sizes = {"vocab_size": 256, "width": 64, "mlp_width": 128, "layers": 2, "heads": 8, "kv_heads": 2, "context": 64}
    return replace(
        base,
        model=replace(base.model, architecture=replace(LLAMA_31_8B, **sizes)),
        task=LanguageModeling(bytes=True),
        data=StandardLibrary(batch_size=64, length=64),
        optimizer=replace(base.optimizer, learning_rate=1e-2, schedule=Cosine(warmup=0, final=0.1)),
        length=Steps(100),
        mesh="data=1",
        evaluate_every=Steps(0),
    )


if __name__ == "__main__":
    main(experiment)
