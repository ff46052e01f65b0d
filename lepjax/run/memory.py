"""Memory that stays with the process. Imports nothing heavy: it has to act before the first thread starts."""

from __future__ import annotations

import ctypes
import pathlib
import sys

_GLIBC = {"M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 2**28), "M_MMAP_MAX": (-4, 0), "M_ARENA_MAX": (-8, 1)}
_ACCELERATORS = ("nvidia[0-9]*", "accel[0-9]*", "vfio/[0-9]*", "kfd")


def keep_freed_memory() -> bool:
    """Makes glibc keep what XLA's CPU backend frees after every step; True where that was possible.

    XLA allocates a program's scratch memory anew for every run. By default glibc maps it from the system and unmaps it
    again, so that every step pays for zeroed pages: a third of the quickstart's time. Threads that are already there
    keep arenas of their own, so this comes first, and looks for device files instead of asking JAX for its backend.
    """
    if not sys.platform.startswith("linux") or any(
        any(pathlib.Path("/dev").glob(pattern)) for pattern in _ACCELERATORS
    ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    return mallopt is not None and all(mallopt(name, value) for name, value in _GLIBC.values())
