"""The coordinate check of muP: how far training moves activations, by width (Yang et al., Tensor Programs V, 2022, D.1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lepjax import experiment as experiments
from lepjax.experiment import Experiment
from lepjax.ops.dropout import OFF
from lepjax.run.debug import watching

STEPS = 5
FLAT = 0.2  # wider by a factor of 8, and no activation moves by more than a half more or less


def assert_width_independent(
    experiment: Callable[[int], Experiment], widths: Sequence[int], steps: int = STEPS, most: float = FLAT
) -> None:
    """`experiment(width)` moves its activations equally far in every width: the mark of a right muP.

    Of every module the mean change after `steps` steps is width^slope, with a slope between -`most` and `most`.
    """
    found = slopes({width: coordinates(experiment(width), steps) for width in widths})
    name = max(found, key=lambda name: abs(found[name]))
    wrong = f"{name} moves by width^{found[name]:.2f} over the widths {', '.join(map(str, widths))}"
    assert abs(found[name]) <= most, f"{wrong}; at most {most} either way is flat"


def coordinates(experiment: Experiment, steps: int = STEPS) -> dict[str, np.ndarray]:
    """{module: float32[steps]}: the mean |change| of what each module returns, from initialisation to after each step.

    All steps are on the first batch, on one device and without dropout in what is compared.
    """
    model: Any = experiment.model
    if getattr(model, "scan", False):
        model = dataclasses.replace(model, scan=False)  # each layer by itself
    built = experiments.build(dataclasses.replace(experiment, model=model, mesh="data=1"), jax.devices()[:1])
    task = experiment.task.on(built.splits)

    def activations(state: Any, batch: Any) -> dict[str, jax.Array]:
        heard: dict[str, jax.Array] = {}
        with watching(heard.__setitem__):
            task.outputs(built.model, state.params, state.model_state, batch, OFF, False)
        return heard

    @jax.jit
    def run(batch: Any) -> dict[str, jax.Array]:
        def step(state: Any, _: None) -> tuple[Any, dict[str, jax.Array]]:
            return built.step(state, batch)[0], activations(state, batch)

        start = built.init()  # in here: one program less to compile
        seen = jax.lax.scan(step, start, length=steps + 1)[1]
        return {name: jnp.abs(x[1:] - x[0]).reshape(steps, -1).mean(axis=1) for name, x in seen.items()}

    return jax.device_get(run(built.batches(1)[0]))


def slopes(by_width: Mapping[int, Mapping[str, np.ndarray]]) -> dict[str, float]:
    """{module: exponent of the width in its change after the last step}, by least squares in logarithms."""
    widths = np.log(list(by_width))
    first = next(iter(by_width.values()))
    return {
        name: float(np.polyfit(widths, np.log([changes[name][-1] for changes in by_width.values()]), 1)[0])
        for name in first
    }
