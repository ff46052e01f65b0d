"""What computing costs: measured rates of this machine, and the utilisation they imply."""

from __future__ import annotations

import dataclasses
import functools
import math
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


@dataclasses.dataclass(frozen=True)
class Utilisation:
    """How much of the measured rate is used.

    MFU is (FLOPs per token x useful tokens/s) / (devices x rate), with the model's FLOPs by formula: PaLM (Chowdhery et al.,
    2022), appendix B. HFU counts what the program really multiplies, recomputed layers too: MFU x `overhead`.
    """

    flops_per_token: float
    devices: int
    rate: float
    overhead: float | None = None
    """FLOPs of the program per FLOP of the formula; None or NaN: not known."""

    def mfu(self, tokens_per_second: float) -> float:
        return utilisation(self.flops_per_token, tokens_per_second, self.devices, self.rate)

    def told(self, tokens_per_second: float) -> str:
        mfu = self.mfu(tokens_per_second)
        return f"MFU {mfu:.1%}" + (
            f", HFU {mfu * self.overhead:.1%}" if self.overhead and math.isfinite(self.overhead) else ""
        )


def traced_flops(jaxpr: Any) -> float:
    """FLOPs of all matrix products and convolutions of a traced program (`jax.jit(f).trace(...).jaxpr`), over all devices.

    Loops of known length count each turn, of a branch the dearest side counts. XLA's own count (`cost_analysis`) takes
    each loop once, so that it is wrong for scanned layers. NaN: not known, because of products in a loop of unknown length
    (blockwise attention) or in a kernel (cuDNN's attention).
    """
    total = 0.0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2.0 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel, features = equation.invars[1].aval, params["dimension_numbers"].rhs_spec[0]
            total += 2.0 * equation.outvars[0].aval.size * kernel.size / kernel.shape[features]
        inner = [traced_flops(x) for x in jax.tree.leaves(list(params.values()), is_leaf=_is_jaxpr) if _is_jaxpr(x)]
        if "dot_product_attention" in name or (name == "while" and any(inner)):
            return math.nan
        turns = params["length"] if name == "scan" else 1
        total += turns * (max(inner, default=0.0) if name == "cond" else sum(inner))
    return total


def _is_jaxpr(x: Any) -> bool:
    return hasattr(x, "eqns")
