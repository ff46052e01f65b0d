"""A character-level GPT on tiny Shakespeare, in nanoGPT's published CPU setting.

Data      tinyshakespeare, 1,115,394 characters (karpathy/char-rnn); the last tenth is `dev`. --data.path names the file,
          which may be packed (.gz)
Command   lepjax train experiments/shakespeare_char.py
Hardware  2 CPU cores
Measured  dev_loss 1.855 on all of dev (n=1), 2 min 10 s beside other work; with nanoGPT's cosine instead of the late decay
          1.898, without biases as well 1.901 (n=1 each). nanoGPT publishes 1.88, on 20 random batches

nanoGPT: `train_shakespeare_char.py` with --n_layer=4 --n_head=4 --n_embd=128 --block_size=64 --batch_size=12
--max_iters=2000 --lr_decay_iters=2000 --dropout=0.0; its learning rate from 1e-3 to 1e-4 after 100 steps of warmup,
beta2 0.99, weight decay 0.1 and clipping at 1.0 are kept; the rate stays at its peak for longer, and biases are GPT-2's.
"""

from lepjax.cli.train import main
from lepjax.core.optimizers import AdamW
from lepjax.core.schedules import WarmupStableDecay
from lepjax.data.text import TextFile
from lepjax.experiment import Experiment, Steps
from lepjax.models.gpt2 import Gpt2
from lepjax.run.text import TextSample
from lepjax.tasks.language_modeling import LanguageModeling


def experiment() -> Experiment:
    return Experiment(
        model=Gpt2(vocab_size=65, context=64, layers=4, heads=4, width=128, scan=False),
        task=LanguageModeling(),
        data=TextFile(path="$LEPJAX_TEST_DATA/lm/tinyshakespeare.txt.gz", batch_size=12, length=64, characters=True),
        optimizer=AdamW(
            learning_rate=1e-3,
            beta2=0.99,
            weight_decay=0.1,
            clip_norm=1.0,
            schedule=WarmupStableDecay(warmup=100, final=0.1, cooldown=0.4),
        ),
        length=Steps(2000),
        evaluate_every=Steps(500),
        evaluation_batch_size=96,
        final=(TextSample(prompt="ROMEO:\n", tokens=400),),
    )


if __name__ == "__main__":
    main(experiment)
