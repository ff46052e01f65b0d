"""Population-based training: copies are copies, and lines of descent are told truly."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lepjax import tune
from lepjax.core.errors import UserError
from lepjax.run.compiles import Compiles
from lepjax.tune import population as module
from lepjax.tune.plots import ORANGE
from lepjax.tune.population import Exploration, evolve
from lepjax.tune.programs import Fleet
from tests.tune.digits import experiment

SPACE = {"learning_rate": tune.loguniform(1e-5, 1e-1), "dropout": tune.uniform(0.0, 0.6)}
RULE = Exploration(("learning_rate",), np.float32([1e-5]), np.float32([1e-1]), np.array([True]), share=0.25)


@dataclasses.dataclass(frozen=True)
class Small:
    params: jax.Array
    hparams: dict
    key: jax.Array


jax.tree_util.register_dataclass(Small, ["params", "hparams", "key"], [])


def fleet(members=8):
    rates = jnp.geomspace(1e-4, 1e-2, members)
    state = Small(
        jnp.arange(members) * 10.0,
        {"learning_rate": rates, "other": rates},
        jax.random.split(jax.random.key(0), members),
    )
    return Fleet(state, jnp.arange(members), jnp.arange(members))


def test_the_worst_go_on_from_the_best():
    before = fleet()
    costs = jnp.array([5.0, 1.0, 3.0, jnp.nan, 2.0, 4.0, 7.0, 6.0])
    after, source = jax.jit(lambda f, c, k: evolve(f, c, k, RULE))(before, costs, jax.random.key(1))
    assert set(np.flatnonzero(np.asarray(source) != np.arange(8))) == {3, 6}  # the worst, and what is not finite
    assert set(np.asarray(source)[[3, 6]]) <= {1, 4}
    np.testing.assert_array_equal(after.state.params, before.state.params[source])
    np.testing.assert_array_equal(after.state.hparams["other"], before.state.hparams["other"][source])
    rates, old = np.asarray(after.state.hparams["learning_rate"]), np.asarray(before.state.hparams["learning_rate"])
    stayed = [0, 1, 2, 4, 5, 7]
    np.testing.assert_array_equal(rates[stayed], old[stayed])
    assert all(rates[i] != old[source[i]] and 1e-5 <= rates[i] <= 1e-1 for i in (3, 6))
    assert (jax.random.key_data(after.state.key) == jax.random.key_data(before.state.key)).all()
    assert [int(x) for x in after.longest[jnp.array([3, 6])]] == [0, 0]


def test_a_population_compiles_once_and_tells_its_lines():
    with Compiles() as compiles:
        found = tune.pbt(experiment(40), SPACE, population=8, rounds=4, metric="dev_accuracy")
    assert found.compiles == 1
    assert sum("all_" in p.name or "one" in p.name for p in compiles.programs) <= 2
    assert found.ends == (10, 20, 30, 40) and found.scores.shape == found.source.shape == (4, 8)
    line = found.line(found.best)
    for r in range(1, 4):
        assert found.source[r][line[r]] == line[r - 1]
    schedule = found.schedule
    assert [part["until"] for part in schedule] == [10, 20, 30, 40]
    assert found.scores[-1].max() == found.scores[-1][found.best]
    assert found.scores[-1].mean() > found.scores[0].mean()
    lines_are_drawn(found)


def lines_are_drawn(found):
    """The best member's schedule, as it was, is in the figure."""
    scores, rate, dropout = found.plot_lineage().axes
    assert (rate.get_yscale(), dropout.get_yscale()) == ("log", "linear")
    for axes, name in ((rate, "learning_rate"), (dropout, "dropout")):
        best = [line for line in axes.get_lines() if line.get_color() == ORANGE]
        level = [line.get_ydata()[0] for line in best if line.get_xdata()[0] != line.get_xdata()[1]]
        assert level == [part[name] for part in found.schedule]
    ends = {line.get_ydata()[-1] for line in scores.get_lines() if len(line.get_xdata())}
    assert set(found.scores[-1]) <= ends


def test_sabotage_copies_without_their_parents_state_are_noticed(monkeypatch):
    """A member that takes over hyperparameters alone does not score as its parent does."""

    def relay(takes_state):
        seen = []
        honest = evolve

        def spied(states, costs, key, rule):
            new, source = honest(states, costs, key, dataclasses.replace(rule, factor=1.0, redraw=0.0))
            if not takes_state:
                new = dataclasses.replace(new, state=dataclasses.replace(new.state, params=states.state.params))
            seen.append(True)
            return new, source

        monkeypatch.setattr(module, "evolve", spied)
        found = tune.pbt(experiment(12), SPACE, population=8, rounds=6, seed=3)
        assert seen
        return found.scores[-1].max()  # the worst member's loss

    assert relay(True) < relay(False)


@pytest.mark.parametrize(
    ("space", "settings", "told"),
    [
        ({"seed": tune.integer(0, 3)}, {}, "cannot change while"),
        ({"model.activation": tune.choice(["relu", "gelu"])}, {}, "cannot change while"),
        ({"learning_rate": tune.choice([1e-2, 1e-3])}, {}, "no range of numbers"),
        (SPACE, {"population": 3}, "4 or more"),
        (SPACE, {"rounds": 0}, "Use 1 to"),
    ],
)
def test_what_cannot_evolve_is_one_line(space, settings, told):
    with pytest.raises(UserError, match=told):
        tune.pbt(experiment(), space, **{"population": 8, "rounds": 2, **settings})
