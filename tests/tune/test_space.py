"""Ranges and choices, and the fields that their names mean."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepjax import tune
from lepjax.core.errors import UserError
from lepjax.tune.assign import assigned, overrides, resolve
from lepjax.tune.space import at, check_space, units
from tests.tune.digits import SPACE, experiment

NUMBERS = st.floats(1e-6, 1e6)
DIMENSIONS = st.one_of(
    st.tuples(NUMBERS, NUMBERS).filter(lambda p: p[0] < 0.999 * p[1]).map(lambda p: tune.uniform(*p)),
    st.tuples(NUMBERS, NUMBERS).filter(lambda p: p[0] < 0.999 * p[1]).map(lambda p: tune.loguniform(*p)),
    st.tuples(st.integers(-50, 50), st.integers(0, 50)).map(lambda p: tune.integer(p[0], p[0] + p[1])),
    st.lists(st.text(max_size=3), min_size=1, max_size=5, unique=True).map(tune.choice),
)


@given(DIMENSIONS, st.floats(0.0, 1.0))
def test_a_value_lies_in_its_range_and_finds_its_place_again(dimension, unit):
    value = dimension.value(unit)
    check_space({"x": dimension})
    if dimension.options is None:
        assert dimension.low <= value <= dimension.high
        assert math.isclose(dimension.unit(value), unit, abs_tol=1e-6)
    else:
        assert value in dimension.options
        assert dimension.value(dimension.unit(value)) == value
    assert at({"x": dimension}, units({"x": dimension}, {"x": value}))["x"] == pytest.approx(value)


def test_wide_ranges():
    wide = tune.loguniform(1e-300, 1e300)
    assert wide.value(0.5) == pytest.approx(1.0) and wide.unit(1e150) == pytest.approx(0.75)
    assert len(tune.integer(0, 10**15).options) == 10**15 + 1


@pytest.mark.parametrize("dimension", [tune.integer(0, 3), tune.choice(["a", "b", "c"])])
def test_options_are_equally_likely(dimension):
    values = [dimension.value((i + 0.5) / 1200) for i in range(1200)]
    assert {values.count(option) for option in dimension.options} == {1200 // len(dimension.options)}


BAD = {
    "nothing": ({}, "nothing to search"),
    "empty range": ({"learning_rate": tune.uniform(1, 1)}, "empty range"),
    "empty whole range": ({"warmup": tune.integer(3, 2)}, "empty range"),
    "log through 0": ({"learning_rate": tune.loguniform(0, 1)}, "begin above 0"),
    "infinite": ({"learning_rate": tune.uniform(0, math.inf)}, "finite"),
    "no choice": ({"model.activation": tune.choice([])}, "no values"),
    "twice": ({"model.activation": tune.choice(["relu", "relu"])}, "twice"),
    "equal values": ({"model.activation": tune.choice([1, True])}, "twice"),
    "no number": ({"dropout": tune.choice([0.1, math.nan])}, "nan cannot be chosen"),
    "too wide": ({"dropout": tune.uniform(-1e308, 1e308)}, "finite"),
    "no whole number": ({"batch_size": tune.integer(1.0, 2)}, "no whole number"),
    "unknown field": ({"model.num_layers": tune.integer(1, 2)}, "no such field"),
    "wrong kind": ({"batch_size": tune.uniform(8, 16)}, "tune.integer"),
    "wrong word": ({"model.activation": tune.choice(["relu", "rely"])}, "rely"),
    "refused value": ({"dropout": tune.uniform(0, 3)}, "no rate"),
    "runtime field": ({"log_every": tune.integer(1, 4)}, "does not change what is learned"),
    "the same field twice": ({"dropout": tune.uniform(0, 0.5), "model.dropout": tune.uniform(0, 0.5)}, "are both"),
    "no dimension": ({"dropout": 0.5}, "no range"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_space_is_one_line(case):
    space, told = BAD[case]
    with pytest.raises(UserError, match=told) as error:
        resolve(experiment(), space)
    assert "space" in str(error.value) and "\n" not in str(error.value)


def test_names_find_fields_and_leaves():
    found = resolve(experiment(), SPACE)
    assert found["warmup_steps"].path == "optimizer.schedule.warmup"
    assert found["decay_steps"].path == "optimizer.schedule.end"
    assert found["seed"].path == "seed"
    values = at(SPACE, [0.5] * len(SPACE))
    made = assigned(experiment(), values, found)
    hparams = made.hparams(40)
    for name in SPACE.keys() - {"seed"}:
        assert hparams[name] == pytest.approx(values[name])
    assert made.seed == values["seed"]


def test_overrides_are_what_the_command_line_takes():
    from lepjax.cli._overrides import apply

    base = dataclasses.replace(experiment(), accumulate=1)
    space = {**SPACE, "model.activation": tune.choice(["relu", "gelu"])}
    found = resolve(base, space)
    values = at(space, [0.3] * len(space))
    assert apply(base, overrides(values, found).split(), "x") == assigned(base, values, found)
