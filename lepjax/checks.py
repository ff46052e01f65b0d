"""What must hold before an experiment is built, each told in one line."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import jax

from lepjax.core import sharding
from lepjax.core.errors import UserError
from lepjax.data.source import Splits

if TYPE_CHECKING:
    from lepjax.experiment import Experiment, Planned

MOST_ROWS = 2**24  # of a batch


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
    """Raises `UserError` where the model (or its head) has another number of classes than the data."""
    head = getattr(experiment.model, "head", None)
    part, called = ("model", "model") if head is None else ("model.head", "model's head")
    count = getattr(experiment.model if head is None else head, "num_labels", None)
    if count is not None and splits.labels and count != len(splits.labels):
        raise UserError(
            f"the data has {len(splits.labels)} labels, the {called} {count}",
            where=f"{part}.num_labels",
            fix=f"Pass --{part}.num-labels {len(splits.labels)}.",
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
