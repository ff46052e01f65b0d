"""Bayesian optimisation: a Gaussian process with expected improvement, in JAX.

Jones et al., Efficient Global Optimization of Expensive Black-Box Functions (1998); Snoek et al., Practical Bayesian
Optimization of Machine Learning Algorithms (2012). Histories are padded to powers of two, so that one program serves many
trials; it runs in float64 on the host, where so small a problem belongs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve, solve_triangular
from jax.scipy.special import log_ndtr
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from lepjax.tune.samplers.qmc import quasi_random, sobol
from lepjax.tune.samplers.sampler import Sampler, Seen
from lepjax.tune.space import Choice, Integer, Space, Values, at, units

SMALLEST = 32  # rows of a padded history
EVERYWHERE, AROUND = 512, 256  # candidates all over the space, and around the best points so far
CLIMBED = 4  # candidates from which the improvement is climbed
STARTS = (0.1, 0.4, 1.5)  # length scales from which they are fitted
LOWEST, HIGHEST = np.log([1e-2, 1e-2, 1e-6]), np.log([1e2, 1e2, 1.0])  # of length scales, variance, noise


@dataclasses.dataclass(frozen=True)
class Gp(Sampler):
    """Quasi-random until `startup` trials have scores. Trials that still run are taken to come out as the mean says (the
    kriging believer among the constant liars: it makes no point look better or worse than it is, only better known), failed
    ones as the worst so far.
    """

    startup: int = 10

    def suggest(self, space: Space, seen: Sequence[Seen], ordinal: int, seed: int) -> Values:
        done, running = [s for s in seen if s.score is not None], [s for s in seen if s.score is None]
        scores = np.array([s.score for s in done], np.float64)
        if np.isfinite(scores).sum() < self.startup:
            return quasi_random(space, ordinal, seed)
        points = np.array([units(space, s.values) for s in [*done, *running]])
        x, y, of = encoded(space, points), standardized(scores), columns(space)
        with _float64_on_the_host():
            theta = fitted(x[: len(done)].tobytes(), y.tobytes(), tuple(of))
            model = believed(theta, x, y, of)
            # Of means, as scores are noisy; also of what is believed, or all of a cohort would go where it is expected.
            best = float((model.y - jnp.exp(theta[-1]) * model.alpha)[: len(x)].min())
            tried = candidates(space, points[np.argsort(y, kind="stable")[:CLIMBED]], ordinal, seed)
            tried = _not_yet(tried, encoded(space, tried), x)
            promise = _padded_gain(model, encoded(space, tried), best)
            top = tried[np.argsort(-promise, kind="stable")[:CLIMBED]]
            return at(space, climbed(space, model, top, best))


class History(NamedTuple):
    """What the process is told; rows beyond the real ones are padding."""

    x: Any
    """float64[n, features], n a power of two"""
    y: Any
    """float64[n]"""
    real: Any
    """bool[n]"""
    of: Any
    """int[features]: the dimension that each feature is a part of"""


class Model(NamedTuple):
    """A history with all that does not depend on where it is asked."""

    theta: Any
    """float64[dimensions + 2]: logarithms of the length scales, the variance and the variance of the noise"""
    x: Any
    y: Any
    real: Any
    of: Any
    lower: Any
    """float64[n, n]: Cholesky factor of the covariance of the observations"""
    alpha: Any
    """float64[n]: the covariance's inverse times y"""


def columns(space: Space) -> np.ndarray:
    """int[features]: a choice is one feature for each of its values, all else one."""
    counts = [len(d.values) if isinstance(d, Choice) else 1 for d in space.values()]
    return np.repeat(np.arange(len(counts)), counts)


def encoded(space: Space, points: np.ndarray) -> np.ndarray:
    """Points of the unit cube as the kernel sees them, float64[n, features]: whole numbers rounded, and each value of a
    choice an axis of its own, all one apart (Garrido-Merchan and Hernandez-Lobato, 2020).
    """
    made: list[np.ndarray] = []
    for i, dimension in enumerate(space.values()):
        column = points[:, i : i + 1]
        if isinstance(dimension, Choice):
            places = np.minimum((column[:, 0] * len(dimension.values)).astype(int), len(dimension.values) - 1)
            column = np.eye(len(dimension.values))[places] / np.sqrt(2.0)
        elif isinstance(dimension, Integer):
            column = np.array([[dimension.unit(dimension.value(float(u)))] for u in column[:, 0]])
        made.append(column)
    return np.concatenate(made, axis=1)


