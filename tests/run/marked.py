"""A model of three layers, in one of which a marked record gives a number that is not finite."""

import dataclasses
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lepjax.core.optimizers import AdamW
from lepjax.experiment import Experiment, Steps
from lepjax.models.layers import embedding, linear, make_layers, run_layers
from lepjax.models.model import Model
from lepjax.ops.dropout import OFF
from lepjax.tasks.language_modeling import LanguageModeling
from tests.tiny import TinyText

RECORDS, RECORD, LAYER = 24, 13, 1  # three batches of 8: an epoch
SIZE = -(-(32 * (RECORDS + 1) + 1) * 10 // 9)
MARK = 1  # a byte that no text has


@dataclasses.dataclass(frozen=True)
class Marked(TinyText):
    """The first token of `record` is the mark."""

    record: int = RECORD

    def load(self):
        splits = super().load()
        return dataclasses.replace(splits, train=_Marked(splits.train, self.record))


class _Marked:
    def __init__(self, source, record):
        self.source, self.record = source, record
        self.digest = hashlib.sha256(f"{source.digest} {record}".encode()).hexdigest()

    rowwise = True

    def __len__(self):
        return len(self.source)

    def rows(self, ids, epochs):
        rows = self.source.rows(ids, epochs)
        first = np.where(ids == self.record, MARK, rows["tokens"][:, 0])
        return {**rows, "tokens": np.concatenate([first[:, None], rows["tokens"][:, 1:]], 1)}


@dataclasses.dataclass(frozen=True)
class Chain(Model):
    """Layers of a dense map and a function that does not like the mark: `log` of -1, or the `root` of 0."""

    vocab_size: int = 256
    width: int = 16
    trap: str = "log"
    scan: bool = True

    def module(self, policy, rngs):
        return ChainModule(self, policy, rngs)

    @property
    def stacks(self):
        return (("h",),) if self.scan else ()


class ChainModule(nnx.Module):
    def __init__(self, config, policy, rngs):
        self.embed = embedding(config.vocab_size, config.width, None, policy, rngs)
        self.h = make_layers(lambda r: Layer(config, policy, r), 3, config.scan, rngs)
        self.out = linear(config.width, config.vocab_size, (None, None), policy, rngs)

    def __call__(self, tokens, *, segments=None, drop=OFF):
        marked = (tokens == MARK)[..., None]

        def call(layer, x, index, _):
            return layer(x, marked & (index == LAYER)), None

        return self.out(run_layers(self.h, self.embed(tokens), call, None, "none")[0])


class Layer(nnx.Module):
    def __init__(self, config, policy, rngs):
        self.dense = linear(config.width, config.width, (None, None), policy, rngs)
        self.trap = {"log": Log, "root": Root}[config.trap]()

    def __call__(self, x, marked):
        return x + self.trap(self.dense(x), marked)


class Log(nnx.Module):
    def __call__(self, x, marked):
        return x + jnp.log(jnp.where(marked, -1.0, 1.0))


class Root(nnx.Module):
    """|x|, whose gradient at 0 is 0 / 0."""

    def __call__(self, x, marked):
        return jnp.sqrt(jnp.where(marked, 0.0, 1.0) * jax.lax.square(x))


def marked(run="", **changes):
    settings = {"length": Steps(6), "log_every": 1, "checkpoint_every": 0, "run_dir": str(run), "mesh": "data=1"}
    task, data = LanguageModeling(bytes=True), Marked(size=SIZE)
    model = Chain(**{name: changes.pop(name) for name in ("trap", "scan") if name in changes})
    return Experiment(model=model, task=task, data=data, optimizer=AdamW(learning_rate=1e-3), **{**settings, **changes})
