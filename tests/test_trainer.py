"""The face: a pretrained model, two data sets, a few lines."""

import jax
import numpy as np
import pytest

from lepjax import Trainer, datasets, optimizers, tune
from lepjax.core.errors import UserError
from lepjax.data.batching import Fixed, Packed
from lepjax.experiment import EarlyStopping
from lepjax.models import BertForMaskedLM, BertForSequenceClassification, BertForTokenClassification, BertModel
from lepjax.report.html import Report
from lepjax.run.fit import interrupted


@pytest.fixture(scope="module")
def sst2(test_data):
    train, dev = datasets.load("sst2", split=["train", "dev"], data_dir=str(test_data / "sst2"), say=lambda line: None)
    return train.head(256), dev.head(100)


def fitted(tiny_bert, sst2, folder, **options):
    model = BertForSequenceClassification.from_pretrained(tiny_bert, num_labels=2, dropout=None)
    given = {
        "optimizer": optimizers.adamw(lr=3e-3),
        "max_epochs": 2,
        "batching": Fixed(64),
        "max_length": 64,
        "quiet": True,
    }
    return Trainer(model, *sst2, run_dir=str(folder), **{**given, **options})


@pytest.fixture(scope="module")
def trained(tiny_bert, sst2, tmp_path_factory):
    trainer = fitted(tiny_bert, sst2, tmp_path_factory.mktemp("run"))
    before = jax.tree.map(np.array, trainer.model.params)
    given = trainer.model
    history = trainer.train()
    return trainer, history, given, before


def test_the_history_holds_every_epoch(trained):
    _, history, _, _ = trained
    assert [line["step"] for line in history.evaluations] == [8, 16]
    assert history.result["best"]["metric"] == "dev_accuracy"
    assert history.result["status"] == "done"


def test_the_model_that_was_given_is_as_it_was(trained):
    trainer, _, given, before = trained
    jax.tree.map(np.testing.assert_array_equal, given.params, before)
    assert trainer.model is not given
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), trainer.model.params, before)
    assert all(jax.tree.leaves(changed))


def test_the_best_parameters_are_what_the_trainer_holds(trained):
    trainer, history, _, _ = trained
    best = max(history.evaluations, key=lambda line: line["dev_accuracy"])
    scores = trainer.evaluate()
    assert scores["accuracy"] == pytest.approx(best["dev_accuracy"])
    assert scores["loss"] == pytest.approx(best["dev_loss"], rel=1e-5)


def test_predictions_agree_with_evaluation(trained, sst2):
    trainer, dev = trained[0], sst2[1]
    predicted = trainer.predict(dev)
    named = [dev.labels[i] for i in dev.label_ids()]
    accuracy = np.mean([a == b for a, b in zip(predicted.labels, named, strict=True)])
    assert accuracy == pytest.approx(trainer.evaluate(dev)["accuracy"])
    np.testing.assert_allclose(predicted.scores.sum(axis=1), 1.0, rtol=1e-5)
    again = trainer.predict([row["text"] for row in (dev[i] for i in range(len(dev)))])
    np.testing.assert_array_equal(again.scores, predicted.scores)
    shuffled = trainer.predict([dev[i]["text"] for i in reversed(range(len(dev)))])
    np.testing.assert_allclose(shuffled.scores[::-1], predicted.scores, atol=1e-6)


def test_packed_predictions_are_the_same(trained, sst2, tiny_bert):
    trainer, dev = trained[0], sst2[1]
    packed = Trainer(trainer.model, dev_dataset=dev, batching=Packed(length=128), tokenizer=str(tiny_bert), quiet=True)
    np.testing.assert_allclose(packed.predict(dev).scores, trainer.predict(dev).scores, atol=1e-5)
    assert packed.evaluate()["accuracy"] == trainer.evaluate(dev)["accuracy"]


