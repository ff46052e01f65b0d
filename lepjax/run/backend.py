"""What a process sets up before its first program: the persistent compile cache, and memory that stays."""

from __future__ import annotations

import ctypes
import os
import pathlib
import sys

import jax

_GLIBC = {"M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 2**28), "M_MMAP_MAX": (-4, 0), "M_ARENA_MAX": (-8, 1)}
_ACCELERATORS = ("nvidia[0-9]*", "accel[0-9]*", "vfio/[0-9]*", "kfd")


def prepare() -> None:
    """Called by every command that computes."""
    use_compile_cache()
    keep_freed_memory()


def cache_folder() -> pathlib.Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (pathlib.Path(base) if base else pathlib.Path.home() / ".cache") / "lepjax" / "xla"


def use_compile_cache() -> pathlib.Path:
    """Programs compiled once are loaded from disk the next time. JAX's own environment variables win."""
    chosen = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if chosen is None:
        chosen = str(cache_folder())
        jax.config.update("jax_compilation_cache_dir", chosen)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return pathlib.Path(chosen)


def keep_freed_memory() -> bool:
    """Makes glibc keep what XLA's CPU backend frees after every step; True where that was possible.

    XLA allocates a program's scratch memory anew for every run. By default glibc maps it from the system and unmaps it
    again, so that every step pays for zeroed pages: 30 % of the quickstart's step (experiments/benchmarks). It must
    happen before JAX starts its threads, hence the look for device files instead of asking JAX for its backend.
    """
    if not sys.platform.startswith("linux") or any(
        any(pathlib.Path("/dev").glob(pattern)) for pattern in _ACCELERATORS
    ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    return mallopt is not None and all([mallopt(name, value) for name, value in _GLIBC.values()])
