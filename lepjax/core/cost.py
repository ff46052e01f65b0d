"""What computing costs: measured rates of this machine, and the utilisation they imply."""

from __future__ import annotations

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp


@functools.lru_cache
def matmul_rate(dtype: Any = jnp.float32, size: int | None = None, seconds: float = 0.25) -> float:
    """FLOP/s of one device on a square matrix product, the best of several runs. About `seconds` plus a compile."""
    size = size or (1024 if jax.default_backend() == "cpu" else 8192)
    x = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)  # zeros run faster than data on some chips
    best = _best_time(jax.jit(lambda x: x @ x), x, seconds)
    return 2.0 * size**3 / best


@functools.lru_cache
def memory_bandwidth(bytes_: int = 2**27, seconds: float = 0.25) -> float:
    """Bytes per second, read plus written, of one device on a large elementwise operation."""
    x = jnp.ones(bytes_ // 4, jnp.float32)
    best = _best_time(jax.jit(lambda x: x + 1.0), x, seconds)
    return 2.0 * bytes_ / best


def _best_time(function: Any, x: jax.Array, seconds: float) -> float:
    jax.block_until_ready(function(x))
    times: list[float] = []
    while len(times) < 3 or (sum(times) < seconds and len(times) < 1000):
        start = time.perf_counter()
        jax.block_until_ready(function(x))
        times.append(time.perf_counter() - start)
    return min(times)


def utilisation(flops_per_token: float, tokens_per_second: float, devices: int, rate: float) -> float:
    """Model FLOPs utilisation: (FLOPs per token x tokens/s) / (devices x measured FLOP/s). PaLM, appendix B.

    On the CPU all simulated devices share one processor, whose rate was measured with all its cores.
    """
    if jax.default_backend() == "cpu":
        devices = jax.process_count()
    return flops_per_token * tokens_per_second / (devices * rate)