def test_the_same_trainer_again_only_tells_the_result(trained, tiny_bert, sst2):
    _, history, _, _ = trained
    again = fitted(tiny_bert, sst2, history.run_dir)
    told = again.train()
    assert told.result == history.result and told.evaluations == history.evaluations
    jax.tree.map(np.testing.assert_array_equal, again.model.params, trained[0].model.params)


class Interrupted(Report):
    """Ends the run as Ctrl-C would, at a step after the best epoch (the third step of the second)."""

    def stepped(self, loop):
        if loop.step == 11:
            loop.stop = interrupted("Ctrl-C")


def test_an_interrupted_training_leaves_the_best_parameters(trained, tiny_bert, sst2, tmp_path, monkeypatch):
    history = trained[1]
    monkeypatch.setattr("lepjax.trainer.Report", Interrupted)
    trainer = fitted(tiny_bert, sst2, tmp_path)
    told = trainer.train()
    assert told.result["status"] == "interrupted" and told.result["best"]["step"] == 8
    assert trainer.evaluate()["loss"] == pytest.approx(history.evaluations[0]["dev_loss"], rel=1e-5)
    last = fitted(tiny_bert, sst2, tmp_path / "last", best="")
    last.train()
    with pytest.raises(AssertionError):  # without a metric to choose by, it is the last
        jax.tree.map(np.testing.assert_array_equal, last.model.params, trainer.model.params)


