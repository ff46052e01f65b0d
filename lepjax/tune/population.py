"""Population-based training (Jaderberg et al., Population Based Training of Neural Networks, 2017).

All members train in one program. Every so many steps the worst take over state and hyperparameters of the best and move on
from there with hyperparameters a little changed: what comes out is a schedule. Copying and changing is one jitted function
of the stacked state, so that nothing leaves the devices and nothing recompiles.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from lepjax.core import fields
from lepjax.core.errors import UserError
from lepjax.experiment import Experiment
from lepjax.run.backend import use_compile_cache
from lepjax.tune.assign import Field, assigned, resolve
from lepjax.tune.groups import Groups
from lepjax.tune.objective import objective
from lepjax.tune.programs import Fleet, Stacked
from lepjax.tune.samplers.random import Random
from lepjax.tune.space import Choice, LogUniform, Space

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Exploration:
    """How the hyperparameters of a copy are changed. Arrays in the order of `names`, float32[names]."""

    names: tuple[str, ...]
    low: np.ndarray
    high: np.ndarray
    log: np.ndarray
    """Whether a new draw is uniform in the logarithm."""
    share: float = 0.25
    """Of the population: so many of the worst are replaced by copies of as many of the best."""
    factor: float = 1.25
    """A hyperparameter of a copy is multiplied or divided by this."""
    redraw: float = 0.25
    """Probability that it is drawn anew from its range instead."""


def evolve(fleet: Fleet, costs: jax.Array, key: jax.Array, rule: Exploration) -> tuple[Fleet, jax.Array]:
    """Exploit and explore: `(fleet, source)`; member i goes on from the state of `source[i]`, int32[members].

    costs  float32[members], the lower the better; what is not finite is worst
    key    key[]
    """
    members = costs.shape[0]
    replaced = max(int(members * rule.share), 1)
    order = jnp.argsort(jnp.where(jnp.isfinite(costs), costs, jnp.inf))
    which, how, where, anew = jax.random.split(key, 4)
    parents = order[jax.random.randint(which, (replaced,), 0, replaced)]
    source = jnp.arange(members).at[order[members - replaced :]].set(parents)
    copied = source != jnp.arange(members)
    state = jax.tree.map(lambda x: x[source], dataclasses.replace(fleet.state, key=None))

    shape = (members, len(rule.names))
    values = jnp.stack([state.hparams[name] for name in rule.names], 1)
    changed = values * jnp.where(jax.random.bernoulli(how, 0.5, shape), rule.factor, 1.0 / rule.factor)
    unit, log = jax.random.uniform(where, shape), jnp.asarray(rule.log)
    low, high = (
        jnp.where(log, jnp.log(jnp.maximum(rule.low, 1e-30)), rule.low),
        jnp.where(log, jnp.log(rule.high), rule.high),
    )
    drawn = low + unit * (high - low)
    drawn = jnp.where(log, jnp.exp(drawn), drawn)
    explored = jnp.where(jax.random.bernoulli(anew, rule.redraw, shape), drawn, changed)
    values = jnp.where(copied[:, None], jnp.clip(explored, rule.low, rule.high), values)
    hparams = {**state.hparams, **{name: values[:, i] for i, name in enumerate(rule.names)}}
    state = dataclasses.replace(state, hparams=hparams, key=fleet.state.key)
    row, longest = (jnp.where(copied, 0, x) for x in (fleet.row, fleet.longest))
    return Fleet(state, row, longest), source


@dataclasses.dataclass(frozen=True)
class Evolution:
    """What a population did. Round r trains with `values[:, r]` and ends with `scores[r]`.

    names        the hyperparameters
    logarithmic  those whose range is searched in its logarithm
    ends         int[rounds], the step after each round
    values       {name: float32[rounds, members]}
    scores       float[rounds, members], the metric's own values
    source       int[rounds, members]: whose state each member began the round with (a member of the round before)
    """

    names: tuple[str, ...]
    logarithmic: tuple[str, ...]
    metric: str
    mode: str
    ends: tuple[int, ...]
    values: dict[str, np.ndarray]
    scores: np.ndarray
    source: np.ndarray
    compiles: int

    @property
    def best(self) -> int:
        """The member that ended best."""
        last = self.scores[-1] if self.mode == "min" else -self.scores[-1]
        return int(np.argmin(np.where(np.isfinite(last), last, np.inf)))

    def line(self, member: int) -> list[int]:
        """The ancestors of a final member, one for each round, itself last."""
        found = [member]
        for source in self.source[:0:-1]:
            found.append(int(source[found[-1]]))
        return found[::-1]

    @property
    def schedule(self) -> list[dict[str, float]]:
        """The hyperparameters that the best member's line trained with, round by round, and the step they held to."""
        line = self.line(self.best)
        return [
            {"until": end, **{name: float(self.values[name][r, m]) for name in self.names}}
            for r, (end, m) in enumerate(zip(self.ends, line, strict=True))
        ]

    def plot_lineage(self) -> Figure:
        """Who went on from whom, with what, and how well."""
        from lepjax.tune.lineage import lineage  # matplotlib takes long to load

        return lineage(self)


