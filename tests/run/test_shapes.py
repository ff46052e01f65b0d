"""Texts of unequal length in a whole run: every shape is compiled before step 0, and shapes change nothing else."""

import dataclasses

import jax
import numpy as np
import pytest
from rich.console import Console

from lepjax.core.errors import UserError
from lepjax.core.optimizers import SGD
from lepjax.data import loader
from lepjax.data.batching import Batching, Buckets, Fixed, Packed
from lepjax.data.buckets import BucketPlan
from lepjax.data.encoded import EncodedRecords
from lepjax.data.source import Data, Splits
from lepjax.experiment import Examples, Experiment, Steps, build
from lepjax.models.bert import Bert
from lepjax.models.bert_family import BertArchitecture
from lepjax.models.bert_heads import SequenceClassification
from lepjax.run import train as running
from lepjax.run.compiled import by_shape
from lepjax.run.compiles import WatchCompiles
from lepjax.run.evaluation import Evaluator
from lepjax.run.predict import applied, in_order, predict
from lepjax.run.train import train
from lepjax.tasks.classification import Classification
from lepjax.testing import hex_losses
from lepjax.testing.worker import StopAt

QUIET = Console(quiet=True)
BUCKETS, PACKED = Buckets(lengths=(8, 16)), Packed(length=32, slots=6)
STEPS = 20


def texts(count, seed):
    noise = np.random.default_rng(seed)
    lengths = noise.integers(3, 17, count)
    tokens = noise.integers(1, 30, lengths.sum()).astype(np.int32)
    label = noise.integers(0, 2, count).astype(np.int32)
    return EncodedRecords({"tokens": tokens}, np.concatenate([[0], np.cumsum(lengths)]), {"label": label})


@dataclasses.dataclass(frozen=True)
class Texts(Data):
    """45 random texts of 3 to 16 tokens; 19 more to evaluate on."""

    batch_size: int = 4
    batching: Batching = BUCKETS

    def load(self):
        return Splits(train=texts(45, 0), evaluation={"dev": texts(19, 1)}, labels=("0", "1"), largest_token=29)

    def training(self, source, seed, work):
        return self.batching.training(source, self.batch_size, seed, work)

    def scoring(self, source, rows, work):
        return self.batching.evaluation(source, rows, work)


def experiment(batching=BUCKETS, **changes):
    """A BERT of one layer of width 16."""
    sizes = {"vocab_size": 30, "width": 16, "layers": 1, "heads": 2, "mlp_width": 32, "positions": 32}
    base = Experiment(
        model=Bert(architecture=BertArchitecture(**sizes), head=SequenceClassification(2), dropout=None),
        task=Classification(),
        data=Texts(batching=batching),
        optimizer=SGD(learning_rate=0.1, momentum=0.0),
        length=Steps(STEPS),
        mesh="data=1",
        log_every=1,
        checkpoint_every=0,
    )
    return dataclasses.replace(base, **changes)


# ---- compiling ----


def compiles_and_losses(run, batching=BUCKETS):
    """(programs compiled while training and evaluating, {step: loss}) of a whole run."""
    watch = WatchCompiles(say=lambda line: None, spared=0)
    train(experiment(batching, run_dir=str(run), evaluate_every=Steps(6)), callbacks=[watch], console=QUIET)
    return len(watch.late), hex_losses(run)


@pytest.fixture(scope="module")
def bucketed_run(tmp_path_factory):
    return compiles_and_losses(tmp_path_factory.mktemp("shapes") / "bucketed")


@pytest.fixture(scope="module")
def packed_run(tmp_path_factory):
    return compiles_and_losses(tmp_path_factory.mktemp("shapes") / "packed", PACKED)


def test_every_shape_is_compiled_before_step_0(bucketed_run, packed_run):
    batches = build(experiment()).batches(STEPS)
    widths = [batches[cursor]["tokens"].shape[1] for cursor in range(STEPS)]
    assert set(widths[1:]) - {widths[0]}, "a shape comes after step 0"
    assert bucketed_run[0] == packed_run[0] == 0


