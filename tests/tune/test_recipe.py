"""From findings to an experiment and a space: pure functions, and each choice has a reason."""

import dataclasses
import math
import re

import jax
import numpy as np
import pytest

from lepjax.core.parameters import flat
from lepjax.experiment import build
from lepjax.models.bert import Bert
from lepjax.models.bert_family import BertArchitecture
from lepjax.models.bert_heads import SequenceClassification
from lepjax.tune.alone import Alone
from lepjax.tune.assign import assigned, resolve
from lepjax.tune.budget import Plan
from lepjax.tune.candidates import Candidate, Coverage, look
from lepjax.tune.inspect import inspect
from lepjax.tune.objective import objective
from lepjax.tune.programs import Job
from lepjax.tune.recipe import chosen, recipe, search, winner
from lepjax.tune.space import check_space
from tests.tune.folders import rows, write

ARCH = BertArchitecture(vocab_size=76, width=16, layers=2, heads=2, mlp_width=32, positions=64)
PLAN = Plan(epochs=3.0, final=100.0, search=200.0, trials=12, trial_epochs=1.0, groups=4)


def candidate(length=20, positions=64, name=""):
    arch = dataclasses.replace(ARCH, positions=positions)
    model = Bert(pretrained=name, architecture=arch, head=SequenceClassification(2))
    return Candidate(name, model, "tokenizer", Coverage(0.0, 1.0), np.full(100, length), 1000)


@pytest.fixture
def balanced(tmp_path):
    return inspect(str(write(tmp_path / "even", train=rows(100), dev=rows(10, start=200))))


@pytest.fixture
def unbalanced(tmp_path):
    return inspect(str(write(tmp_path / "odd", train=rows(100, rare=10), dev=rows(10, start=200))))


def because(reasons, what):
    return next(reason for reason in reasons if reason.what == what)


def test_a_recipe_is_a_pure_function(balanced):
    assert recipe(balanced, candidate(), 1, "data=1") == recipe(balanced, candidate(), 1, "data=1")


def test_the_held_out_records_take_no_part_in_the_search(balanced):
    made = recipe(balanced, candidate(), 1, "data=1")
    assert made.metric == "tune_accuracy" and made.experiment.data.tune == 0.2
    final = winner(made.experiment, 2.0)
    assert final.data.tune == 0.0 and final.best == "" and final.length.epochs == 2.0


def test_unbalanced_classes_get_another_metric_and_weights_in_the_space(balanced, unbalanced):
    made = recipe(unbalanced, candidate(), 1, "data=1")
    assert made.metric == "tune_matthews" and "9.0 times" in because(made.reasons, "metric").because
    assert "task.class_weights" in search(unbalanced, made, PLAN).space
    assert "task.class_weights" not in search(balanced, recipe(balanced, candidate(), 1, "data=1"), PLAN).space


@pytest.mark.parametrize(
    ("length", "positions", "expected", "reason"),
    [
        (20, 512, 24, "100.0% of the texts are whole"),
        (200, 64, 64, "the model reads no more"),
        (400, 512, 256, "time grows"),
    ],
)
def test_lengths(balanced, length, positions, expected, reason):
    made = recipe(balanced, candidate(length, positions), 1, "data=1")
    assert made.experiment.data.max_length == expected <= made.experiment.data.batching.length
    assert reason in because(made.reasons, "length").because


def test_rows_divide_over_the_devices(balanced):
    assert recipe(balanced, candidate(), 8, "auto").experiment.data.batch_size % 8 == 0


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_the_space_has_no_more_shapes_than_the_plan_allows(unbalanced, groups):
    made = recipe(unbalanced, candidate(), 1, "data=1")
    found = search(unbalanced, made, dataclasses.replace(PLAN, groups=groups))
    check_space(found.space)
    leaves = ("optimizer.learning_rate", "model.dropout", "task.label_smoothing", "length.epochs")
    shapes = [d.options for name, d in found.space.items() if name not in leaves]
    assert math.prod(map(len, shapes)) <= groups
    fixed = [reason for reason in found.reasons if "not searched" in reason.chosen and "program" in reason.because]
    assert len(fixed) == 3 - len(shapes)


def test_the_space_fits_the_experiment_and_begins_at_the_recipe(balanced):
    made = recipe(balanced, candidate(), 1, "data=1")
    found = search(balanced, made, PLAN)
    fields = resolve(made.experiment, found.space)
    values = {field.path: dict(found.first)[name] for name, field in fields.items()}
    assert values["optimizer.learning_rate"] == made.experiment.optimizer.learning_rate
    assert values["data.batch_size"] == made.experiment.data.batch_size if "data.batch_size" in values else True