def standardized(scores: np.ndarray) -> np.ndarray:
    """float64[n] -> mean 0, standard deviation 1. Failed ones are as bad as the worst, and what diverged is cut: a loss of
    1e6 would make all the others look alike.
    """
    finite = scores[np.isfinite(scores)]
    middle = np.median(finite)
    limit = min(finite.max(), middle + 10.0 * (middle - finite.min()))
    y = np.minimum(np.where(np.isfinite(scores), scores, limit), limit)
    return (y - y.mean()) / max(y.std(), 1e-12)


def candidates(space: Space, best: np.ndarray, ordinal: int, seed: int) -> np.ndarray:
    """float64[candidates, dimensions]: all over the unit cube, and around the best points."""
    rng = np.random.Generator(np.random.Philox(key=[seed, ordinal]))
    everywhere = (sobol(len(space), seed, EVERYWHERE) + rng.random(len(space))) % 1.0
    far = 10.0 ** rng.uniform(-3.0, -0.5, (AROUND, 1))
    around = best[rng.integers(len(best), size=AROUND)] + far * rng.standard_normal((AROUND, len(space)))
    for i, dimension in enumerate(space.values()):
        if isinstance(dimension, Choice):  # it has no neighbours: that of one of the best, or any
            kept = best[rng.integers(len(best), size=AROUND), i]
            around[:, i] = np.where(rng.random(AROUND) < 0.3, rng.random(AROUND), kept)
    return np.concatenate([everywhere, np.clip(around, 0.0, 1.0)])


def padded(x: np.ndarray, y: np.ndarray, of: np.ndarray) -> History:
    """`y` may be shorter than `x`: the rows without a score are padding."""
    n = 1 << max(len(x) - 1, SMALLEST - 1).bit_length()
    real = np.arange(n) < len(y)
    return History(np.pad(x, ((0, n - len(x)), (0, 0))), np.pad(y, (0, n - len(y))), real, np.asarray(of))


