"""Samplers: pure, and better than chance where they claim it."""

import functools
import itertools
import sys

import numpy as np
import optuna
import pytest
from scipy import stats
from scipy.stats import qmc
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from lepjax import tune
from lepjax.core.errors import UserError
from lepjax.tune import samplers
from lepjax.tune.distributions import distributions
from lepjax.tune.named import named, names_in
from lepjax.tune.samplers import gp
from lepjax.tune.samplers.cmaes import CmaEs
from lepjax.tune.samplers.genetic import Genetic
from lepjax.tune.samplers.grid import Grid
from lepjax.tune.samplers.qmc import quasi_random, sobol
from lepjax.tune.samplers.sampler import Sampler, Seen
from lepjax.tune.space import units

PLAIN = {"a": tune.uniform(-5, 10), "b": tune.uniform(0, 15)}
MIXED = {"a": tune.loguniform(1e-5, 1), "b": tune.integer(0, 9), "c": tune.choice(["x", "y", "z"])}
NAMES = names_in(samplers, Sampler)
make = functools.partial(named, samplers, Sampler)


def branin(values):
    """Dixon and Szego (1978); its minimum is 0.3979."""
    a, b = values["a"], values["b"]
    bowl = (b - 5.1 / (4 * np.pi**2) * a**2 + 5 / np.pi * a - 6) ** 2
    return float(bowl + 10 * (1 - 1 / (8 * np.pi)) * np.cos(a) + 10)


CUBE = {f"x{i}": tune.uniform(0, 1) for i in range(6)}
STEEP = np.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
)
CENTRES = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


def hartmann(values):
    """Hartmann's function of six variables (Dixon and Szego, 1978); its minimum is -3.322."""
    x = np.array(list(values.values()))
    return -float(np.array([1, 1.2, 3, 3.2]) @ np.exp(-(STEEP * (x - CENTRES) ** 2).sum(1)))


BUDGETS = [("tpe", 50, 7), ("genetic", 50, 9), ("cmaes", 50, 9), ("gp", 30, 3)]
FUNCTIONS = {"branin": (PLAIN, branin), "hartmann": (CUBE, hartmann)}


def searched(sampler, space, function, trials, seed=0, together=1):
    seen = []
    for start in range(0, trials, together):
        asked = []
        for ordinal in range(start, min(start + together, trials)):
            values = sampler.suggest(space, [*seen, *asked], ordinal, seed)
            asked.append(Seen(ordinal, values, None))
        seen += [Seen(one.ordinal, one.values, function(one.values), 1) for one in asked]
    return seen


@pytest.mark.parametrize("name", NAMES)
def test_a_point_is_a_function_of_what_was_seen(name):
    space = PLAIN if name == "cmaes" else MIXED
    if name != "grid":
        seen = searched(make(name), space, lambda v: v["a"], 14)
        again = searched(make(name), space, lambda v: v["a"], 14)
        other = searched(make(name), space, lambda v: v["a"], 14, seed=1)
        assert [s.values for s in seen] == [s.values for s in again] != [s.values for s in other]
    for ordinal in range(3):
        for key, value in make(name).suggest(space, (), ordinal, 0).items():
            assert 0.0 <= space[key].unit(value) <= 1.0


@pytest.mark.parametrize("name", ["tpe", "gp", "genetic", "cmaes"])
def test_failed_running_and_missing_trials_are_no_obstacle(name):
    space = PLAIN if name == "cmaes" else MIXED
    seen = [
        Seen(s.ordinal, s.values, [None, np.inf, 0.5, 0.1 * s.ordinal][s.ordinal % 4])
        for s in searched(make("random"), space, lambda v: 0, 31)
        if s.ordinal % 7
    ]
    for some in (
        seen,
        [Seen(s.ordinal, s.values, np.inf) for s in seen],
        [Seen(s.ordinal, s.values, None) for s in seen],
    ):
        assert make(name).suggest(space, some, 31, 0).keys() == space.keys()


