"""A task, an optimizer and a data source are one new file each. This is all three: lepjax was not touched."""

import dataclasses
import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from rich.console import Console

from lepjax.core.errors import UserError
from lepjax.core.fields import hparam
from lepjax.core.metrics import Mean
from lepjax.core.optimizers import AdamW, Optimizer
from lepjax.core.step import Term
from lepjax.data.source import Data, Splits
from lepjax.experiment import Experiment, Steps, build
from lepjax.models.model import Model
from lepjax.run.callbacks import Callback
from lepjax.run.train import train
from lepjax.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class Wave:
    """Points (x, sin x): records that are computed, not stored."""

    records: int
    first: float

    @property
    def digest(self):
        return hashlib.sha256(f"wave {self.records} {self.first}".encode()).hexdigest()

    def __len__(self):
        return self.records

    def rows(self, ids, epochs):
        x = (self.first + ids * 3.0 / self.records).astype(np.float32)[:, None]
        return {"x": x, "y": np.sin(x)}


@dataclasses.dataclass(frozen=True)
class Waves(Data):
    records: int = 200

    def load(self):
        return Splits(train=Wave(self.records, -1.5), evaluation={"near": Wave(50, -1.5), "odd": Wave(13, -1.4)})


@dataclasses.dataclass(frozen=True)
class Regression(Task):
    """Batch: `x`, `y` float32[rows, 1]. Huber's loss, whose `delta` is a hyperparameter of the task."""

    delta: float = hparam(1.0)

    def hparams(self):
        return {"delta": self.delta}

    def outputs(self, model, params, model_state, batch, drop, train):
        return model.apply(params, model_state, batch["x"], train=train)

    def terms(self, outputs, batch, hparams):
        loss = optax.losses.huber_loss(outputs, batch["y"], delta=hparams["delta"])[:, 0]
        return {"huber": Term((loss * batch["weight"]).sum(), batch["weight"].sum())}

    def metrics(self):
        return {"absolute_error": Mean()}

    def measure(self, outputs, batch, hparams):
        return {"absolute_error": (jnp.abs(outputs - batch["y"])[:, 0], batch["weight"])}


@dataclasses.dataclass(frozen=True)
class SoftSign(Optimizer):
    """Moves along tanh(gradient / softness) with momentum: sign descent where softness is 0."""

    softness: float = hparam(0.01)
    momentum: float = hparam(0.8)

    def direction(self, hparams, leaves):
        soft = optax.stateless(lambda updates, _: jax.tree.map(lambda g: jnp.tanh(g / hparams["softness"]), updates))
        return optax.chain(soft, optax.trace(hparams["momentum"]))


@dataclasses.dataclass(frozen=True)
class Mlp(Model):
    width: int = 16

    def module(self, policy, rngs):
        return nnx.Sequential(nnx.Linear(1, self.width, rngs=rngs), jnp.tanh, nnx.Linear(self.width, 1, rngs=rngs))


def experiment(tmp_path, **changes):
    return Experiment(
        **{
            "model": Mlp(),
            "task": Regression(),
            "data": Waves(batch_size=16),
            "optimizer": SoftSign(learning_rate=3e-3),
            "length": Steps(150),
            "log_every": 50,
            "run_dir": str(tmp_path / "run"),
            **changes,
        }
    )


def check_learned(experiment, *callbacks):
    outcome = train(experiment, callbacks=callbacks, console=Console(quiet=True))
    errors = {name: outcome.result[f"{name}_absolute_error"] for name in ("near", "odd")}
    assert max(errors.values()) < 0.1, errors
    return outcome


def test_they_learn_together(tmp_path):
    outcome = check_learned(experiment(tmp_path))
    lines = [json.loads(line) for line in outcome.directory.metrics.read_text().splitlines()]
    assert {"train_huber", "train_loss", "near_absolute_error"} <= set().union(*lines)
    assert outcome.result["tokens"] == 150 * 16  # examples, where there are no tokens


def test_without_a_step_they_do_not(tmp_path):
    with pytest.raises(AssertionError):
        check_learned(experiment(tmp_path, optimizer=SoftSign(learning_rate=0.0)))


class Hparams(Callback):
    """The live values, at the start of a run."""

    def started(self, loop):
        self.values = {name: float(value) for name, value in loop.state.hparams.items()}


def test_their_hyperparameters_are_applied_on_resume(tmp_path):
    first, second = Hparams(), Hparams()
    small = experiment(tmp_path, length=Steps(2), checkpoint_every=1)
    train(small, callbacks=[first], console=Console(quiet=True))
    assert {"softness", "momentum", "delta"} <= first.values.keys()
    optimizer, task = SoftSign(learning_rate=3e-3, softness=0.5), Regression(delta=0.25)
    changed = dataclasses.replace(small, optimizer=optimizer, task=task, length=Steps(3))
    outcome = train(changed, callbacks=[second], console=Console(quiet=True))
    assert outcome.result["steps"] == 3
    assert second.values == pytest.approx({**first.values, "softness": 0.5, "delta": 0.25, "decay_steps": 3.0})


class Frozen(Regression):
    """Sabotage: reads its field instead of the state."""

    def terms(self, outputs, batch, hparams):
        return super().terms(outputs, batch, {"delta": self.delta})


def test_their_hyperparameters_are_not_in_the_program(tmp_path):
    def program(task):
        built = build(experiment(tmp_path, task=task, mesh="data=1"))
        rows = built.batches()[0]
        return str(jax.make_jaxpr(built.step)(built.abstract, {**rows, "weight": np.ones(16, np.float32)}))

    assert program(Regression(delta=1.0)) == program(Regression(delta=0.25))
    assert program(Frozen(delta=1.0)) != program(Frozen(delta=0.25))


def test_two_parts_may_not_claim_one_name(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Greedy(Regression):
        def hparams(self):
            return {"momentum": 1.0}

    with pytest.raises(UserError, match="task: hyperparameter 'momentum' is claimed twice"):
        build(experiment(tmp_path, task=Greedy()))


@pytest.mark.parametrize(
    ("part", "missing"),
    [({"data": Data()}, "load"), ({"optimizer": Optimizer()}, "direction"), ({"model": Model()}, "module")],
    ids=["data", "optimizer", "model"],
)
def test_a_part_that_is_not_finished_says_what_is_missing(tmp_path, part, missing):
    with pytest.raises(TypeError, match=f"must define {missing}"):
        build(experiment(tmp_path, **part))


def test_a_part_can_be_exchanged_alone(tmp_path):
    check_learned(experiment(tmp_path, optimizer=AdamW(learning_rate=2e-2)))
