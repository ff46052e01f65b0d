"""An Experiment: a page of frozen dataclasses that says what is learned, from what, how, and for how long.

Composition only. `build` turns it into pure functions; `lepjax.run` runs those.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lepjax import checks
from lepjax.core import fields, parameters, rng, sharding
from lepjax.core.errors import UserError
from lepjax.core.fields import hparam, runtime
from lepjax.core.functional import Functional
from lepjax.core.offload import check_host_memory, optimizer_on_host, visiting
from lepjax.core.optimizers import AdamW, Optimizer, freezing
from lepjax.core.plateau import Plateau
from lepjax.core.precision import Policy, policy, widened
from lepjax.core.sharding import Placement, state_shardings
from lepjax.core.spikes import Spikes
from lepjax.core.state import State, create
from lepjax.core.step import Loss, Step, make_train_step
from lepjax.data.loader import Batches
from lepjax.data.plan import Indexed
from lepjax.data.source import Data, Source, Splits, Work
from lepjax.models.model import Model
from lepjax.tasks.task import Task, make_loss, make_measure


@dataclasses.dataclass(frozen=True)
class Length:
    """How long to train, or how often to evaluate."""

    def in_steps(self, steps_per_epoch: float, records: int) -> int:
        """Optimizer steps, where an epoch has `records` records and takes `steps_per_epoch`."""
        raise TypeError(f"{type(self).__name__} must define in_steps")


@dataclasses.dataclass(frozen=True)
class Steps(Length):
    """A number of optimizer steps."""

    steps: int = 1000
    """Optimizer steps."""

    def in_steps(self, steps_per_epoch: float, records: int) -> int:
        return self.steps


@dataclasses.dataclass(frozen=True)
class Epochs(Length):
    """Passes over the training data, rounded up to whole steps."""

    epochs: float = 1.0
    """Passes over the data."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.epochs < math.inf:  # also NaN
            raise UserError(f"{self.epochs} epochs", where="length", fix="Use a finite number of them.")

    def in_steps(self, steps_per_epoch: float, records: int) -> int:
        return math.ceil(round(self.epochs * steps_per_epoch, 6))  # 3 * (7 / 3) is a little more than 7


@dataclasses.dataclass(frozen=True)
class Examples(Length):
    """Training examples seen, rounded up to whole steps."""

    examples: int = 100_000
    """Examples."""

    def in_steps(self, steps_per_epoch: float, records: int) -> int:
        return Epochs(self.examples / records).in_steps(steps_per_epoch, records)


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """Stop when a metric has not improved for a while."""

    monitor: str = "dev_loss"
    """The metric to watch."""
    mode: str = "min"
    """Whether lower (`min`) or higher (`max`) is better."""
    patience: int = 3
    """Evaluations without an improvement that are tolerated."""
    min_delta: float = 0.0
    """The change that counts as an improvement."""


@dataclasses.dataclass(frozen=True)
class FinalEvaluation:
    """Something computed once after training; see `run.final`. Derive a dataclass and define `evaluate`."""

    def evaluate(self, trained: Any) -> Any:
        raise TypeError(f"{type(self).__name__} must define evaluate")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A run is a pure function of these fields, the data and the seed."""

    model: Model
    """What is trained."""
    task: Task
    """What is learned."""
    data: Data
    """From what."""
    optimizer: Optimizer = AdamW()
    """How."""
    length: Length = hparam(Steps(1000))
    """For how long."""
    precision: str = "float32"
    """Compute dtype: float32, bfloat16 or float16 (with a dynamic loss scale). Parameters stay float32, but for
    bfloat16_stored."""
    accumulate: int = 1
    """Microbatches per optimizer step."""
    ema: float | None = hparam(None, leaf="ema_decay")
    """Decay of an average of the parameters, which is then evaluated; None keeps none."""
    spikes: Spikes = Spikes()
    """What to do about loss spikes: SkipSpikes or RewindSpikes of `core.spikes`; by default nothing."""
    seed: int = 0
    """Seeds initialisation, data order and dropout."""
    best: str = runtime("")
    """The metric whose best checkpoint is kept, such as dev_loss; empty keeps the last only."""
    best_mode: str = runtime("min")
    """Whether lower (`min`) or higher (`max`) is better."""
    early_stopping: EarlyStopping | None = runtime(None)
    """When to stop before the end."""
    plateau: Plateau | None = runtime(None)
    """When to lower the learning rate."""
    evaluate_every: Length = runtime(Steps(0))
    """Between evaluations; 0 evaluates at the end only."""
    evaluation_batch_size: int = runtime(0)
    """Rows per evaluation batch; 0 takes the training batch size."""
    checkpoint_every: int = runtime(1000)
    """Steps between checkpoints; the last step is always saved."""
    must_save: bool = runtime(True)
    """Whether a checkpoint that cannot be written ends the run; otherwise it is told and done without."""
    log_every: int = runtime(10)
    """Steps between lines of metrics.jsonl and the terminal."""
    max_skipped: int = runtime(20)
    """Skipped steps in a row, as seen at logged steps, that end the run."""
    final: tuple[FinalEvaluation, ...] = runtime(())
    """What to compute once after training."""
    mesh: str = runtime("auto")
    """Devices per axis, such as data=2,fsdp=-1,tensor=2 (one -1 fills up); auto puts all on data."""
    allow_replication: tuple[str, ...] = runtime(())
    """Logical axes that may be replicated where they do not divide."""
    offload_optimizer: bool = runtime(False)
    """Keep the optimizer's state in the host's memory between steps."""
    readers: int = runtime(1)
    """Threads that read training data ahead; 0 reads between two steps."""
    watchdog: float = runtime(600.0)
    """Seconds without a step, or ten times that of compiling and saving, after which stacks are dumped and the process ends
    with exit code 75; 0: never."""
    run_dir: str = runtime("")
    """Where the run lives; empty: runs/<experiment>/<id>."""
    debug: bool = runtime(False)
    """Run the step without jit, print every module's output shape and stop at the first that is not finite."""

    def hparams(self, total_steps: int) -> dict[str, float]:
        """Initial values of all hyperparameter leaves. Raises `UserError` where two parts claim one name."""
        parts = {
            "optimizer": self.optimizer.hparams(total_steps),
            "model": self.model.hparams(),
            "task": self.task.hparams(),
            "spikes": self.spikes.hparams(),
            "experiment": {} if self.ema is None else {"ema_decay": self.ema},
        }
        merged: dict[str, float] = {}
        for part, values in parts.items():
            if twice := sorted(set(merged) & set(values)):
                raise UserError(f"hyperparameter {twice[0]!r} is claimed twice", where=part)
            merged.update(values)
        return merged