@pytest.mark.parametrize("name", ["tpe", "gp", "genetic", "cmaes"])
def test_the_first_trials_are_quasi_random(name):
    seen = [Seen(i, quasi_random(PLAIN, i, 3), None) for i in range(40)]  # nothing has come out of any
    for ordinal in (0, 5, 40):
        assert make(name).suggest(PLAIN, seen[:ordinal], ordinal, 3) == quasi_random(PLAIN, ordinal, 3)


@pytest.mark.parametrize("name", ["gp", "genetic"])
def test_a_finite_space_is_searched_to_its_end(name):
    space = {"a": tune.integer(0, 3), "b": tune.choice(["x", "y", "z"])}
    seen = searched(make("grid"), space, lambda v: abs(v["a"] - 1) + (v["b"] == "x"), 12)
    for left in (0, 7, 11):
        rest = [s for s in seen if s.ordinal != left]
        assert make(name).suggest(space, rest, 40, 0) == seen[left].values
    assert make(name).suggest(space, seen, 40, 0).keys() == space.keys()  # nothing is left


@pytest.mark.parametrize("name", ["tpe", "gp"])
def test_those_asked_for_together_differ(name):
    seen = searched(make(name), PLAIN, branin, 20, together=5)
    last = {tuple(np.round(units(PLAIN, s.values), 3)) for s in seen[-5:]}
    assert len(last) == 5


@functools.cache
def median_best(name, function, trials, seeds):
    return float(
        np.median(
            [min(s.score for s in searched(make(name), *FUNCTIONS[function], trials, seed)) for seed in range(seeds)]
        )
    )


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(("name", "trials", "seeds"), BUDGETS)
def test_searches_beat_chance_at_an_equal_budget(name, trials, seeds, function):
    assert median_best(name, function, trials, seeds) < median_best("random", function, trials, seeds)


@pytest.mark.full
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", ["tpe", "genetic", "cmaes", "gp"])
def test_searches_beat_chance_in_cohorts(name, function):
    """Sixteen at a time, none of which knows what comes of the others."""
    space, told = FUNCTIONS[function]
    best = {
        who: np.median([min(s.score for s in searched(make(who), space, told, 64, seed, 16)) for seed in range(7)])
        for who in (name, "random")
    }
    assert best[name] < best["random"]


def test_the_gaussian_process_finds_the_minimum_of_branin():
    assert median_best("gp", "branin", 30, 3) < 0.45


@pytest.mark.parametrize(("name", "trials", "seeds"), BUDGETS)
def test_sabotage_a_search_that_climbs_does_not_beat_chance(name, trials, seeds):
    climbed = [searched(make(name), PLAIN, lambda v: -branin(v), trials, seed) for seed in range(seeds)]
    best = np.median([min(branin(s.values) for s in seen) for seen in climbed])
    assert best > median_best("random", "branin", trials, seeds)


def optunas(seen, ordinal, seed):
    own = int(np.random.SeedSequence([seed, ordinal]).generate_state(1)[0])
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=own))
    states = optuna.trial.TrialState
    for one in seen:
        state = states.RUNNING if one.score is None else states.COMPLETE
        study.add_trial(
            optuna.trial.create_trial(
                state=state, value=one.score, params=one.values, distributions=distributions(MIXED)
            )
        )
    return study.ask(distributions(MIXED)).params


def test_tpe_is_optunas():
    """An Optuna study that is driven by hand, with the same trials and seed, asks for the same point."""
    seen = searched(make("random"), MIXED, lambda v: v["b"], 30)
    some_run = [Seen(s.ordinal, s.values, None if s.ordinal % 3 else s.score) for s in seen]
    for history in (seen[:15], seen, some_run):
        assert make("tpe").suggest(MIXED, history, 30, 0) == optunas(history, 30, 0)
    assert optunas(seen, 30, 0) != optunas(some_run, 30, 0)


def test_tpe_keeps_away_from_where_trials_fail():
    seen = searched(make("random"), PLAIN, lambda v: np.inf if v["a"] < 2.5 else v["b"], 60)
    asked = [make("tpe").suggest(PLAIN, seen, 60, seed)["a"] for seed in range(10)]
    assert sum(a < 2.5 for a in asked) <= 1


THETA = np.log([0.4, 0.8, 2.0, 1.7, 1e-2])