def matern(theta: jax.Array, of: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """Matern 5/2 with a length scale for each dimension: float64[rows of a, rows of b]"""
    scale = jnp.exp(-theta[:-2])[of]
    a, b = a * scale, b * scale
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2.0 * a @ b.T
    distance = jnp.sqrt(5.0 * jnp.maximum(squares, 1e-12))  # the root has no slope at 0
    return jnp.exp(theta[-2]) * (1.0 + distance + distance**2 / 3.0) * jnp.exp(-distance)


def factor(theta: jax.Array, history: History) -> jax.Array:
    """Padding is apart from everything, with a variance of 1: it adds nothing to any sum or determinant."""
    x, _, real, of = history
    covariance = jnp.where(real[:, None] & real, matern(theta, of, x, x), 0.0)
    return jnp.linalg.cholesky(covariance + jnp.diag(jnp.where(real, jnp.exp(theta[-1]), 1.0)))


@jax.jit
def conditioned(theta: jax.Array, history: History) -> Model:
    lower = factor(theta, history)
    return Model(theta, *history, lower, cho_solve((lower, True), history.y))


@jax.jit
def posterior(model: Model, points: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation, without noise, at points float64[m, features]: float64[m] each."""
    cross = jnp.where(model.real[:, None], matern(model.theta, model.of, model.x, points), 0.0)
    solved = solve_triangular(model.lower, cross, lower=True)
    variance = jnp.exp(model.theta[-2]) - (solved**2).sum(0)
    return cross.T @ model.alpha, jnp.sqrt(jnp.maximum(variance, 1e-14))


@jax.jit
@jax.value_and_grad
def loss(theta: jax.Array, history: History) -> jax.Array:
    """Negative log posterior of theta: marginal likelihood, and log-normal priors. Length scales are likely to be about 0.6
    of the unit cube: a prior of wider ones (Hvarfner et al., 2024) served cohorts on six dimensions worse.
    """
    lower = factor(theta, history)
    likelihood = 0.5 * (solve_triangular(lower, history.y, lower=True) ** 2).sum() + jnp.log(jnp.diag(lower)).sum()
    scales, variance, noise = theta[:-2], theta[-2], theta[-1]
    return likelihood + 0.5 * (((scales + 0.5) ** 2).sum() + variance**2 + ((noise + 6.0) / 2.0) ** 2)


@functools.lru_cache(maxsize=1)
def fitted(x: bytes, y: bytes, of: tuple[int, ...]) -> np.ndarray:
    """Theta at the maximum a posteriori, the best of several beginnings. Kept, as a cohort asks for the same many times."""
    scores = np.frombuffer(y)
    history = padded(np.frombuffer(x).reshape(len(scores), -1), scores, np.array(of))
    dimensions = of[-1] + 1
    low, high = (np.r_[np.full(dimensions, ends[0]), ends[1:]] for ends in (LOWEST, HIGHEST))
    begun = [np.r_[np.full(dimensions, np.log(scale)), 0.0, -6.0] for scale in STARTS]
    return min((_descended(loss, theta, low, high, history) for theta in begun), key=lambda found: found[0])[1]


def believed(theta: np.ndarray, x: np.ndarray, y: np.ndarray, of: np.ndarray) -> Model:
    """The process given all of `x`, where those beyond the scores `y` came out as those before them say."""
    history = padded(x, y, of)
    model = conditioned(theta, history)
    if len(x) == len(y):
        return model
    mean, _ = posterior(model, history.x)
    return conditioned(theta, padded(x, np.r_[y, mean[len(y) : len(x)]], of))


@jax.jit
def log_improvement(mean: jax.Array, std: jax.Array, best: jax.Array) -> jax.Array:
    """Logarithm of the expected improvement on `best`, to be minimised: std (phi(z) + z Phi(z)), z = (best - mean) / std.

    In logarithms, because far from the best it underflows and would tell nothing (Ament et al., Unexpected Improvements to
    Expected Improvement, 2023).
    """
    z = (best - mean) / std
    near = jnp.maximum(z, -1e3)
    density = -0.5 * z**2 - 0.5 * np.log(2.0 * np.pi)
    # phi + z Phi = phi (1 + z Phi / phi), which is phi / z^2 for z -> -inf, where the difference cancels
    ratio = jnp.exp(log_ndtr(jnp.minimum(near, 0.0)) + 0.5 * jnp.minimum(near, 0.0) ** 2 + 0.5 * np.log(2.0 * np.pi))
    below = density + jnp.where(
        z < -1e3, -2.0 * jnp.log(jnp.maximum(-z, 1.0)), jnp.log1p(jnp.minimum(near, 0.0) * ratio)
    )
    above = jnp.log(jax.scipy.stats.norm.pdf(near) + jnp.maximum(near, 0.0) * jax.scipy.stats.norm.cdf(near))
    return jnp.log(std) + jnp.where(z < 0.0, below, above)


@jax.jit
def gain(model: Model, points: jax.Array, best: jax.Array) -> jax.Array:
    return log_improvement(*posterior(model, points), best)


@jax.jit
@jax.value_and_grad
def lack(points: jax.Array, model: Model, best: jax.Array) -> jax.Array:
    return -gain(model, points.reshape(-1, model.x.shape[1]), best).sum()


def climbed(space: Space, model: Model, top: np.ndarray, best: float) -> np.ndarray:
    """The best point of the unit cube that is reached from `top` along what is continuous."""
    of, start = np.asarray(model.of), encoded(space, top)
    fixed = np.array([d.options is not None for d in space.values()])[of]
    low, high = np.where(fixed, start, 0.0), np.where(fixed, start, 1.0)
    _, reached = _descended(lack, start.ravel(), low.ravel(), high.ravel(), model, best)
    features = reached.reshape(start.shape)
    best_of = int(np.argmax(_padded_gain(model, features, best)))
    point = top[best_of].copy()
    point[of[~fixed]] = features[best_of][~fixed]
    return point


def _descended(
    function: Callable[..., Any], start: np.ndarray, low: Any, high: Any, *more: Any
) -> tuple[float, np.ndarray]:
    found = minimize(
        function, start, more, "L-BFGS-B", jac=True, bounds=np.stack([low, high], 1), options={"maxiter": 50}
    )
    return (float(found.fun) if np.isfinite(found.fun) else np.inf), found.x


def _not_yet(points: np.ndarray, features: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Those that were not tried before: where all is finite, a search would settle on one point and stay there."""
    known = {row.tobytes() for row in before}
    fresh = np.array([row.tobytes() not in known for row in features])
    return points[fresh] if fresh.any() else points


def _padded_gain(model: Model, features: np.ndarray, best: float) -> np.ndarray:
    """One shape, however many there are."""
    rows = np.resize(features, (EVERYWHERE + AROUND, features.shape[1]))
    return np.asarray(gain(model, rows, best))[: len(features)]


@contextlib.contextmanager
def _float64_on_the_host() -> Iterator[None]:
    try:
        host = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX was told to know accelerators only
        host = None
    # Threads of a linear algebra library wait for each other longer than such matrices take.
    with jax.enable_x64(True), jax.default_device(host), threadpool_limits(1):
        yield
