"""Llama 3.1 70B on 256 devices: the 8B recipe with other sizes, tensor-parallel over eight neighbours.

Data      as `llama_8b`
Command   lepjax train experiments/llama_70b.py --data-dir fineweb/sample/100BT
          lepjax train experiments/llama_70b.py:continued --model meta-llama/Llama-3.1-70B --data-dir mine
          on a laptop lepjax train experiments/llama_70b.py:tiny
Hardware  256 devices
Measured  not run. By arithmetic, 70,553,706,496 parameters and their optimizer hold 3.31 GB on each of 256 devices; the
          tests lower the whole step for them. Compiled for 256 simulated CPU devices it takes 36.4 GB of temporaries on
          each; other compilers decide anew

The peak learning rate is that of The Llama 3 Herd of Models (Grattafiori et al., 2024), table 3.
"""

from dataclasses import replace

from experiments import llama_8b
from lepjax.cli.train import main
from lepjax.experiment import Experiment
from lepjax.models.llama import Llama

LLAMA_31_70B = replace(llama_8b.LLAMA_31_8B, width=8192, mlp_width=28_672, layers=80, heads=64)
MESH = "fsdp=32,tensor=8"


def experiment(data_dir: str = "fineweb/sample/100BT", tokenizer: str = "meta-llama/Llama-3.1-70B") -> Experiment:
    base = llama_8b.experiment(data_dir, tokenizer)
    return replace(
        base,
        model=Llama(architecture=LLAMA_31_70B, remat="full"),
        optimizer=replace(base.optimizer, learning_rate=1.5e-4),
        mesh=MESH,
    )


def continued(model: str = "meta-llama/Llama-3.1-70B", data_dir: str = "mine") -> Experiment:
    """From its weights (a folder, or the hub), on one's own text, with a tenth of the learning rate."""
    base = llama_8b.continued(model, data_dir)
    return replace(base, optimizer=replace(base.optimizer, learning_rate=1.5e-5), mesh=MESH)


def tiny() -> Experiment:
    """That of the 8B model, from which only sizes and the mesh differ. On four devices: --mesh fsdp=2,tensor=2."""
    return llama_8b.tiny()


if __name__ == "__main__":
    main(experiment)