@dataclasses.dataclass(frozen=True)
class Built:
    """An experiment as pure functions, and the shapes and shardings to run them with."""

    experiment: Experiment
    model: Functional
    policy: Policy
    placement: Placement
    splits: Splits
    source: Source
    """The training source as the plan reads it."""
    plan: Indexed
    scoring: dict[str, tuple[Source, Any]]
    """The same for every split that is scored, by name."""
    work: Work
    total_steps: int
    loss: Loss
    step: Step
    measure: Callable[..., Any]
    fresh: Callable[[Any, dict[str, Any]], State]
    """`fresh(seed, weights)`, pure: the state before step 0."""
    init: Callable[[], State]
    abstract: State
    shardings: State

    @property
    def evaluate_every(self) -> int:
        """Steps between evaluations; 0: at the end only."""
        every = self.experiment.evaluate_every
        return every.in_steps(self.plan.steps_per_epoch, self.plan.records)

    def batches(self, count: int = 1) -> Batches:
        """The first `count` batches of the plan, as far as this process holds them."""
        return Batches(self.source, self.plan, count, self.placement.part(self.experiment.data.batch_size))

    def scored(self, split: str) -> Batches:
        """All batches of an evaluation split, as far as this process holds them."""
        source, plan = self.scoring[split]
        return Batches(source, plan, len(plan), self.placement.part(len(plan.batch(0)[0])))


