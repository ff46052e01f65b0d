"""GPT-2 124M from scratch: nanoGPT's `config/train_gpt2.py` on OpenWebText, or on FineWeb.

Data      OpenWebText, 8,013,769 documents, some 9 billion GPT-2 tokens; the last 0.05 % are `dev`:
              hf download Skylion007/openwebtext --repo-type dataset --include "plain_text/*" --local-dir openwebtext
          or another folder of tables with a column `text`, such as FineWeb's sample/10BT. Tokenised once, and kept
Command   lepjax train experiments/gpt2_124m.py --data-dir openwebtext/plain_text
          on one GPU with --accumulate 40; on a laptop lepjax train experiments/gpt2_124m.py:tiny
Hardware  8 devices (nanoGPT: 8 A100 of 40 GB, some 5 days)
Measured  not run. nanoGPT publishes a loss of some 2.85. By arithmetic, 124,439,808 parameters and their optimizer hold
          187 MB on each of 8 devices; the tests lower the whole step for them. Compiled for 8 simulated CPU devices it
          takes 23.4 GB of temporaries on each; with --model.remat dots 9.8, full 6.2; other compilers decide anew

nanoGPT's batch (480 rows of 1,024 tokens, in microbatches of 12 rows per device), learning rate, warmup, cosine, betas,
decay and clipping. The model is OpenAI's: nanoGPT leaves biases out, and rounds the 50,257 tokens up to 50,304.
"""

from dataclasses import replace

from lepjax.cli.train import main
from lepjax.core.optimizers import AdamW
from lepjax.core.schedules import Cosine
from lepjax.data.stdlib import StandardLibrary
from lepjax.data.tokenized import TokenizedText
from lepjax.experiment import Experiment, Steps
from lepjax.models.gpt2 import Gpt2
from lepjax.run.text import TextSample
from lepjax.tasks.language_modeling import LanguageModeling


def experiment(data_dir: str = "openwebtext/plain_text", tokenizer: str = "openai-community/gpt2") -> Experiment:
    return Experiment(
        model=Gpt2(),
        task=LanguageModeling(),
        data=TokenizedText(path=data_dir, tokenizer=tokenizer, dev=0.0005, batch_size=480, length=1024),
        optimizer=AdamW(
            learning_rate=6e-4,
            beta2=0.95,
            weight_decay=0.1,
            clip_norm=1.0,
            schedule=Cosine(warmup=2000, final=0.1),
        ),
        length=Steps(600_000),
        precision="bfloat16",
        accumulate=5,
        mesh="fsdp=-1",
        evaluate_every=Steps(2000),
        evaluation_batch_size=96,
        best="dev_loss",
        final=(TextSample(prompt="The", tokens=256),),
    )


def tiny() -> Experiment:
    """The same, with two layers of width 64 on the bytes of Python's standard library: seconds on a laptop."""
    base = experiment()
    return replace(
        base,
        model=replace(base.model, vocab_size=256, context=64, layers=2, heads=2, width=64),
        task=LanguageModeling(bytes=True),
        data=StandardLibrary(batch_size=20, length=64),
        optimizer=replace(base.optimizer, learning_rate=1e-2, schedule=Cosine(warmup=0, final=0.1)),
        length=Steps(100),
        mesh="data=1",
        evaluate_every=Steps(0),
        best="",
        final=(),
    )


if __name__ == "__main__":
    main(experiment)
