"""Tell what this machine is, how fast it is, and what is wrong with it.

usage: lepjax doctor

Prints versions, devices, the measured matrix and memory rates, and whether the compile cache can be written.
Exits with 78 when something is wrong.
"""

from __future__ import annotations

import os
import pathlib
import platform
import shutil
import tempfile
from importlib import metadata

import jax
import jax.numpy as jnp

from lepjax.core import cost
from lepjax.core.errors import CONFIGURATION, DONE
from lepjax.run.backend import use_compile_cache
from lepjax.run.directory import PACKAGES

LEAST_FREE = 2**30  # bytes: a small run's checkpoints and its compile cache


def run(arguments: list[str]) -> int:
    if arguments:
        print(__doc__)
        return DONE if arguments[0] in ("-h", "--help") else CONFIGURATION
    cache = use_compile_cache()
    print(f"python    {platform.python_version()} on {platform.platform()}")
    print("packages  " + ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES))
    devices = jax.devices()
    print(f"devices   {len(devices)} x {devices[0].device_kind} ({devices[0].platform}), {os.cpu_count()} CPU cores")
    for name, dtype in (("float32", jnp.float32), ("bfloat16", jnp.bfloat16)):
        print(f"matmul    {cost.matmul_rate(dtype) / 1e9:,.0f} GFLOP/s in {name}")
    print(f"memory    {cost.memory_bandwidth() / 1e9:,.1f} GB/s read + write")
    print(f"cache     {cache}")
    problems = find_problems(cache)
    for problem in problems:
        print(f"problem   {problem}")
    print("healthy" if not problems else f"{len(problems)} problem(s)")
    return CONFIGURATION if problems else DONE


def find_problems(cache: pathlib.Path) -> list[str]:
    """What will make runs fail, in words with the mend."""
    problems = []
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        problems.append(f"compile cache {cache} cannot be written ({error.strerror}): set JAX_COMPILATION_CACHE_DIR")
    for folder in {pathlib.Path.cwd(), cache if cache.exists() else pathlib.Path.cwd()}:
        free = shutil.disk_usage(folder).free
        if free < LEAST_FREE:
            problems.append(f"only {free / 2**20:,.0f} MiB free in {folder}: make room")
    if jax.default_backend() == "cpu" and pathlib.Path("/dev/nvidiactl").exists():
        problems.append("an NVIDIA GPU is present but jax uses the CPU: pip install 'lepjax[cuda12]' (or cuda13)")
    if jax.default_backend() == "cpu" and pathlib.Path("/dev/accel0").exists():
        problems.append("a TPU is present but jax uses the CPU: pip install 'lepjax[tpu]'")
    jax_version, jaxlib_version = metadata.version("jax"), metadata.version("jaxlib")
    if jax_version.split(".")[:2] != jaxlib_version.split(".")[:2]:
        problems.append(f"jax {jax_version} and jaxlib {jaxlib_version} do not match: pip install -U jax")
    return problems