def moved(experiment, steps=3):
    """{name of a parameter of a layer: whether some steps of the search's own program change it}"""
    built = build(experiment)
    program = Alone(built, objective(experiment, tuple(built.splits.evaluation)))
    job = Job(experiment, steps, built.batches(), built.plan.fingerprint)
    states, losses = program.init([job]), []
    before = jax.device_get(states.state.params)
    for batch in program.stream([job]):
        states, loss = program.step(states, batch)
        losses.append(float(loss))
    assert len(losses) == steps and np.isfinite(losses).all() and np.isfinite(program.score(states)).all()
    found = {}
    arrays = map(jax.tree.leaves, (before, jax.device_get(states.state.params)))
    for leaf, old, new in zip(flat(built.model.leaves), *arrays, strict=True):
        pairs = zip(old, new, strict=True) if leaf.stacked else [(old, new)]
        found |= {name: not np.array_equal(*pair) for name, pair in zip(leaf.names, pairs, strict=True)}
    return found


@pytest.mark.full
def test_all_that_is_searched_around_a_pretrained_model_can_be_built_and_takes_steps(balanced, unbalanced, tiny_bert):
    """One shape after another: each is a program of its own, and does what its name says."""
    one, tried = look(tiny_bert, balanced.train.columns["text"], None, 2), {}
    for data in (balanced, unbalanced):
        made = recipe(data, one, 1, "data=1")
        found = search(data, made, PLAN)
        fields = resolve(made.experiment, found.space)
        for name in {"task.class_weights", "optimizer.freeze", "model.keep", "data.batch_size"} & found.space.keys():
            for value in found.space[name].options[1:]:
                tried[name, value] = moved(assigned(made.experiment, {**dict(found.first), name: value}, fields))
    embeddings, lower = r"^embeddings\.", r"^(embeddings|encoder\.layer\.(0))\."
    assert tried.keys() == {
        ("task.class_weights", "auto"),
        ("model.keep", 1),
        ("optimizer.freeze", embeddings),
        ("optimizer.freeze", lower),
    }
    for (name, value), changed in tried.items():
        frozen = {one for one in changed if name == "optimizer.freeze" and re.search(value, one)}
        assert {one for one, did in changed.items() if not did} == frozen
        assert any(one.startswith("encoder.layer.1.") for one in changed) == (name != "model.keep")


def test_epochs_are_searched_where_trials_are_whole(balanced):
    made = recipe(balanced, candidate(), 1, "data=1")
    whole = search(balanced, made, dataclasses.replace(PLAN, trial_epochs=3.0))
    assert whole.space["length.epochs"].options == (3.0, 1.5)
    assert "length.epochs" not in search(balanced, made, PLAN).space


def test_more_trials_search_more(balanced):
    made = recipe(balanced, candidate(), 1, "data=1")
    assert "optimizer.weight_decay" in search(balanced, made, dataclasses.replace(PLAN, trials=40)).space


@pytest.mark.parametrize(
    ("scores", "best", "tried", "taken"),
    [
        ({0: 0.85, 3: 0.87}, 3, 6, True),  # of six equal trials the best leads by 0.016
        ({0: 0.85, 3: 0.87}, 3, 40, False),  # of forty by 0.028
        ({0: 0.85, 3: 0.90}, 3, 40, True),
        ({0: 0.85}, 0, 40, True),
        ({4: 0.7}, 4, 40, True),
    ],
)
def test_a_lead_that_luck_has_too_is_not_taken(scores, best, tried, taken):
    assert chosen(scores, best, tried, 800, "accuracy")[0] is taken


def test_the_luck_of_the_best_is_what_simulated_trials_have():
    noise = np.random.default_rng(0).binomial(800, 0.85, (4000, 12)) / 800
    expected = float(np.mean(noise.max(axis=1) - 0.85))
    leads = [
        lead for lead in np.arange(0.001, 0.05, 0.0005) if chosen({0: 0.85, 1: 0.85 + lead}, 1, 12, 800, "accuracy")[0]
    ]
    assert leads[0] == pytest.approx(expected, abs=0.001)


def test_sabotage_without_records_to_trust_it_is_not_luck():
    assert chosen({0: 0.85, 3: 0.855}, 3, 12, 10**6, "accuracy")[0]
    assert not chosen({0: 0.85, 3: 0.855}, 3, 12, 800, "accuracy")[0]


def test_every_reason_says_why(unbalanced):
    made = recipe(unbalanced, candidate(), 1, "data=1")
    reasons = (*made.reasons, *search(unbalanced, made, PLAN).reasons)
    assert all(reason.what and reason.chosen and reason.because for reason in reasons)
    assert all(", because " in str(reason) for reason in reasons)
