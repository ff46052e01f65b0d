"""Two training steps through the command line for every head and every family that has it."""

import csv
import inspect
import json
import math
import pathlib
import textwrap

import jax
import numpy as np
import pytest

from lepjax.cli import main as command
from lepjax.core.errors import DONE, guarded
from lepjax.models import bert_heads
from lepjax.models.bert import Head
from lepjax.models.bert_family import FAMILIES
from lepjax.run.masked import unigram_entropy
from tests.words import WORDS, bytes_of_roberta, word_pieces

ROOT = pathlib.Path(__file__).parent.parent.parent
HEADS = [name for name, kind in inspect.getmembers(bert_heads, inspect.isclass)
         if issubclass(kind, Head) and kind is not Head]  # fmt: skip
RELATION = ("NextSentence", "PreTraining")  # heads of the families that were pretrained on pairs
CASES = [
    (family, head) for family in FAMILIES for head in HEADS if family in ("bert", "albert") or head not in RELATION
]
FAST = [case for case in CASES if case[0] == "bert" or case[1] in ("SequenceClassification", "MaskedLM")]

# {head: (its arguments, task, data)}
LEARNED = {
    "SequenceClassification": (
        "num_labels=2",
        'Classification(labels=("neg", "pos"))',
        'LabelledText(dataset="class", TEXT)',
    ),
    "TokenClassification": (
        "num_labels=3",
        'Tagging(tags=("B-PER", "I-PER", "O"))',
        'LabelledText(dataset="tags", TEXT)',
    ),
    "MultipleChoice": ("", "MultipleChoice()", 'ChoiceText(dataset="choice", TEXT)'),
    "QuestionAnswering": ("", "QuestionAnswering()", 'QuestionText(dataset="questions", stride=4, TEXT)'),
    "MaskedLM": ("", "MaskedLanguageModeling()", 'MaskedTextFile(path="lines.txt", length=24, tokenizer=FOLDER)'),
    "NextSentence": ("", 'Classification(labels=("next", "random"))', 'SentencePairs(path="lines.txt", PAIRS)'),
    "PreTraining": ("", "PreTraining()", 'SentencePairs(path="lines.txt", masked=True, PAIRS)'),
}
FINAL = {
    "SequenceClassification": "ClassReport()",
    "TokenClassification": "TagReport()",
    "QuestionAnswering": "SquadScores()",
    "MaskedLM": 'UnigramEntropy("dev")',
    "NextSentence": "ClassReport()",
}
SHORT = {
    "TEXT": "data_dir=DATA, tokenizer=FOLDER, max_length=24, batching=Fixed(24)",
    "PAIRS": "length=24, tokenizer=FOLDER",
    "lines.txt": "{data}/lines.txt",
}

FILE = '''
"""{family} with {head}."""
from lepjax.core.optimizers import SGD
from lepjax.data.batching import Fixed
from lepjax.data.choices import ChoiceText
from lepjax.data.documents import MaskedTextFile
from lepjax.data.labelled import LabelledText
from lepjax.data.pairs import SentencePairs
from lepjax.data.questions import QuestionText
from lepjax.experiment import Experiment
from lepjax.models import bert_heads
from lepjax.models.bert import Bert
from lepjax.models.bert_family import FAMILIES
from lepjax.run.answers import SquadScores
from lepjax.run.classified import ClassReport, TagReport
from lepjax.run.masked import UnigramEntropy
from lepjax.tasks.classification import Classification
from lepjax.tasks.masked_lm import MaskedLanguageModeling, PreTraining
from lepjax.tasks.multiple_choice import MultipleChoice
from lepjax.tasks.question_answering import QuestionAnswering
from lepjax.tasks.tagging import Tagging

DATA, FOLDER = {data!r}, {folder!r}
SIZES = dict(vocab_size=400, width=16, layers=1, heads=2, mlp_width=32, positions=26, {sizes})

def experiment() -> Experiment:
    return Experiment(
        model=Bert(architecture=FAMILIES[{family!r}](**SIZES), head=bert_heads.{head}({arguments}), dropout=None),
        task={task},
        data={recipe},
        optimizer=SGD(learning_rate=1e-2),
        mesh="data=1",
        final=({final}),
    )
'''


