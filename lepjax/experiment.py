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

from lepjax.core import fields, parameters, rng, sharding
from lepjax.core.errors import UserError
from lepjax.core.fields import hparam, runtime
from lepjax.core.functional import Functional
from lepjax.core.offload import check_host_memory, optimizer_on_host, visiting
from lepjax.core.optimizers import AdamW, Optimizer, freezing
from lepjax.core.plateau import Plateau
from lepjax.core.precision import Policy, policy, widened
from lepjax.core.sharding import Placement, state_shardings
from lepjax.core.state import State, as_leaves, create
from lepjax.core.step import Step, make_train_step
from lepjax.data.loader import Batches
from lepjax.data.plan import Indexed
from lepjax.data.source import Data, Source, Splits, Work
from lepjax.models.model import Model
from lepjax.tasks.task import Task, make_loss, make_measure

MOST_ROWS = 2**24  # of a batch


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
    ema: float | None = hparam(None)
    """Decay of an average of the parameters, which is then evaluated; None keeps none."""
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
    log_every: int = runtime(10)
    """Steps between lines of metrics.jsonl and the terminal."""
    max_skipped: int = runtime(20)
    """Non-finite steps in a row, as seen at logged steps, that end the run."""
    final: tuple[FinalEvaluation, ...] = runtime(())
    """What to compute once after training."""
    mesh: str = runtime("auto")
    """Devices per axis, such as data=2,fsdp=-1,tensor=2 (one -1 fills up); auto puts all on data."""
    allow_replication: tuple[str, ...] = runtime(())
    """Logical axes that may be replicated where they do not divide."""
    offload_optimizer: bool = runtime(False)
    """Keep the optimizer's state in the host's memory between steps."""
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
    step: Step
    measure: Callable[..., Any]
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