def told():
    rng = np.random.default_rng(0)
    x = rng.random((20, 3))
    return x, np.sin(5 * x[:, 0]) + x[:, 1] ** 2, rng.random((50, 3))


def reference(x, y, smoothness=2.5):
    kernel = ConstantKernel(1.7, "fixed") * Matern([0.4, 0.8, 2.0], "fixed", nu=smoothness)
    return GaussianProcessRegressor(kernel, alpha=1e-2, optimizer=None).fit(x, y)


@pytest.fixture
def float64():
    with gp._float64_on_the_host():
        yield


@pytest.mark.usefixtures("float64")
def test_the_gaussian_process_is_scikit_learns():
    x, y, points = told()
    mean, std = gp.posterior(gp.conditioned(THETA, gp.padded(x, y, np.arange(3))), points)
    expected_mean, expected_std = reference(x, y).predict(points, return_std=True)
    np.testing.assert_allclose(mean, expected_mean, atol=1e-9)
    np.testing.assert_allclose(std, expected_std, atol=1e-9)
    other, _ = gp.posterior(gp.conditioned(THETA, gp.padded(x, y, np.array([0, 1, 1]))), points)
    assert np.abs(other - expected_mean).max() > 1e-3  # features of one dimension share its length scale


@pytest.mark.usefixtures("float64")
def test_sabotage_another_kernel_is_noticed():
    x, y, points = told()
    mean, _ = gp.posterior(gp.conditioned(THETA, gp.padded(x, y, np.arange(3))), points)
    assert np.abs(mean - reference(x, y, smoothness=1.5).predict(points)).max() > 1e-3


@pytest.mark.usefixtures("float64")
def test_kernels_are_fitted_to_the_maximum_of_scikit_learns_likelihood_and_the_priors():
    x, y, _ = told()
    history = gp.padded(x, y, np.arange(3))

    def likelihood(theta):
        kernel = ConstantKernel(np.exp(theta[3])) * Matern(np.exp(theta[:3]), nu=2.5)
        return (
            GaussianProcessRegressor(kernel, alpha=np.exp(theta[4]), optimizer=None)
            .fit(x, y)
            .log_marginal_likelihood_value_
        )

    def prior(theta):
        return stats.norm.logpdf(theta, [-0.5, -0.5, -0.5, 0.0, -6.0], [1, 1, 1, 1, 2]).sum()

    found = gp.fitted(x.tobytes(), y.tobytes(), (0, 1, 2))
    for theta in (THETA, found + 0.1):  # losses are log posteriors, up to one constant
        expected = likelihood(theta) + prior(theta) - likelihood(found) - prior(found)
        assert gp.loss(found, history)[0] - gp.loss(theta, history)[0] == pytest.approx(expected, abs=1e-6)
        assert expected < 0.0


@pytest.mark.usefixtures("float64")
def test_expected_improvement_is_the_closed_form():
    std = 0.3
    z = np.linspace(-6.0, 6.0, 200)
    expected = np.log(std) + np.log(stats.norm.pdf(z) + z * stats.norm.cdf(z))
    np.testing.assert_allclose(gp.log_improvement(-std * z, std, 0.0), expected, atol=1e-8)
    far = -np.logspace(1.5, 6.0, 50)  # where the closed form is 0: its asymptotic series
    series = np.log(std) + stats.norm.logpdf(far) - 2 * np.log(-far) + np.log1p(-3 / far**2 + 15 / far**4)
    np.testing.assert_allclose(gp.log_improvement(-std * far, std, 0.0), series, atol=1e-4)


@pytest.mark.usefixtures("float64")
def test_what_is_believed_of_running_trials_moves_no_mean_but_makes_points_known():
    x, y, points = told()
    before, after = (gp.believed(THETA, given, y, np.arange(3)) for given in (x, np.concatenate([x, points[:5]])))
    (mean, std), (mean_after, std_after) = gp.posterior(before, points), gp.posterior(after, points)
    np.testing.assert_allclose(mean_after, mean, atol=1e-9)
    assert (std_after[:5] < 0.1 + 0.5 * std[:5]).all() and (std_after <= std + 1e-9).all()