def pbt(
    experiment: Experiment,
    space: Space,
    population: int = 16,
    rounds: int = 10,
    metric: str = "",
    mode: str = "",
    seed: int = 0,
    share: float = 0.25,
    devices: Sequence[jax.Device] | None = None,
    console: Console | None = None,
) -> Evolution:
    """Trains a population for the experiment's length in `rounds` equal parts. `space` holds hyperparameters' ranges.

    All members begin with the experiment's seed and read the same data. Raises `UserError` for what does not fit, before
    anything is compiled.
    """
    console = console or Console(quiet=True)
    use_compile_cache()
    found = resolve(experiment, space)
    splits = experiment.data.load()
    goal = objective(experiment, tuple(splits.evaluation), metric, mode)
    chosen = list(jax.devices() if devices is None else devices)
    if population < 4 or population % len(chosen):
        fix = f"Use 4 or more, a multiple of {len(chosen)} devices."
        raise UserError(f"{population} members", where="population", fix=fix)
    groups = Groups(goal, population, experiment.seed, chosen, {experiment.data: splits})
    firsts = [Random().suggest(space, (), member, seed) for member in range(population)]
    members = [assigned(experiment, values, found) for values in firsts]
    key = groups.key(members[0])
    jobs = [groups.job(member) for member in members]
    total = jobs[0].total_steps
    if not 1 <= rounds <= total:
        raise UserError(f"{rounds} rounds of {total} steps", where="rounds", fix=f"Use 1 to {total}.")
    rule = dataclasses.replace(exploration(experiment, space, found, total), share=share)
    program = groups.program(key, True, population)
    assert isinstance(program, Stacked)
    move = jax.jit(lambda fleet, costs, key: evolve(fleet, costs, key, rule), donate_argnums=0)
    states, stream, step = program.init(jobs), program.stream(jobs), 0
    ends = tuple(round(total * (r + 1) / rounds) for r in range(rounds))
    sources, scores, values = [np.arange(population)], [], []
    for r, end in enumerate(ends):
        values.append({name: np.asarray(states.state.hparams[name]) for name in rule.names})
        while step < end:
            states, _ = program.step(states, next(stream))
            step += 1
        scores.append(program.score(states))
        best = min(scores[-1], key=goal.cost)
        console.print(f"round {r + 1}/{rounds}  step {step}  best {goal.name} {best:.4f}", highlight=False)
        if end < total:
            costs = jnp.asarray([goal.cost(score) for score in scores[-1]], jnp.float32)
            states, source = move(states, costs, jax.random.fold_in(jax.random.key(seed), r))
            sources.append(np.asarray(source))
    return Evolution(
        names=rule.names,
        logarithmic=tuple(name for name, log in zip(rule.names, rule.log, strict=True) if log),
        metric=goal.name,
        mode=goal.mode,
        ends=ends,
        values={name: np.stack([one[name] for one in values]) for name in rule.names},
        scores=np.array(scores),
        source=np.stack(sources),
        compiles=groups.compiles,
    )


def exploration(experiment: Experiment, space: Space, found: dict[str, Field], total_steps: int) -> Exploration:
    """The leaves that the space means, and their ranges. Raises `UserError` for what is no hyperparameter with a range."""
    names, ends, log = [], [], []
    for name, dimension in space.items():
        field = found[name]
        leaf = field.leaf or field.path.rpartition(".")[2]
        both = [assigned(experiment, {name: dimension.value(unit)}, found).hparams(total_steps) for unit in (0.0, 1.0)]
        if field.kind != fields.HPARAM or leaf not in both[0]:
            fix = "Search hyperparameters (learning_rate, weight_decay, dropout), whose change needs no other program."
            raise UserError(f"{field.path} cannot change while a member trains", where=f"space {name}", fix=fix)
        if isinstance(dimension, Choice):
            raise UserError("is no range of numbers", where=f"space {name}", fix="Use uniform, loguniform or integer.")
        names.append(leaf)
        ends.append([one[leaf] for one in both])
        log.append(isinstance(dimension, LogUniform))
    low, high = np.array(ends, np.float32).T
    return Exploration(tuple(names), low, high, np.array(log))
