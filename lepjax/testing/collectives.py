"""What devices tell each other in a compiled program: how often, how many bytes, along which axes of the mesh."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from jax.sharding import AbstractMesh, Mesh

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BITS = {"pred": 8, "bf16": 16, **{f"{k}{n}": n for k in "sufc" for n in (2, 4, 8, 16, 32, 64, 128)}}
_OPERATION = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_CALLED = re.compile(r"(?:to_apply|calls|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'known_trip_count"?:\s*\{\s*"n":\s*"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Collective:
    """Operations of one kind along the same mesh axes, in one run of the program.

    `count`: how often they run; those inside a loop of known length count once for each turn. `bytes`: what they leave
    on each device (for a reduce-scatter: what they take from it), all together. Branches count as if all were taken.
    """

    kind: str
    axes: tuple[str, ...]
    count: int
    bytes: int


def collectives(compiled: Any, mesh: Mesh | AbstractMesh) -> tuple[Collective, ...]:
    """All of a program, `jax.jit(...).lower(...).compile()` for the devices of `mesh`, by kind and axes.

    Read from its optimised HLO text, so it is what this backend really does.
    """
    computations, entry = _computations(compiled.as_text().splitlines())
    counts: dict[tuple[str, tuple[str, ...]], list[int]] = collections.defaultdict(lambda: [0, 0])
    for name, turns in _turns(computations, entry).items():
        for line in computations[name]:
            operation = _OPERATION.search(line)
            groups = _groups(line, mesh.size) if operation else None
            axes = _axes(groups, mesh) if groups else ()
            if operation is None or not groups or not axes:
                continue
            kind = operation[2]
            found = counts[kind, axes]
            found[0] += turns
            ways = len(groups[0]) if kind == "reduce-scatter" else 1
            found[1] += turns * ways * _bytes(operation[1], started=operation[3] is not None and kind != "all-reduce")
    return tuple(Collective(kind, axes, count, size) for (kind, axes), (count, size) in sorted(counts.items()))


@dataclasses.dataclass(frozen=True)
class Budget:
    """The most that one kind of collective may cost in one run of the program."""

    count: int
    bytes: float = math.inf


def assert_collective_budget(found: Iterable[Collective], budget: Mapping[str, Budget]) -> None:
    """Each kind, over all axes, stays within its budget; a kind without one must not occur."""
    over = []
    for kind in KINDS:
        same = [c for c in found if c.kind == kind]
        count, size = sum(c.count for c in same), sum(c.bytes for c in same)
        allowed = budget.get(kind, Budget(0))
        if count > allowed.count or size > allowed.bytes:
            where = ", ".join("+".join(c.axes) for c in same)
            over.append(
                f"{kind}: {count} of {size:,} bytes along {where}, allowed {allowed.count} of {allowed.bytes:,}"
            )
    assert not over, "; ".join(over)


def _computations(lines: Iterable[str]) -> tuple[dict[str, list[str]], str]:
    """{name: its instructions}, and the name of the one that runs first."""
    found: dict[str, list[str]] = {}
    entry = current = ""
    for line in lines:
        header = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if header:
            current = header[2]
            found[current] = []
            entry = current if header[1] else entry
        elif current:
            found[current].append(line)
    return found, entry


def _turns(computations: Mapping[str, list[str]], entry: str) -> dict[str, int]:
    """How often each computation runs, for those that run."""
    turns: dict[str, int] = collections.defaultdict(int)
    queue = [(entry, 1)]
    while queue:
        name, times = queue.pop()
        turns[name] += times
        for line in computations[name]:
            trips = _TRIPS.search(line)
            inner = times * (int(trips[1]) if trips and " while(" in line else 1)
            queue += [(called, inner) for called in _called(line) if called in computations]
    return turns


def _called(line: str) -> Iterator[str]:
    yield from _CALLED.findall(line)
    for branches in _BRANCHES.findall(line):
        yield from (name.strip().lstrip("%") for name in branches.split(","))


def _bytes(shapes: str, started: bool) -> int:
    """Of the result; a started operation's result holds its operands first."""
    sizes = [
        BITS[kind] * math.prod(int(n) for n in dims.split(",") if n) // 8
        for kind, dims in re.findall(r"\b(pred|bf16|[sufc]\d+)\w*\[([\d,]*)\]", shapes)
    ]
    if not started:
        return sum(sizes)
    operands = [size for size in sizes if size > 4] if len(sizes) == 4 else sizes  # a permutation has two counters more
    return sum(operands[len(operands) // 2 :])


def _groups(line: str, count: int) -> list[list[int]] | None:
    if "replica_groups={}" in line:
        return [list(range(count))]
    if match := re.search(r"replica_groups=\{(\{[\d,{} ]*\})\}", line):
        return [[int(n) for n in group.split(",")] for group in re.findall(r"\{([\d, ]+)\}", match[1])]
    if match := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line):
        shape, dims = _numbers(match[1]), _numbers(match[2])
        devices = np.arange(np.prod(dims)).reshape(dims)
        devices = devices.transpose(_numbers(match[3])) if match[3] else devices
        return devices.reshape(shape).tolist()
    if match := re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}", line
    ):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        shape = [int(size) for size in sizes.values()]
        devices = np.arange(np.prod(shape))
        if match[2]:
            devices = devices.reshape(_numbers(match[2]))
            devices = devices.transpose(_numbers(match[3])) if match[3] else devices
        grouped = [list(sizes).index(name) for name in re.findall(r"'(\w+)'", match[4])]
        rest = [i for i in range(len(shape)) if i not in grouped]
        devices = devices.reshape(shape).transpose(rest + grouped)
        return devices.reshape(-1, int(np.prod([shape[i] for i in grouped]))).tolist()
    if match := re.search(r"source_target_pairs=\{(\{[\d,{} ]*\})\}", line):
        return [[int(n) for n in pair.split(",")] for pair in re.findall(r"\{([\d, ]+)\}", match[1])]
    return None


def _numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]


def _axes(groups: list[list[int]], mesh: Mesh | AbstractMesh) -> tuple[str, ...]:
    """The mesh axes along which members of a group differ."""
    places = [np.array(np.unravel_index(group, tuple(mesh.shape.values()))) for group in groups]
    return tuple(name for i, name in enumerate(mesh.shape) if any(len(set(place[i])) > 1 for place in places))