def test_scores_that_diverged_or_failed_do_not_hide_the_others():
    y = gp.standardized(np.array([0.1, 0.2, 0.3, 0.4, 1e9, np.inf]))
    assert y[1] - y[0] > 0.1 and y[4] == y[5] == y.max()
    assert np.isfinite(gp.standardized(np.full(5, 2.0))).all()


def test_one_program_serves_many_histories():
    seen = searched(make("random"), PLAIN, branin, 31)
    make("gp").suggest(PLAIN, seen[:12], 12, 0)
    programs = [gp.loss, gp.conditioned, gp.gain, gp.lack]
    before = [program._cache_size() for program in programs]
    for count in (13, 20, 31):
        make("gp").suggest(PLAIN, seen[:count], count, 0)
    assert [program._cache_size() for program in programs] == before


def test_sabotage_histories_that_are_not_padded_are_noticed(monkeypatch):
    monkeypatch.setattr(gp, "padded", lambda x, y, of: gp.History(x, y, np.full(len(y), True), of))
    seen = searched(make("random"), PLAIN, branin, 14)
    before = gp.loss._cache_size()
    make("gp").suggest(PLAIN, seen[:13], 13, 0)
    make("gp").suggest(PLAIN, seen, 14, 0)
    assert gp.loss._cache_size() == before + 2


def test_a_generation_of_which_most_run_is_not_told():
    seen = searched(CmaEs(), PLAIN, branin, 16)

    def asked(scored):
        """Where the third generation begins, if of the second so many have scores."""
        kept = [s if s.ordinal < 8 + scored else Seen(s.ordinal, s.values, None) for s in seen]
        return CmaEs().suggest(PLAIN, kept, 16, 0)

    assert asked(0) == asked(3) != asked(4) != asked(8)
    lost = [s for s in seen if s.ordinal < 12]
    assert CmaEs().suggest(PLAIN, lost, 16, 0) == asked(4)


@pytest.mark.parametrize(("name", "package"), [("tpe", "optuna"), ("cmaes", "cmaes")])
def test_a_missing_package_is_told_with_what_to_install(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r'pip install "lepjax\[tune\]"'):
        make(name).check(PLAIN)


def test_quasi_random_points_are_more_even_than_chance():
    ours, chance = sobol(4, 0, 64), np.random.default_rng(0).random((64, 4))
    assert qmc.discrepancy(ours) < 0.5 * qmc.discrepancy(chance)
    np.testing.assert_array_equal(sobol(4, 0, 16), ours[:16])


def test_a_grid_has_every_point_once():
    space = {"a": tune.uniform(0, 1), "b": tune.integer(1, 3), "c": tune.choice(["x", "y"])}
    points = [tuple(Grid(4).suggest(space, (), i, 0).values()) for i in range(Grid(4).trials(space))]
    assert points == list(
        itertools.product([0.0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0], [1, 2, 3], ["x", "y"])
    )
    assert len(set(points)) == len(points) == 4 * 3 * 2
    assert sorted({p[0] for p in points}) == pytest.approx([0.0, 1 / 3, 2 / 3, 1.0])


def test_genetic_children_stay_between_and_around_their_parents():
    seen = [Seen(i, {"a": 0.1 * i, "b": 5.0}, float(i)) for i in range(16)]
    child = Genetic(mutation=0.0).suggest(PLAIN, seen, 16, 0)
    assert child["b"] == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("sampler", "space", "told"),
    [
        (CmaEs(), MIXED, "no order"),
        (CmaEs(), {"a": tune.uniform(0, 1)}, "two dimensions"),
        (Grid(1), PLAIN, "1 points"),
        (Grid(400), PLAIN, "grid of 160,000"),
        (Grid(), {"a": tune.integer(1, 10**12)}, "grid of 1,000,000,000,000"),
        (CmaEs(population=3), PLAIN, "a population of 3"),
        (Genetic(population=1), PLAIN, "a population of 1"),
    ],
)
def test_a_space_that_a_sampler_cannot_serve_is_one_line(sampler, space, told):
    with pytest.raises(UserError, match=told):
        sampler.check(space)


def test_an_unknown_sampler_is_told_with_the_nearest():
    with pytest.raises(UserError, match="Did you mean genetic"):
        make("genetics")
