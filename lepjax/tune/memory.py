"""What a program needs, and how much memory a device has for one job."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import jax

from lepjax.core.errors import UserError

SHARE = 0.9  # of an accelerator's memory: the rest is lost between arrays
HOST_SHARE = 0.5  # of what the host has free: where it runs out, the system kills processes instead of telling


def device_memory(device: jax.Device, count: int) -> float:
    """Bytes that a job may take on each of `count` devices like this one. CPU devices share the host's memory.

    Raises `UserError` for an accelerator that does not tell.
    """
    if device.platform == "cpu":
        return HOST_SHARE * host_memory() / count
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is None:
        raise UserError(
            "does not tell how much memory it has", where=device.device_kind, fix="Pass find_batch a limit."
        )
    return SHARE * limit


def host_memory(root: pathlib.Path = pathlib.Path("/")) -> int:
    """Bytes that are free on this machine, or left to this process's control group. `root` holds `proc` and `sys`."""
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    told = root / "proc" / "meminfo"
    if told.is_file():
        fields = dict(line.split(":", 1) for line in told.read_text().splitlines())
        available = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = (root / "sys" / "fs" / "cgroup" / name for name in ("memory.max", "memory.current"))
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():  # or "max"
        available = min(available, max(int(limit.read_text()) - int(used.read_text()), 0))
    return available


def needed(program: Any, states: int = 1) -> int:
    """Bytes of a compiled program on each device: arguments, outputs and scratch. 0 where the compiler does not tell.

    `states`: of how many jobs the arguments are kept, while it works on one.
    """
    return max(_needed(one, states) for one in getattr(program, "programs", {"": program}).values())


def _needed(program: Any, states: int) -> int:
    told = program.memory_analysis()
    if told is None:
        return 0
    kept = states * told.argument_size_in_bytes + told.output_size_in_bytes - told.alias_size_in_bytes
    return kept + told.temp_size_in_bytes
