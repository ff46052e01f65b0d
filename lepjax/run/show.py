"""What a person sees before and after training."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import PartitionSpec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lepjax import experiment as experiments
from lepjax.core.sharding import Explained
from lepjax.experiment import Built, Experiment
from lepjax.run.final import Section
from lepjax.run.progress import in_notebook


def before_training(console: Console, experiment: Experiment, built: Built, path: pathlib.Path) -> None:
    """Devices, mesh, parameter table, tokens per step, and the plan in one line."""
    devices = jax.devices()
    sizes = {name: size for name, size in built.placement.mesh.shape.items() if size > 1}
    mesh = ", ".join(f"{name}={size}" for name, size in sizes.items()) or "one device"
    used = built.placement.mesh.size
    note = f" ({used} of {len(devices)} devices used)" if used < len(devices) else ""
    say(console, f"devices  {len(devices)} x {devices[0].device_kind}, {jax.process_count()} process(es)")
    say(console, f"mesh     {mesh}{note}")
    rows = experiments.describe(built.model, built.placement)
    if in_notebook():
        say(console, f"model    {len(rows)} arrays, {sum(math.prod(row.shape) for row in rows):,} parameters")
    else:
        parameter_table(console, layers_folded(rows))
    for line in kept_whole(rows, built):
        say(console, f"whole    {line}")
    for note in built.splits.notes:
        say(console, f"data     {note}")
    looked_at = built.batches(min(built.total_steps, 16 if built.plan.note else 1))  # of unequal batches, a few
    shares = 1 if looked_at.part is None else looked_at.part.shares
    tokens = round(shares * sum(experiment.task.tokens(looked_at[i]) for i in range(len(looked_at))) / len(looked_at))
    unit = experiment.task.unit
    batch = f"{experiment.data.batch_size} rows" + (
        f" in {experiment.accumulate} microbatches" * (experiment.accumulate > 1)
    )
    say(console, f"step     {tokens:,} {unit} ({batch}), {built.policy.name}")
    epochs = built.total_steps / built.plan.steps_per_epoch
    records = built.plan.records
    say(
        console,
        f"plan     {built.total_steps:,} steps = {epochs:.3g} epochs of {records:,} records = "
        f"{built.total_steps * tokens:,} {unit}; the time is estimated after the first steps",
    )
    if built.plan.note:
        say(console, f"shapes   {built.plan.note}")
    say(console, f"run      {path}")


def kept_whole(rows: Sequence[Explained], built: Built) -> list[str]:
    """In words, what `allow_replication` keeps whole on every device because it does not divide over the mesh."""
    mesh, rules, allowed = built.placement.mesh, built.placement.rules, built.placement.allow_replication
    named = [(row.name, axis, size) for row in rows for axis, size in zip(row.axes, row.shape, strict=True)]
    named += [("model", axis, size) for axis, size in built.experiment.model.activations.items()]
    lines = []
    for name, axis, size in named:
        over = [mesh_axis for mesh_axis in rules.of(axis) if mesh.shape[mesh_axis] > 1]
        ways = math.prod(mesh.shape[mesh_axis] for mesh_axis in over)
        if axis in allowed and size % ways:
            lines.append(f"{name}: {axis} of size {size} is not cut over {' x '.join(over)} ({ways} devices)")
    return lines


def layers_folded(rows: Sequence[Explained]) -> list[Explained]:
    """Equal parameters of all layers as one line, as if they were stacked. `lepjax explain` shows each alone."""
    groups: dict[Any, list[Explained]] = {}
    for row in rows:
        name = re.sub(r"\.\d+\.", ".*.", row.name)
        groups.setdefault((name, row.shape, row.dtype, row.axes, row.spec), []).append(row)
    return [same[0] if len(same) == 1 else _folded(key[0], same) for key, same in groups.items()]


def _folded(name: str, same: list[Explained]) -> Explained:
    one = same[0]
    return dataclasses.replace(
        one,
        name=name,
        shape=(len(same), *one.shape),
        axes=("layers", *one.axes),
        spec=PartitionSpec(None, *one.spec) if any(one.spec) else one.spec,
        bytes=sum(row.bytes for row in same),
        bytes_per_device=sum(row.bytes_per_device for row in same),
    )


def parameter_table(console: Console, rows: Sequence[Explained]) -> None:
    """One line per parameter. As wide as it needs: columns cut short in a narrow pipe would say nothing."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("parameter", "shape", "dtype", "logical axes", "spec"):
        table.add_column(name, no_wrap=True)
    for name in ("bytes", "per device"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        axes = ", ".join(str(axis) for axis in row.axes)
        table.add_row(
            row.name,
            " x ".join(map(str, row.shape)),
            row.dtype,
            axes,
            spec_text(row.spec),
            f"{row.bytes:,}",
            f"{row.bytes_per_device:,}",
        )
    total, local = sum(row.bytes for row in rows), sum(row.bytes_per_device for row in rows)
    count = sum(math.prod(row.shape) for row in rows)
    table.add_row("total", f"{count:,} parameters", "", "", "", f"{total:,}", f"{local:,}", style="bold")
    wide = console if console.is_terminal else Console(file=console.file, width=200, quiet=console.quiet)
    wide.print(table)


def spec_text(spec: PartitionSpec) -> str:
    parts = ["-" if entry is None else entry if isinstance(entry, str) else "+".join(entry) for entry in spec]
    return ", ".join(parts) or "replicated"


def result(console: Console, values: dict[str, Any], sections: Sequence[Section]) -> None:
    """The final numbers, and a section per final evaluation."""
    for section in sections:
        say(console, f"\n{section.title}")
        width = max((len(label) for label, _ in section.table), default=0)
        for label, value in section.table:
            say(console, f"  {label:<{width}}  {value:.4f}")
        if section.text:
            console.print(Text(section.text))
    skip = {"seconds", "reason", "status", "best", "total_steps", "tokens", "skipped", "steps", "checkpoints"}
    shown = {name: value for name, value in values.items() if name not in skip}
    if shown:
        say(
            console,
            "\nresult   " + ", ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items()),
        )
    if best := values.get("best"):
        say(console, f"best     {best['metric']} {best['value']} at step {best['step']}")
    seconds = ", ".join(f"{name} {spent:.1f}" for name, spent in values["seconds"].items() if spent >= 0.05)
    say(console, f"seconds  {seconds}")


def say(console: Console, line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True, markup=False)
