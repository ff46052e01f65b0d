"""Models from folders, as tests of decoders need them."""

import jax
from rich.console import Console

from lepjax.cli import main as command
from lepjax.core import parameters
from lepjax.core.precision import FLOAT32
from lepjax.experiment import Steps
from lepjax.models import weights
from lepjax.models.gpt2 import Gpt2
from lepjax.models.llama import Llama
from lepjax.models.llama_family import LlamaArchitecture
from lepjax.run.train import train
from tests.tiny import tiny

SIZES = {"vocab_size": 256, "context": 32, "layers": 2, "heads": 4, "width": 32}
SMALL = {
    Gpt2: Gpt2(**SIZES, dropout=0.1),
    Llama: Llama(architecture=LlamaArchitecture(**SIZES, kv_heads=2, mlp_width=48)),
}


def loaded(folder, kind=Llama, **options):
    """(recipe, functional model, parameters); nothing of the folder is left over and nothing is missing."""
    recipe = kind(pretrained=str(folder), **options)
    model = recipe.build(FLOAT32)
    read = weights.read(folder, model.leaves, recipe.arch.naming)
    assert (read.new, read.unused) == ((), ())
    return recipe, model, jax.tree.map(lambda leaf: read.values[leaf.name], model.leaves, is_leaf=parameters.is_leaf)


def export_of_two_steps(kind, folder, **changes):
    """A small model of this kind, trained in `folder`/run and exported by the command; the folder that it wrote."""
    values = {"model": SMALL[kind], "length": Steps(2), "mesh": "data=1", "run_dir": str(folder / "run"), **changes}
    assert train(tiny(**values), console=Console(quiet=True)).code == 0
    assert command.run(["export", str(folder / "run"), str(folder / "out")]) == 0
    return folder / "out"