def test_a_callback_changes_how_training_begins(tiny_bert, sst2, tmp_path, monkeypatch):
    """Interrupted, what is opened again is the run as the callback has made it."""
    monkeypatch.setattr("lepjax.trainer.Report", Interrupted)
    monkeypatch.setattr("lepjax.tune.batch_finder.SECONDS", 0.0)
    finder = tune.FindBatch(most=64)
    trainer = fitted(tiny_bert, sst2, tmp_path / "run", callbacks=[finder], max_epochs=3)
    told = trainer.train()
    assert told.result["status"] == "interrupted" and finder.found.largest == 64
    assert [line["step"] for line in told.evaluations] == [256 // 64, 2 * 256 // 64]
    best = min(line["dev_loss"] for line in told.evaluations if line["step"] == told.result["best"]["step"])
    assert trainer.evaluate()["loss"] == pytest.approx(best, rel=1e-5)


def test_a_saved_model_says_the_same(trained, sst2, tmp_path):
    trainer, dev = trained[0], sst2[1]
    folder = trainer.model.save_pretrained(tmp_path / "out")
    model = BertForSequenceClassification.from_pretrained(folder)
    assert model.labels == ("negative", "positive") and not model.new
    again = Trainer(model, dev_dataset=dev, batching=Fixed(64), max_length=64, quiet=True)
    np.testing.assert_array_equal(again.predict(dev).scores, trainer.predict(dev).scores)


def test_training_starts_from_the_model_that_was_given(trained, tiny_bert, sst2, tmp_path):
    """A trained model trained on with a rate of zero stays what it is."""
    trainer = trained[0]
    options = {"max_steps": 1, "batching": Fixed(64), "max_length": 64, "quiet": True, "best": ""}
    still = Trainer(
        trainer.model, *sst2, optimizers.adamw(lr=0.0), run_dir=str(tmp_path), tokenizer=str(tiny_bert), **options
    )
    still.train()
    jax.tree.map(np.testing.assert_array_equal, still.model.params, trainer.model.params)


def test_frozen_parameters_stay(tiny_bert, sst2, tmp_path):
    trainer = fitted(tiny_bert, sst2, tmp_path, freeze=r"^(embeddings|encoder)", max_epochs=None, max_steps=2)
    before = jax.tree.map(np.array, trainer.model.params)
    trainer.train()
    for part in ("embeddings", "encoder"):
        jax.tree.map(np.testing.assert_array_equal, trainer.model.params[part], before[part])
    assert not np.array_equal(
        trainer.model.params["head"]["classifier"]["kernel"], before["head"]["classifier"]["kernel"]
    )


def test_options_reach_the_experiment(tiny_bert, sst2, tmp_path):
    experiment = fitted(
        tiny_bert,
        sst2,
        tmp_path,
        class_weights={"positive": 2.0},
        label_smoothing=0.1,
        ema=0.99,
        grad_accumulation=4,
        early_stopping=EarlyStopping("dev_accuracy", "max"),
        optimizer=optimizers.adamw(lr=1e-3, lr_multipliers=optimizers.layer_decay(0.9, layers=2)),
    ).experiment
    assert experiment.task.class_weights == (("positive", 2.0),) and experiment.task.label_smoothing == 0.1
    assert experiment.accumulate == 4 and experiment.ema == 0.99
    assert dict(experiment.optimizer.lr_multipliers)["^embeddings"] == pytest.approx(0.9**3)
    assert experiment.best_mode == "max"


def test_words_are_tagged(tiny_bert, test_data, tmp_path):
    folder = str(test_data / "resume_ner_zh")
    train, dev = datasets.load("resume_ner_zh", split=["train", "dev"], data_dir=folder, say=lambda line: None)
    train, dev = train.head(64), dev.head(20)
    model = BertForTokenClassification.from_pretrained(tiny_bert, num_labels=len(train.labels))
    trainer = Trainer(model, train, dev, max_epochs=1, run_dir=str(tmp_path / "run"), quiet=True, max_length=160)
    history = trainer.train()
    assert 0.0 <= history.evaluations[-1]["dev_entity_f1"] <= 1.0
    predicted = trainer.predict(dev)
    assert [len(tags) for tags in predicted.labels] == [min(len(row), 158) for row in dev.columns["tokens"]]


def test_tagged_words_are_not_packed(tiny_bert, test_data, tmp_path):
    data = str(test_data / "resume_ner_zh")
    train = datasets.load("resume_ner_zh", split="train", data_dir=data, say=lambda line: None).head(8)
    model = BertForTokenClassification.from_pretrained(tiny_bert, num_labels=len(train.labels))
    with pytest.raises(UserError, match="packed rows of tagged words"):
        Trainer(model, train, max_steps=1, batching=Packed(256), run_dir=str(tmp_path), quiet=True).train()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m, t, d: Trainer(m(num_labels=3), t, d), "2 labels, the model's head 3"),
        (
            lambda m, t, d: Trainer(m(num_labels=2), t, d, max_epochs=1, max_steps=5),
            "max_epochs, max_steps, max_examples",
        ),
        (lambda m, t, d: Trainer(m(num_labels=2), t, d, class_weights={"good": 2.0}), "no label 'good'"),
        (lambda m, t, d: Trainer(m(num_labels=2), t, d, freeze="nothing_like_it").train(), "matches no parameter"),
        (lambda m, t, d: Trainer(m(num_labels=2), t, d, best="dev_glory").train(), "no metric 'dev_glory'"),
        (lambda m, t, d: Trainer(m(num_labels=2), dev_dataset=d).train(), "no train_dataset"),
        (lambda m, t, d: Trainer(m(num_labels=2)).evaluate(), "no data set"),
        (lambda m, t, d: Trainer(m(num_labels=2), t, d).predict("one text"), "Pass a list"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(make, message, tiny_bert, sst2, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        make(lambda **options: BertForSequenceClassification.from_pretrained(tiny_bert, **options), *sst2)
    assert not list(tmp_path.iterdir())


def test_heads_without_labels_are_for_experiments(tiny_bert, sst2):
    for kind in (BertModel, BertForMaskedLM):
        with pytest.raises(UserError, match="Write an Experiment"):
            Trainer(kind.from_pretrained(tiny_bert), *sst2)


def test_face_and_function_agree(tiny_bert):
    model = BertForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    ids = np.array([[101, 2023, 2003, 102], [101, 2204, 102, 0]])
    mask = (ids > 0).astype(int)
    logits = model(ids, attention_mask=mask).logits
    pure, _ = model.functional.apply(model.params, {}, ids, mask=mask)
    np.testing.assert_allclose(logits, pure, atol=1e-6)
    assert "head.classifier.kernel" in model.new and "parameters" in model.summary()
