"""What a process sets up before JAX is used: the persistent compile cache."""

from __future__ import annotations

import os
import pathlib

import jax


def cache_folder() -> pathlib.Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return pathlib.Path(base) / "lepjax" / "xla"


def use_compile_cache() -> None:
    """Programs compiled once are loaded from disk the next time. JAX's own environment variables win."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
