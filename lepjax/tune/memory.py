"""What a program needs, and what a device has."""

from __future__ import annotations

import os
import pathlib
import re
from typing import Any

import jax

SHARE = 0.9  # of the free memory that may be used


def needed(program: Any) -> int:
    """Bytes of a compiled program: arguments, outputs and scratch, where it tells; 0 where it does not."""
    programs = getattr(program, "programs", {None: program}).values()
    return max(_needed(one) for one in programs)


def _needed(program: Any) -> int:
    analysis = program.memory_analysis()
    if analysis is None:
        return 0
    kept = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return kept + analysis.temp_size_in_bytes


def available(device: jax.Device) -> float:
    """Bytes that may still be used on a device, or in the host's memory where the device is its processor."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return SHARE * (stats["bytes_limit"] - stats["bytes_in_use"])
    return SHARE * _host()


def _host() -> float:
    info = pathlib.Path("/proc/meminfo")
    if info.is_file() and (found := re.search(r"MemAvailable:\s+(\d+) kB", info.read_text(encoding="ascii"))):
        return int(found[1]) * 1024.0
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