@pytest.fixture(scope="module", autouse=True)
def compile_quickly():
    """Some 50 small programs: compiling them takes far longer than running them."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Records of every kind, 40 to train on and 5 to evaluate on."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    texts = [[str(word) for word in random.choice(WORDS, random.integers(3, 12))] for _ in range(45)]
    for name in ("class", "tags", "choice", "questions"):
        (folder / name).mkdir()
    for split, part in {"train": texts[:40], "validation": texts[40:]}.items():
        with open(folder / "class" / f"{split}.csv", "w", newline="") as file:
            rows = [(" ".join(words), ("neg", "pos")[i % 2]) for i, words in enumerate(part)]
            csv.writer(file).writerows([("text", "label"), *rows])
        tagged = [
            "\n".join(f"{word} {('O', 'B-PER', 'I-PER')[i % 3]}" for i, word in enumerate(words)) for words in part
        ]
        (folder / "tags" / f"{split}.conll").write_text("\n\n".join(tagged) + "\n")
        choices = [
            {"context": " ".join(words), "choices": ["the fox", "a dog", "who"], "label": i % 3}
            for i, words in enumerate(part)
        ]
        (folder / "choice" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in choices))
        questions = [
            {
                "id": f"{split}{i}",
                "question": "who?",
                "context": " ".join(words),
                "answers": {"text": [words[2]], "answer_start": [len(" ".join(words[:2])) + 1]},
            }
            for i, words in enumerate(part)
        ]
        (folder / "questions" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    lines = [" ".join(words) + "\n" * (1 + (i % 4 == 3)) for i, words in enumerate(texts * 2)]
    (folder / "lines.txt").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def tokenizer_of(tmp_path_factory):
    pieces, units = word_pieces(tmp_path_factory.mktemp("words")), bytes_of_roberta(tmp_path_factory.mktemp("bytes"))
    return lambda family: units if family == "roberta" else pieces


def written(file, family, head, data, folder):
    """The experiment as a file."""
    arguments, task, recipe = LEARNED[head]
    for short, long in SHORT.items():
        recipe = recipe.replace(short, long.format(data=data))
    final = f"{FINAL[head]}," if head in FINAL else ""
    fields = {"family": family, "head": head, "arguments": arguments, "task": task, "recipe": recipe, "final": final}
    sizes = "narrow=8" if family == "albert" else ""
    file.write_text(FILE.format(**fields, data=str(data), folder=folder, sizes=sizes))
    return str(file)


def trained(file, *arguments):
    """(exit code, result.json) of two steps."""
    run = file.parent / "run"
    command_line = ["train", str(file), "--steps", "2", "--data.batch-size", "4", "--run-dir", str(run), *arguments]
    code = guarded(lambda: command.run(command_line))
    return code, json.loads((run / "result.json").read_text()) if (run / "result.json").exists() else {}


def check_trained(code, result, run):
    assert code == DONE and result["steps"] == 2 and result["skipped"] == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train_loss"] for line in lines if "train_loss" in line]
    assert losses and all(isinstance(loss, float) and math.isfinite(loss) for loss in losses)
    assert isinstance(result["dev_loss"], float) and math.isfinite(result["dev_loss"])


@pytest.mark.parametrize(
    ("family", "head"),
    [pytest.param(*case, id=" ".join(case), marks=[] if case in FAST else [pytest.mark.full]) for case in CASES],
)
def test_two_steps(family, head, data, tokenizer_of, tmp_path, capsys):
    file = tmp_path / "head.py"
    written(file, family, head, data, tokenizer_of(family))
    code, result = trained(file)
    assert code == DONE, capsys.readouterr().err
    check_trained(code, result, tmp_path / "run")
    expected = {
        "QuestionAnswering": {"dev_span_accuracy", "dev_exact_match", "dev_f1"},
        "MaskedLM": {"dev_accuracy", "unigram_entropy"},
        "PreTraining": {"dev_accuracy", "dev_relation_loss", "dev_relation_accuracy"},
        "TokenClassification": {"dev_entity_f1"},
    }.get(head, {"dev_accuracy"})
    assert expected <= result.keys()


def test_every_head_is_trained():
    assert {head for _, head in FAST} == set(HEADS) == set(LEARNED)
    assert {family for family, _ in FAST} == set(FAMILIES)


def test_sabotage_a_loss_that_is_not_finite(data, tokenizer_of, tmp_path, capsys):
    file = tmp_path / "head.py"
    written(file, "bert", "MaskedLM", data, tokenizer_of("bert"))
    with open(file, "a") as out:
        out.write(
            textwrap.dedent("""
            import jax.numpy as jnp
            from lepjax.core.step import Term
            def terms(self, outputs, batch, hparams):
                return {"mlm": Term(sum=outputs.sum() * jnp.nan, weight=jnp.float32(1.0))}
            MaskedLanguageModeling.terms = terms
        """)
        )
    from lepjax.tasks.masked_lm import MaskedLanguageModeling

    honest = MaskedLanguageModeling.terms
    try:
        code, result = trained(file)
    finally:
        MaskedLanguageModeling.terms = honest
    with pytest.raises(AssertionError):
        check_trained(code, result, tmp_path / "run")


def test_the_experiment(tmp_path, monkeypatch, capsys):
    """experiments/bert_mlm.py on a small library: its own numbers stand in result.json beside the loss."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    library = tmp_path / "library"
    for i in range(80):
        (library / f"package{i}").mkdir(parents=True)
        code = "".join(f'def f{j}():\n    """{WORDS[(i + j) % len(WORDS)]} number {i} of {j}."""\n' for j in range(12))
        (library / f"package{i}" / "code.py").write_text(code)
    sizes = ["--model.architecture.width", "16", "--model.architecture.layers", "1", "--model.architecture.heads", "2"]
    sizes += ["--data.folder", str(library), "--data.heldout", "0.3", "--mesh", "data=1"]
    (tmp_path / "run").mkdir()
    experiment = tmp_path / "bert_mlm.py"
    experiment.write_text((ROOT / "experiments" / "bert_mlm.py").read_text())
    code, result = trained(experiment, *sizes)
    assert code == DONE, capsys.readouterr().err
    assert 1.0 < result["unigram_entropy"] < math.log(200) and math.isfinite(result["heldout_loss"])


def test_unigram_entropy_by_hand():
    train, scored = np.array([5, 5, 5, 6, 3, 9, 9]), np.array([5, 3, 6, 7])
    words = np.array([5, 6, 7, 8])  # with one more of each: 4, 2, 1, 1 of 8
    assert unigram_entropy(train, scored, words) == pytest.approx(-np.log([4 / 8, 2 / 8, 1 / 8]).mean())


def test_a_mistake_is_one_line(data, tokenizer_of, tmp_path, capsys):
    file = tmp_path / "head.py"
    written(file, "roberta", "NextSentence", data, tokenizer_of("roberta"))
    code, result = trained(file)
    assert code != DONE and not result
    assert "Roberta has no next-sentence head" in capsys.readouterr().err
    written(file, "bert", "PreTraining", data, tokenizer_of("bert"))
    code, result = trained(file, "--model.architecture.vocab-size", "30")
    assert code != DONE and "the data has 76 tokens, the model 30" in capsys.readouterr().err