def build(experiment: Experiment, devices: list[jax.Device] | None = None, passes: float | None = None) -> Built:
    """Composes everything a run needs. Raises `UserError` for what does not fit, before anything is compiled.

    `passes` over the training records are what the plan's shapes are chosen for; None takes the experiment's length. A run
    keeps those it began with: other shapes would be another plan.
    """
    check_seed(experiment.seed)
    check_counts(experiment)
    devices = jax.devices() if devices is None else devices
    sizes = sharding.parse_mesh(experiment.mesh, len(devices))
    check_all_take_part(experiment.mesh, sizes, devices)
    placement = Placement(sharding.make_mesh(sizes, devices), allow_replication=experiment.allow_replication)
    check_batch_sizes(experiment, sizes)
    if experiment.offload_optimizer:
        check_host_memory(devices, "offload_optimizer")
    if getattr(experiment.model, "remat", "none") == "offload":
        check_host_memory(devices, "model.remat offload")
    precision = policy(experiment.precision)
    model = experiment.model.build(precision)
    placement.parameters(model.leaves)  # what does not divide is an error now, not after reading the data
    for axis, size in experiment.model.activations.items():
        placement.sharding((axis,), (size,), "model")
    splits = experiment.data.load()
    check_vocabulary(experiment, splits)
    check_labels(experiment, splits)
    task = experiment.task.on(splits)
    order = planned(experiment, splits, passes)
    work, total_steps = order.work, order.total_steps
    rows = experiment.evaluation_batch_size or experiment.data.batch_size
    rows = -(-rows // placement.batch_ways) * placement.batch_ways
    check_lengths(experiment, order)
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
        step=parts.step,
        measure=make_measure(task, model),
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
    check_records(splits)
    records, rows = len(splits.train), experiment.data.batch_size
    if passes is None:
        passes = experiment.length.in_steps(records / rows, records) * rows / records
    work = Work(passes, experiment.model.flops_per_token)
    source, plan = experiment.data.training(splits.train, experiment.seed, work)
    return Planned(source, plan, work, experiment.length.in_steps(plan.steps_per_epoch, plan.records))


@dataclasses.dataclass(frozen=True)
class Composed:
    """What training needs and no data determine: the step, and how a state begins and lies."""

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
        return create(params, model_state, opt_state, hparams, key, scale, ema=experiment.ema is not None)

    abstract = jax.eval_shape(fresh, experiment.seed, {})
    shardings = state_shardings(abstract, model.leaves, placement)
    if experiment.offload_optimizer:
        shardings, step = optimizer_on_host(shardings), visiting(step)
    abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
    return Composed(step, fresh, abstract, shardings)


def with_hparams(state: State, hparams: dict[str, float]) -> State:
    """The state with other hyperparameters, placed where the old ones were."""
    placed = {name: jax.device_put(x, state.hparams[name].sharding) for name, x in as_leaves(hparams).items()}
    return dataclasses.replace(state, hparams=placed)


def check_batch_sizes(experiment: Experiment, sizes: dict[str, int]) -> None:
    """Raises `UserError` for a batch that cannot be cut evenly over a mesh of these sizes and into microbatches."""
    check_rows(experiment)
    rows, ways = experiment.data.batch_size, math.prod(sizes[axis] for axis in sharding.Rules().batch)
    if rows % (ways * experiment.accumulate):
        raise UserError(
            f"batch size {rows} does not divide over {ways} devices x {experiment.accumulate} microbatches",
            where=f"mesh {experiment.mesh}",
            fix=f"Use a multiple of {ways * experiment.accumulate}, such as --data.batch-size "
            f"{-(-rows // (ways * experiment.accumulate)) * ways * experiment.accumulate}.",
        )


def check_rows(experiment: Experiment) -> None:
    """Raises `UserError` for a batch without rows, or with more than a host could hold the ids of."""
    rows, accumulate = experiment.data.batch_size, experiment.accumulate
    if accumulate < 1 or rows < 1:
        raise UserError(f"batch size {rows}, accumulate {accumulate}", where="experiment", fix="Use at least 1.")
    for name, size in {"data.batch_size": rows, "evaluation_batch_size": experiment.evaluation_batch_size}.items():
        if size > MOST_ROWS:
            raise UserError(f"{size} rows", where=name, fix=f"Use {MOST_ROWS} or fewer.")


def check_all_take_part(mesh: str, sizes: dict[str, int], devices: list[jax.Device]) -> None:
    """Raises `UserError` where a process of several would have nothing to compute."""
    used = math.prod(sizes.values())
    if jax.process_count() > 1 and used < len(devices):
        found = f"{used} of {len(devices)} devices, which belong to {jax.process_count()} processes"
        raise UserError(found, where=f"mesh {mesh}", fix="Use all devices, such as with one axis at -1.")


def check_vocabulary(experiment: Experiment, splits: Splits) -> None:
    """Raises `UserError` where the data has tokens the model does not know: looking them up would give NaN."""
    size = getattr(experiment.model, "vocab_size", None)
    needed = splits.vocabulary.size if splits.vocabulary is not None else splits.largest_token + 1
    if size is not None and needed > size:
        own = any(field.name == "vocab_size" for field in dataclasses.fields(experiment.model))
        part = "model" if own else "model.architecture"
        raise UserError(
            f"the data has {needed} tokens, the model {size}",
            where=f"{part}.vocab_size",
            fix=f"Pass --{part}.vocab-size {needed} or more.",
        )


def check_labels(experiment: Experiment, splits: Splits) -> None:
    """Raises `UserError` where the model's head has another number of classes than the data."""
    count = getattr(getattr(experiment.model, "head", None), "num_labels", None)
    if count is not None and splits.labels and count != len(splits.labels):
        raise UserError(
            f"the data has {len(splits.labels)} labels, the model's head {count}",
            where="model.head.num_labels",
            fix=f"Pass --model.head.num-labels {len(splits.labels)}.",
        )


def check_seed(seed: int) -> None:
    if not 0 <= seed < 2**31:
        raise UserError(f"{seed}", where="seed", fix="Use a whole number from 0 to 2147483647.")


def check_records(splits: Splits) -> None:
    """Raises `UserError` for a split without records."""
    for name, source in {"train": splits.train, **splits.evaluation, **splits.final}.items():
        if not len(source):
            raise UserError(
                f"there is no record to {'train on' if name == 'train' else 'score'}", where=f"data ({name})"
            )


def check_counts(experiment: Experiment) -> None:
    """Raises `UserError` for counts that the loop cannot use."""
    for name, least in {"log_every": 1, "max_skipped": 1, "checkpoint_every": 0, "evaluation_batch_size": 0}.items():
        if getattr(experiment, name) < least:
            raise UserError(f"{getattr(experiment, name)}", where=name, fix=f"Use {least} or more.")
    for name in ("early_stopping", "plateau"):
        rule = getattr(experiment, name)
        if rule is not None and rule.patience < 0:
            raise UserError(f"{rule.patience}", where=f"{name}.patience", fix="Use 0 or more.")


def check_lengths(experiment: Experiment, order: Planned) -> None:
    """Raises `UserError` for a run without a step, for steps that int32 cannot count, and for numbers that are none."""
    every = experiment.evaluate_every.in_steps(order.plan.steps_per_epoch, order.plan.records)
    if not 1 <= order.total_steps < 2**31:
        raise UserError(f"{order.total_steps} steps", where="length", fix="Use 1 to 2147483647.")
    if every < 0:
        raise UserError(f"every {every} steps", where="evaluate_every", fix="Use 0 (at the end only) or more.")
    for name, value in experiment.hparams(order.total_steps).items():
        if math.isnan(value):
            raise UserError("is not a number", where=name, fix="Use a number.")


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
