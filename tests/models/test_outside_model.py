"""A model family is one new file. This is that file: it trains, and lepjax was not touched."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import PartitionSpec
from rich.console import Console

from lepjax.core.fields import hparam
from lepjax.core.optimizers import AdamW
from lepjax.data.text import TextFile
from lepjax.experiment import Experiment, Steps, build
from lepjax.models.model import Model
from lepjax.ops.dropout import OFF
from lepjax.run.train import train
from lepjax.tasks.language_modeling import LanguageModeling


@dataclasses.dataclass(frozen=True)
class Window(Model):
    """Predicts a token from the last few alone (Bengio et al., A Neural Probabilistic Language Model, 2003)."""

    vocab_size: int = 256
    width: int = 16
    reach: int = 3
    dropout: float | None = hparam(0.1)

    def module(self, policy, rngs):
        return WindowModule(self, policy, rngs)

    def hparams(self):
        return {} if self.dropout is None else {"dropout": self.dropout}


class WindowModule(nnx.Module):
    def __init__(self, config, policy, rngs):
        dtypes = {"dtype": policy.compute, "param_dtype": policy.param, "rngs": rngs}
        self.reach = config.reach
        axes = {"embedding_metadata": {"axes": ("vocab", "embed")}}
        self.embed = nnx.Embed(config.vocab_size, config.width, **axes, **dtypes)
        axes = {"kernel_metadata": {"axes": ("embed", "mlp")}, "bias_metadata": {"axes": ("mlp",)}}
        self.hidden = nnx.Linear(config.reach * config.width, 2 * config.width, **axes, **dtypes)
        self.out = nnx.Linear(2 * config.width, config.vocab_size, **dtypes)  # no axes: replicated

    def __call__(self, tokens, *, segments=None, drop=OFF):
        x = self.embed(tokens)
        past = [jnp.pad(x, ((0, 0), (i, 0), (0, 0)))[:, : x.shape[1]] for i in range(self.reach)]
        return self.out(drop.at(0)(jax.nn.relu(self.hidden(jnp.concatenate(past, -1)))))


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outside")
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog; " * 40)
    return Experiment(
        model=Window(),
        task=LanguageModeling(bytes=True),
        data=TextFile(batch_size=16, path=str(folder / "text.txt"), length=32, dev=0.2),
        optimizer=AdamW(learning_rate=1e-2),
        length=Steps(40),
        log_every=1,
        run_dir=str(folder / "run"),
    )


def losses(experiment):
    outcome = train(experiment, console=Console(quiet=True))
    assert outcome.code == 0 and outcome.result["steps"] == 40
    lines = map(json.loads, outcome.directory.metrics.read_text().splitlines())
    return [line["train_loss"] for line in lines if "train_loss" in line], outcome.result


def check_learned(experiment):
    curve, result = losses(experiment)
    assert len(curve) == 40
    assert abs(curve[0] - math.log(256)) < 1.0
    assert curve[-1] < 0.6 * curve[0] and result["dev_loss"] < 0.6 * curve[0]


def test_it_learns(experiment):
    check_learned(experiment)
    check_learned(experiment)  # a finished run: experiment.json found the class again and the result is read back


def test_without_a_learning_rate_it_does_not(experiment, tmp_path):
    still = dataclasses.replace(experiment, optimizer=AdamW(learning_rate=0.0), run_dir=str(tmp_path / "run"))
    with pytest.raises(AssertionError):
        check_learned(still)


def test_a_mesh_places_it(experiment):
    """The logical axes it names are understood; what has no names is replicated."""
    placed = build(dataclasses.replace(experiment, mesh="data=2,fsdp=2,tensor=2")).shardings.params
    assert placed["embed"]["embedding"].spec == PartitionSpec("tensor", "fsdp")
    assert placed["hidden"]["kernel"].spec == PartitionSpec("fsdp", "tensor")
    assert placed["out"]["kernel"].spec == PartitionSpec()


def test_a_model_must_define_its_module():
    with pytest.raises(TypeError, match="Model must define module"):
        Model().build(None)
