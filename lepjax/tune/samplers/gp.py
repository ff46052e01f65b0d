"""Bayesian optimisation: a Gaussian process with expected improvement, in JAX.

Jones et al., Efficient Global Optimization of Expensive Black-Box Functions (1998); Snoek et al., Practical Bayesian
Optimization of Machine Learning Algorithms (2012). Histories are padded to powers of two, so that one program serves many
trials.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import qmc

from lepjax.tune.samplers.qmc import sobol
from lepjax.tune.samplers.sampler import Sampler, Seen
from lepjax.tune.space import Choice, Integer, Space, Values, at, units

JITTER = 1e-5
CANDIDATES = 1024
NEAR = 256  # candidates around the best points so far
STEPS, RATE = 40, 0.15  # of Adam, on the kernel's parameters


@dataclasses.dataclass(frozen=True)
class Gp(Sampler):
    """The first `startup` trials are quasi-random. Trials that run are taken to come out as the mean says (kriging
    believer), failed ones as the worst so far.
    """

    startup: int = 10

    def suggest(self, space: Space, seen: Sequence[Seen], ordinal: int, seed: int) -> Values:
        done = [s for s in seen if s.score is not None]
        if ordinal < self.startup or sum(np.isfinite(s.score) for s in done if s.score is not None) < 2:
            return at(space, sobol(len(space), seed, 1 << max(ordinal, 15).bit_length())[ordinal])
        rng = np.random.default_rng([seed, ordinal])
        scores = np.array([s.score for s in done], np.float64)
        scores = np.where(np.isfinite(scores), scores, scores[np.isfinite(scores)].max())
        y = (scores - scores.mean()) / max(scores.std(), 1e-9)
        x = encoded(space, np.array([units(space, s.values) for s in done]))
        theta = fitted(*padded(x, y))
        for one in (s for s in seen if s.score is None):
            point = encoded(space, np.array([units(space, one.values)]))
            mean, _ = posterior(theta, *padded(x, y), point.astype(np.float32))
            x, y = np.concatenate([x, point]), np.append(y, float(mean[0]))
        tried = candidates(space, np.array([units(space, s.values) for s in done])[np.argsort(y[: len(done)])[:4]], rng)
        gain = improvement(
            theta, *padded(x, y), encoded(space, tried).astype(np.float32), jnp.float32(y[: len(done)].min())
        )
        return at(space, tried[int(np.argmax(gain))])


def candidates(space: Space, best: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """float64[candidates, dimensions]: all over the unit cube, and around the best points."""
    everywhere = qmc.Sobol(len(space), scramble=True, rng=rng).random(CANDIDATES)
    around = best[rng.integers(len(best), size=NEAR)] + rng.normal(0.0, 0.05, (NEAR, len(space)))
    for i, dimension in enumerate(space.values()):
        if isinstance(dimension, Choice):
            around[:, i] = np.where(
                rng.random(NEAR) < 0.2, rng.random(NEAR), best[rng.integers(len(best), size=NEAR), i]
            )
    return np.concatenate([everywhere, np.clip(around, 0.0, 1.0)])


def encoded(space: Space, points: np.ndarray) -> np.ndarray:
    """As the kernel sees them: whole numbers rounded, each choice an axis of its own (Garrido-Merchan, 2020)."""
    columns: list[np.ndarray] = []
    for i, dimension in enumerate(space.values()):
        column = points[:, i]
        if isinstance(dimension, Choice):
            places = np.minimum((column * len(dimension.values)).astype(int), len(dimension.values) - 1)
            columns.append(np.eye(len(dimension.values))[places] / np.sqrt(2.0))
        elif isinstance(dimension, Integer):
            columns.append(np.array([[dimension.unit(dimension.value(u))] for u in column]))
        else:
            columns.append(column[:, None])
    return np.concatenate(columns, axis=1)


def padded(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(float32[n, features], float32[n], bool[n]: which are real), n a power of two from 16."""
    n = 1 << max(len(y) - 1, 15).bit_length()
    more = n - len(y)
    real = np.arange(n) < len(y)
    return np.pad(x, ((0, more), (0, 0))).astype(np.float32), np.pad(y, (0, more)).astype(np.float32), real


def matern(theta: dict[str, Any], a: jax.Array, b: jax.Array) -> jax.Array:
    """Matern 5/2 with a length scale for each feature. float32[rows of a, rows of b]"""
    scaled = (a[:, None, :] - b[None, :, :]) * jnp.exp(-theta["log_scales"])
    distance = jnp.sqrt(5.0 * jnp.maximum((scaled**2).sum(-1), 1e-12))
    return jnp.exp(theta["log_variance"]) * (1.0 + distance + distance**2 / 3.0) * jnp.exp(-distance)