def test_sabotage_a_program_that_compiles_when_it_is_called_is_counted(tmp_path, monkeypatch):
    def compile_step(*args):
        compiled, late = running_compile_step(*args), jax.jit(lambda tokens: tokens * 3)
        return lambda state, batch: (late(batch["tokens"]), compiled(state, batch))[1]

    running_compile_step = running.compile_step
    monkeypatch.setattr(running, "compile_step", compile_step)
    assert compiles_and_losses(tmp_path / "run")[0] == 2, "one for each shape"


@pytest.mark.parametrize("left", [0, 1])
def test_sabotage_a_shape_that_was_not_announced_ends_the_run(tmp_path, monkeypatch, left):
    shapes = BucketPlan.shapes
    monkeypatch.setattr(BucketPlan, "shapes", lambda plan: shapes(plan)[left : left + 1])
    with pytest.raises(UserError, match=r"leaf batch\.\w+ is \w+\[4, (8|16)\], compiled for"):
        compiles_and_losses(tmp_path / "run")


def test_a_batch_finds_the_program_of_its_shape():
    def batch(length):
        return {"tokens": np.zeros((4, length)), "weight": np.zeros(4)}

    call = by_shape(lambda batch: lambda state, rows: (state, batch["tokens"].shape), [batch(8), batch(16)], argument=1)
    assert call("state", batch(16)) == ("state", (4, 16))
    assert call("state", batch(8)) == ("state", (4, 8))
    with pytest.raises(UserError, match=r"a batch of tokens \(4, 12\)\. It was compiled for \[\(4, 8\), \(4, 16\)\]"):
        call("state", batch(12))


def test_a_record_that_fits_nowhere_is_refused_before_anything_is_written(tmp_path):
    for batching, where in ((Buckets(lengths=(8, 12)), "data.batching"), (Packed(length=12), "data.batching.length")):
        with pytest.raises(UserError, match=rf"^{where}: a record of 16 tokens"):
            train(experiment(batching, run_dir=str(tmp_path / "run")), console=QUIET)
    assert not (tmp_path / "run").exists()


@dataclasses.dataclass(frozen=True)
class LongToScore(Texts):
    """The longest of the texts to evaluate on is longer than any to train on."""

    def load(self):
        splits = super().load()
        long = EncodedRecords({"tokens": np.ones(20, np.int32)}, np.array([0, 20]), {"label": np.zeros(1, np.int32)})
        return dataclasses.replace(splits, evaluation={"dev": long})


def test_so_is_one_to_evaluate_on(tmp_path):
    with pytest.raises(UserError, match=r"^data.batching: a record of 20 tokens"):
        train(experiment(data=LongToScore(), run_dir=str(tmp_path / "run")), console=QUIET)
    assert not (tmp_path / "run").exists()


def test_splits_of_equal_shapes_share_their_programs():
    built = build(experiment(PACKED))
    twice = dataclasses.replace(built.splits, final={"test": built.splits.evaluation["dev"]})
    built = dataclasses.replace(built, splits=twice, scoring={**built.scoring, "test": built.scoring["dev"]})
    evaluator = Evaluator(built)
    state = built.init()
    assert list(evaluator(state).values()) == list(evaluator.final(state).values())
    assert len(evaluator._programs) == 1


# ---- resuming ----


def resumed(tmp_path, batching, at):
    """The losses of a run that was interrupted after step `at`."""
    chosen = experiment(batching, run_dir=str(tmp_path / "resumed"))
    assert train(chosen, callbacks=[StopAt(at)], console=QUIET).code == 75
    assert max(hex_losses(tmp_path / "resumed")) == at
    train(chosen, console=QUIET)
    return hex_losses(tmp_path / "resumed")


@pytest.mark.parametrize(("batching", "whole"), [(BUCKETS, "bucketed_run"), (PACKED, "packed_run")])
def test_a_run_goes_on_in_the_middle_of_an_epoch(tmp_path, batching, whole, request):
    _, losses = request.getfixturevalue(whole)
    plan = build(experiment(batching)).plan
    at = STEPS - int(plan.steps_per_epoch) // 2
    assert (plan.batch(at - 1)[1] == plan.batch(at)[1].max()).all(), "no epoch begins here"
    assert plan.batch(at)[1].max() > 0, "and it is not the first"
    assert list(losses) == list(range(1, STEPS + 1)) and len(set(losses.values())) == STEPS
    assert resumed(tmp_path, batching, at) == losses


