"""What an experiment costs: reading, compiling, steps and scoring, each with a bound."""

import dataclasses
import time

import jax
import pytest

from lepjax import experiment as experiments
from lepjax.models.bert import Bert
from lepjax.models.bert_family import BertArchitecture
from lepjax.models.bert_heads import SequenceClassification
from lepjax.tune import measure as module
from lepjax.tune.alone import Alone
from lepjax.tune.candidates import from_scratch
from lepjax.tune.inspect import inspect
from lepjax.tune.measure import SAVED, SavedByCache, measure
from lepjax.tune.objective import objective
from lepjax.tune.recipe import recipe
from tests.tune.folders import rows, write

SMALL = BertArchitecture(vocab_size=200, width=8, layers=1, heads=1, mlp_width=8, positions=64)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """On 300 training records, 60 of which are set aside."""
    folder = tmp_path_factory.mktemp("measure")
    found = inspect(str(write(folder / "data", train=rows(300), dev=rows(20, start=400))))
    one = from_scratch(found.train.columns["text"], None, 2, folder / "vocabulary")
    arch = dataclasses.replace(SMALL, vocab_size=one.model.arch.vocab_size)
    model = Bert(architecture=arch, head=SequenceClassification(2))
    return recipe(found, dataclasses.replace(one, model=model), 1, "data=1").experiment


def test_reading_counts_and_steps_and_scoring_end_in_time(experiment, monkeypatch):
    steps, build, step = [], experiments.build, Alone.step

    def slow(experiment):
        time.sleep(0.5)
        return build(experiment)

    monkeypatch.setattr(module.experiments, "build", slow)
    monkeypatch.setattr(Alone, "step", lambda self, *given: steps.append(1) or step(self, *given))
    cost, work = measure(experiment, 20, most=0.0)
    assert cost.build >= 0.5 and len(steps) == 2 and min(cost.step, cost.score, cost.compile) > 0
    assert work.tune_records == 60 and work.held_records == 20
    assert work.steps_per_epoch == pytest.approx(work.search_steps_per_epoch * 300 / 240)


def test_only_some_records_are_scored(experiment, monkeypatch):
    monkeypatch.setattr(module, "SCORED", 10)
    built = experiments.build(experiment)
    few, records = module._beginning(built, "tune")
    assert 10 <= records < 60 and len(few.scored("tune")) < len(built.scored("tune"))
    read = [rows["slot_weight"].sum() for rows in (few.scored("tune")[i] for i in range(len(few.scored("tune"))))]
    assert sum(read) == records
    goal = objective(experiment, ("tune",))
    program, whole = Alone(few, goal), Alone(built, goal)
    assert len(program._evaluate._splits["tune"][0]) < len(whole._evaluate._splits["tune"][0])


def test_what_the_compile_cache_saves_counts_as_compiling():
    with SavedByCache() as cache:
        jax.monitoring.record_event_duration_secs(SAVED, 3.0)
        jax.monitoring.record_event_duration_secs(SAVED, -0.1)  # to read it took longer than to compile
        jax.monitoring.record_event_duration_secs("/jax/core/compile/backend_compile_duration", 7.0)
    jax.monitoring.record_event_duration_secs(SAVED, 5.0)
    assert cache.seconds == 3.0


def test_the_cache_tells_under_that_name(monkeypatch):
    """JAX keeps whole seconds, too few for a program of a test: that it tells is all that can be seen."""
    told = []
    monkeypatch.setattr(SavedByCache, "_duration", lambda self, event, seconds, **_: told.append(event))
    least = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    try:
        for _ in range(2):
            jax.clear_caches()
            with SavedByCache():
                jax.jit(lambda x: jax.numpy.sin(x) + 17.25).lower(jax.numpy.ones(37)).compile()
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
    assert SAVED in told
