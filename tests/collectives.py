"""Which collectives a compiled program holds, and along which mesh axes."""

from __future__ import annotations

import re

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


def collectives(compiled, mesh) -> set[tuple[str, tuple[str, ...]]]:
    """{(kind, mesh axes along which the members of its groups differ)}."""
    found = set()
    for line in compiled.as_text().splitlines():
        match = re.search(rf"= .*? ({'|'.join(KINDS)})(-start)?\(", line)
        if match and (groups := _groups(line)) is not None:
            found.add((match[1], _axes(groups[0], mesh)))
    return found


def _groups(line: str) -> list[list[int]] | None:
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


def _axes(group: list[int], mesh) -> tuple[str, ...]:
    places = np.array(np.unravel_index(group, tuple(mesh.shape.values())))
    return tuple(name for name, row in zip(mesh.shape, places, strict=True) if len(set(row)) > 1)