def build(
    experiment: Experiment,
    devices: list[jax.Device] | None = None,
    passes: float | None = None,
    splits: Splits | None = None,
) -> Built:
    """Composes everything a run needs. Raises `UserError` for what does not fit, before anything is compiled.

    `passes` over the training records are what the plan's shapes are chosen for; None takes the experiment's length. A run
    keeps those it began with: other shapes would be another plan. `splits` are the experiment's data, where they are read
    already.
    """
    checks.check_seed(experiment.seed)
    checks.check_counts(experiment)
    devices = jax.devices() if devices is None else devices
    sizes = sharding.parse_mesh(experiment.mesh, len(devices))
    checks.check_all_take_part(experiment.mesh, sizes, devices)
    placement = Placement(sharding.make_mesh(sizes, devices), allow_replication=experiment.allow_replication)
    checks.check_batch_sizes(experiment, sizes)
    if experiment.offload_optimizer:
        check_host_memory(devices, "offload_optimizer")
    if getattr(experiment.model, "remat", "none") == "offload":
        check_host_memory(devices, "model.remat offload")
    precision = policy(experiment.precision)
    model = experiment.model.build(precision)
    placement.parameters(model.leaves)  # what does not divide is an error now, not after reading the data
    for axis, size in experiment.model.activations.items():
        placement.sharding((axis,), (size,), "model")
    splits = experiment.data.load() if splits is None else splits
    checks.check_vocabulary(experiment, splits)
    checks.check_labels(experiment, splits)
    task = experiment.task.on(splits)
    order = planned(experiment, splits, passes)
    work, total_steps = order.work, order.total_steps
    rows = experiment.evaluation_batch_size or experiment.data.batch_size
    rows = -(-rows // placement.batch_ways) * placement.batch_ways
    checks.check_lengths(experiment, order)
    scored = {**splits.evaluation, **splits.final}
    scoring = {name: experiment.data.scoring(source, rows, work) for name, source in scored.items()}
    parts = compose(experiment, placement, precision, model, task, total_steps)

    def init() -> State:
        weights = experiment.model.weights(model.leaves)
        return jax.jit(parts.fresh, out_shardings=parts.shardings)(experiment.seed, weights)

    return Built(
        experiment=experiment,
        model=model,
        policy=precision,
        placement=placement,
        splits=splits,
        source=order.source,
        plan=order.plan,
        scoring=scoring,
        work=work,
        total_steps=total_steps,
        loss=parts.loss,
        step=parts.step,
        measure=make_measure(task, model),
        fresh=parts.fresh,
        init=init,
        abstract=parts.abstract,
        shardings=parts.shardings,
    )


@dataclasses.dataclass(frozen=True)
class Planned:
    """Which records make which batch."""

    source: Source
    """The training source as the plan reads it."""
    plan: Indexed
    work: Work
    total_steps: int


def planned(experiment: Experiment, splits: Splits, passes: float | None = None) -> Planned:
    """The order of the training data, which neither devices nor weights determine. `passes` as in `build`."""
    checks.check_records(splits)
    records, rows = len(splits.train), experiment.data.batch_size
    if passes is None:
        passes = experiment.length.in_steps(records / rows, records) * rows / records
    work = Work(passes, experiment.model.flops_per_token)
    source, plan = experiment.data.training(splits.train, experiment.seed, work)
    return Planned(source, plan, work, experiment.length.in_steps(plan.steps_per_epoch, plan.records))


@dataclasses.dataclass(frozen=True)
class Composed:
    """What training needs and no data determine: the loss, the step, and how a state begins and lies."""

    loss: Loss
    step: Step
    fresh: Callable[[Any, dict[str, Any]], State]
    """`fresh(seed, weights)`; the seed is an argument: as a constant it would compile initialisation anew for every seed."""
    abstract: State
    shardings: State


def compose(
    experiment: Experiment, placement: Placement, precision: Policy, model: Functional, task: Task, total_steps: int
) -> Composed:
    """The step and the state for a placement, whose mesh may be abstract. Nothing is computed."""
    hparams = experiment.hparams(total_steps)
    optimizer = experiment.optimizer.build(model.leaves)
    loss = freezing(make_loss(task, model), experiment.optimizer.frozen(model.leaves))
    step = make_train_step(loss, optimizer, experiment.optimizer.schedule, precision, experiment.accumulate)

    def fresh(seed: Any, weights: dict[str, Any]) -> State:
        params, model_state = model.init(rng.seed_key(seed, rng.INIT))
        params = parameters.replaced(params, model.leaves, weights)
        opt_state = optimizer(hparams).init(widened(params))
        key = rng.seed_key(seed, rng.TRAIN)
        scale = precision.loss_scale()
        ema, guard = experiment.ema is not None, experiment.spikes.guard()
        return create(params, model_state, opt_state, hparams, key, scale, ema, guard)

    abstract = jax.eval_shape(fresh, experiment.seed, {})
    shardings = state_shardings(abstract, model.leaves, placement)
    if experiment.offload_optimizer:
        shardings, step = optimizer_on_host(shardings), visiting(step)
    abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
    return Composed(loss, step, fresh, abstract, shardings)


def with_hparams(state: State, hparams: dict[str, float]) -> State:
    """The state with other hyperparameters, placed where the old ones were."""
    values = {name: np.asarray(value, np.float32) for name, value in hparams.items()}  # on the host: nothing compiles
    placed = {name: jax.device_put(x, state.hparams[name].sharding) for name, x in values.items()}
    return dataclasses.replace(state, hparams=placed)


# ---- identity ----


def identity(experiment: Experiment) -> str:
    """Hash of the identity fields: two experiments with the same one are the same run."""
    # An hparam that is None is not in the program at all: its absence is part of the identity, its value is not.
    values = {
        path: value
        for path, kind, value in fields.walk(experiment)
        if kind == fields.IDENTITY or (kind == fields.HPARAM and value is None)
    }
    text = json.dumps(values, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def differences(old: Experiment, new: Experiment, kind: str) -> list[tuple[str, Any, Any]]:
    """`(path, old value, new value)` of the fields of one kind that differ."""
    before = {path: value for path, k, value in fields.walk(old) if k == kind}
    after = {path: value for path, k, value in fields.walk(new) if k == kind}
    return [
        (p, before.get(p), after.get(p)) for p in sorted(before.keys() | after.keys()) if before.get(p) != after.get(p)
    ]


def describe(model: Functional, placement: Placement) -> list[sharding.Explained]:
    """One line per parameter: how it is placed."""
    return sharding.explain(model.leaves, dict(placement.mesh.shape), placement.rules, placement.allow_replication)


def parameter_count(model: Functional) -> int:
    return parameters.count(model.leaves)
