"""The persistent compile cache."""

from __future__ import annotations

import os
import pathlib

import jax


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