def test_a_longer_run_keeps_the_shapes_it_began_with(tmp_path):
    batching = Buckets(compile_seconds=30.0, flops_per_second=1e6)  # asks for more shapes the more steps there are
    short, longer = (experiment(batching, length=Steps(n), run_dir=str(tmp_path / "run")) for n in (4, 4000))
    assert build(longer).plan.edges != build(short).plan.edges, "chosen anew they would be others"
    train(short, console=QUIET)
    outcome = train(longer, callbacks=[StopAt(6)], console=QUIET)
    assert (outcome.code, outcome.result["steps"]) == (75, 6)
    assert outcome.directory.passes() == build(short).work.epochs


def test_examples_count_records_also_where_rows_hold_several():
    packed, padded = (build(experiment(b, length=Examples(90))) for b in (PACKED, BUCKETS))
    for built in (packed, padded):
        assert built.total_steps == 2 * built.plan.steps_per_epoch
    assert packed.total_steps < padded.total_steps


def test_sabotage_a_cursor_that_is_off_by_one_is_noticed(tmp_path, monkeypatch, bucketed_run):
    batch = BucketPlan.batch
    monkeypatch.setattr(BucketPlan, "batch", lambda plan, cursor: batch(plan, cursor + (cursor >= 15)))
    found = resumed(tmp_path, BUCKETS, 15)
    assert {step for step, loss in bucketed_run[1].items() if found[step] != loss} == set(range(16, STEPS + 1))


# ---- evaluating ----


@pytest.fixture(scope="module")
def state():
    """Parameters far enough from their beginning that records differ."""
    built = build(experiment())
    fresh = built.init()
    return dataclasses.replace(fresh, params=jax.tree.map(lambda x: 4 * x, fresh.params))


@pytest.fixture(scope="module")
def of_one_shape(state):
    return Evaluator(build(experiment(Fixed(length=16))))(state)


def check_metrics(batching, state, expected):
    assert 0.1 < expected["dev_accuracy"] < 0.9 and expected["dev_roc_auc"] not in (0.0, 0.5, 1.0)
    assert Evaluator(build(experiment(batching)))(state) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("batching", [BUCKETS, PACKED], ids=["buckets", "packed"])
def test_metrics_equal_those_of_one_shape(batching, state, of_one_shape):
    check_metrics(batching, state, of_one_shape)


@pytest.mark.parametrize("batching", [BUCKETS, PACKED], ids=["buckets", "packed"])
def test_sabotage_padding_that_counts_is_noticed(batching, state, of_one_shape, monkeypatch):
    def leaking(source, ids, epochs):
        rows = load_rows(source, ids, epochs)
        return {**rows, **{name: np.ones_like(rows[name]) for name in ("weight", "slot_weight") if name in rows}}

    load_rows = loader.load_rows
    monkeypatch.setattr(loader, "load_rows", leaking)
    with pytest.raises(AssertionError):
        check_metrics(batching, state, of_one_shape)


def predictions(batching, state):
    """[(record ids, host rows, logits)] of the evaluation split, and how many records it has."""
    built = build(experiment(batching))
    source = built.splits.evaluation["dev"]
    arranged, plan = built.experiment.data.scoring(source, 4, built.work)
    apply = applied(built.experiment.task, built.model)
    return list(predict(apply, state.params, state.model_state, arranged, plan, built.placement)), len(source)


def test_predictions_come_back_in_the_order_of_the_records(state):
    bucketed, records = predictions(BUCKETS, state)
    packed, _ = predictions(PACKED, state)
    assert {rows["tokens"].shape for _, rows, _ in bucketed} == {(4, 8), (4, 16)}
    assert {rows["tokens"].shape for _, rows, _ in packed} == {(4, 32)}
    ours, theirs = (in_order(iter(parts), records) for parts in (bucketed, packed))
    assert ours.shape == (records, 2)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    as_they_come = np.concatenate([logits for _, _, logits in bucketed])[:records]
    assert np.abs(as_they_come - theirs).max() > 1e-2, "sabotage: in the order of the batches"