def factor(theta: dict[str, Any], x: jax.Array, real: jax.Array) -> jax.Array:
    """Cholesky factor of the covariance of the observations. Rows that are padding are apart from all others."""
    covariance = jnp.where(real[:, None] & real[None, :], matern(theta, x, x), 0.0)
    noise = jnp.where(real, jnp.exp(theta["log_noise"]) + JITTER, 1.0)
    return jnp.linalg.cholesky(covariance + jnp.diag(noise))


def loss(theta: dict[str, Any], x: jax.Array, y: jax.Array, real: jax.Array) -> jax.Array:
    """Negative log posterior of the kernel's parameters: the marginal likelihood and log-normal priors."""
    lower = factor(theta, x, real)
    alpha = jax.scipy.linalg.solve_triangular(lower, y, lower=True)
    likelihood = 0.5 * (alpha**2).sum() + jnp.log(jnp.diag(lower)).sum()
    prior = ((theta["log_scales"] + 0.5) ** 2).sum() / 2.0
    return likelihood + prior + (theta["log_variance"] ** 2 + (theta["log_noise"] + 5.0) ** 2 / 4.0) / 2.0


@jax.jit
def fitted(x: jax.Array, y: jax.Array, real: jax.Array) -> dict[str, Any]:
    """The parameters of the smallest loss that Adam finds from two beginnings (maximum a posteriori)."""

    def descend(scale: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        start = {
            "log_scales": jnp.full(x.shape[1], scale),
            "log_variance": jnp.float32(0.0),
            "log_noise": jnp.float32(-5.0),
        }
        zero = jax.tree.map(jnp.zeros_like, start)

        def step(carry: Any, t: jax.Array) -> Any:
            theta, m, v = carry
            grad = jax.grad(loss)(theta, x, y, real)
            m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, grad)
            v = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g**2, v, grad)
            new = jax.tree.map(
                lambda p, m, v: p - RATE * (m / (1 - 0.9**t)) / (jnp.sqrt(v / (1 - 0.99**t)) + 1e-8), theta, m, v
            )
            return (new, m, v), None

        (theta, _, _), _ = jax.lax.scan(step, (start, zero, zero), jnp.arange(1.0, STEPS + 1.0))
        return loss(theta, x, y, real), theta

    losses, thetas = jax.lax.map(descend, jnp.log(jnp.array([0.2, 0.7])))
    best = jnp.argmin(jnp.where(jnp.isfinite(losses), losses, jnp.inf))
    return jax.tree.map(lambda a: a[best], thetas)


@jax.jit
def posterior(theta: dict[str, Any], x: Any, y: Any, real: Any, at: Any) -> tuple[jax.Array, jax.Array]:
    """(mean, standard deviation) without noise at points float32[m, features]: float32[m] each."""
    lower = factor(theta, x, real)
    cross = jnp.where(real[:, None], matern(theta, x, at), 0.0)
    solved = jax.scipy.linalg.solve_triangular(lower, cross, lower=True)
    mean = solved.T @ jax.scipy.linalg.solve_triangular(lower, y, lower=True)
    variance = jnp.exp(theta["log_variance"]) - (solved**2).sum(0)
    return mean, jnp.sqrt(jnp.maximum(variance, 1e-10))


@jax.jit
def improvement(theta: dict[str, Any], x: Any, y: Any, real: Any, at: Any, best: jax.Array) -> jax.Array:
    """Logarithm of the expected improvement on `best` (to be minimised) at points float32[m, features]: float32[m].

    In logarithms, because far from the best it underflows and would tell nothing (Ament et al., 2023).
    """
    mean, std = posterior(theta, x, y, real, at)
    z = (best - mean) / std
    direct = jax.scipy.stats.norm.pdf(z) + z * jax.scipy.stats.norm.cdf(z)
    # phi(z) + z Phi(z) = phi(z) / z^2 (1 - 3 / z^2 + ...) for z -> -inf
    far = (
        jax.scipy.stats.norm.logpdf(z) - 2.0 * jnp.log(jnp.maximum(-z, 1.0)) + jnp.log1p(-3.0 / jnp.maximum(z**2, 9.0))
    )
    return jnp.log(std) + jnp.where(z > -4.0, jnp.log(jnp.maximum(direct, 1e-30)), far)
