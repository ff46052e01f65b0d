"""Whatever the flags say: an experiment is built, or one line tells why not, in less than two seconds."""

import dataclasses
import math
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lepjax.cli import _choices
from lepjax.cli._overrides import apply, flags
from lepjax.core.errors import UserError
from lepjax.core.plateau import Plateau
from lepjax.core.schedules import Cosine, Exponential, WarmupStableDecay
from lepjax.data.batching import Buckets, Packed
from lepjax.experiment import EarlyStopping, Epochs, Steps, build
from lepjax.run.evaluation import check_monitors
from tests.labelled import Labelled, labelled
from tests.tiny import tiny

SECONDS = 2.0  # of the processor: the machine may be busy
RULES = {"early_stopping": EarlyStopping(), "plateau": Plateau(), "ema": 0.9, "best": "dev_loss"}
BASES = (
    tiny(**RULES, evaluate_every=Steps(5)),
    tiny(length=Epochs(2.0), precision="float16", accumulate=2, evaluate_every=Epochs(0.5), mesh="data=1"),
    labelled(data=Labelled(batch_size=8, batching=Buckets(lengths=(8, 16))), **RULES),
    labelled(data=Labelled(batch_size=8, batching=Packed(length=24, slots=4))),
)
SCHEDULED = tuple(
    dataclasses.replace(base, optimizer=dataclasses.replace(base.optimizer, schedule=schedule))
    for base, schedule in zip(BASES, (Exponential(), WarmupStableDecay(), Cosine(warmup=0.5), Cosine()), strict=True)
)

WHOLE = st.sampled_from([-(2**63), -7, -1, 0, 1, 2, 3, 4, 7, 8, 16, 24, 32, 64, 100, 1000, 10**6, 2**31, 10**12])
REAL = st.sampled_from([math.nan, math.inf, -math.inf, -1.0, -0.0, 1e-300, 1e-3, 0.1, 0.5, 0.999, 1.0, 1.5, 1e6, 1e300])
SMALL = {
    "layers": [-1, 0, 1, 2, 3, 8, 10**6, 10**12],  # many that are allowed take longer than two seconds
    "size": [0, 1, 40, 300, 4000],  # of the tests' own data
    "records": [0, 1, 7, 100],
}
WORD = st.sampled_from(
    ["", " ", "x", "None", "none", "True", "False", "auto", "min", "max", "dev_loss", "dev_accuracy"]
)
WORD |= st.sampled_from(
    ["full", "dots", "offload", "float16", "bfloat16", "float64", "bfloat16_stored", "(", "**", "\0"]
)
MESH = st.lists(
    st.tuples(
        st.sampled_from(["data", "fsdp", "tensor", "sequence", "expert", "stage", "x", ""]),
        st.sampled_from(["-1", "0", "1", "2", "3", "4", "8", "16", "", "x", "1.5", "9" * 30]),
    ).map("=".join),
    max_size=3,
).map(",".join)
ANY = WHOLE.map(str) | REAL.map(str) | WORD | MESH | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
LENGTHS = {"--steps": 1, "--epochs": 1.0, "--examples": 1}
OFTEN = ["--mesh", "--accumulate", "--precision", "--data.batch-size", "--steps", "--epochs", "--examples"]
LIKE = {int: WHOLE.map(str), float: REAL.map(str) | WHOLE.map(str), str: WORD}


def held(config, flag):
    """What a flag's field holds."""
    for name in flag.removeprefix("--").replace("-", "_").split("."):
        config = getattr(config, name)
    return config


@st.composite
def commands(draw):
    """(experiment, arguments): up to four flags, most of which exist, with values most of which have the right type."""
    experiment = draw(st.sampled_from(BASES + SCHEDULED))
    kinds = [*_choices.flags(experiment)]
    known = st.sampled_from([*flags(experiment), *flags(experiment), *kinds, *OFTEN])
    arguments = []
    for _ in range(draw(st.integers(1, 4))):
        flag, odd = draw(known), draw(st.integers(0, 19))
        if odd == 0:
            arguments += draw(st.sampled_from([[flag], [draw(ANY)], [f"--{draw(ANY)}", draw(ANY)], [flag, draw(ANY)]]))
            continue
        now = LENGTHS[flag] if flag in LENGTHS else held(experiment, flag)
        if flag == "--mesh":
            arguments += [flag, draw(MESH)]
        elif flag == "--precision":
            arguments += [flag, draw(st.sampled_from(["float16", "bfloat16", "float32", "bfloat16_stored", "float64"]))]
        elif flag in kinds:
            known_kinds = _choices.kinds_of(experiment, flag.removeprefix("--").replace("-", "_").split("."))
            arguments += [flag, draw(st.sampled_from(sorted(known_kinds)))]
            if flag.endswith(".architecture"):
                arguments += [f"{flag}.layers=2"]  # a family's own size is that of a whole model, 2 s of the processor
        elif flag.rpartition(".")[2] in SMALL:
            arguments += [f"{flag}={draw(st.sampled_from(SMALL[flag.rpartition('.')[2]]))}"]
        elif isinstance(now, bool):
            arguments += [flag]
        elif isinstance(now, tuple):
            arguments += [flag, *draw(st.lists(WHOLE.map(str) | WORD, max_size=3))]
        else:
            arguments += [f"{flag}={draw(LIKE.get(type(now), ANY))}"]
    return experiment, arguments


def outcome(experiment, arguments):
    """The error, or None where everything up to the compiler goes well; whatever else is raised is a bug of ours."""
    told, spent = timed(experiment, arguments)
    if spent > SECONDS:  # once may be other work on the machine
        told, spent = timed(experiment, arguments)
    assert spent < SECONDS, f"{spent:.1f} s"
    return told


def timed(experiment, arguments):
    """(the error or None, seconds of the processor)"""
    begun, told = time.process_time(), None
    try:
        built = build(apply(experiment, arguments, "small.py"))
        check_monitors(built.experiment, built)
        check_runnable(built)
    except UserError as error:
        told = str(error)
        assert told and "\n" not in told, told
    return told, time.process_time() - begun


def check_runnable(built):
    """What the loop takes for granted."""
    experiment = built.experiment
    assert built.total_steps >= 1 and experiment.log_every >= 1
    assert built.evaluate_every >= 0 and experiment.checkpoint_every >= 0 and experiment.max_skipped >= 1
    values = experiment.hparams(built.total_steps)
    assert not any(math.isnan(value) for value in values.values()), values
    assert len(built.plan.batch(0)[0]) == experiment.data.batch_size


FOUND = {  # what it found, and what is said now
    "--epochs=inf": "length: inf epochs. Use a finite number of them.",
    "--epochs=nan": "length: nan epochs",
    "--steps=0": "length: 0 steps. Use 1 to 2147483647.",
    "--steps=-7": "length: -7 steps",
    "--examples=1000000000000000": "length: ",
    "--evaluate-every.steps=-1": "evaluate_every: every -1 steps. Use 0 (at the end only) or more.",
    "--model.layers=1000000000000": "model.layers: 1000000000000. Use 1 to 10000.",
    "--model.width=1000000000000": "model.width: 1000000000000. Use 1 to 2147483647.",
    "--data.batching.multiple=0": "data.batching.multiple: 0. Use positive numbers.",
    "--data.batching.flops-per-second=nan": "data.batching.flops_per_second: nan",
    "--model.architecture.types=-1": "model.architecture.types: -1. Use 0 (none) or more.",
    "--data.records=0": "data (train): there is no record to train on",
    "--data.batch-size=2147483648": "data.batch_size: 2147483648 rows. Use 16777216 or fewer.",
    "--evaluation-batch-size=-1": "evaluation_batch_size: -1. Use 0 or more.",
    "--evaluation-batch-size=1000000000000": "evaluation_batch_size: 1000000000000 rows",
    "--log-every=0": "log_every: 0. Use 1 or more.",
    "--checkpoint-every=-1": "checkpoint_every: -1. Use 0 or more.",
    "--max-skipped=0": "max_skipped: 0. Use 1 or more.",
    "--optimizer.learning-rate=nan": "learning_rate: is not a number",
    "--ema=nan": "ema_decay: is not a number",
    "--early-stopping.patience=-1": "early_stopping.patience: -1. Use 0 or more.",
    "--plateau.patience=-1": "plateau.patience: -1. Use 0 or more.",
}


@pytest.mark.parametrize("argument", FOUND)
def test_what_it_found(argument):
    base = BASES[2] if any(part in argument for part in ("batching", "architecture", "records")) else BASES[0]
    assert (outcome(base, [argument]) or "").startswith(FOUND[argument])


def test_the_bases_are_built():
    """Otherwise the fuzz would learn nothing but one error."""
    assert [outcome(experiment, []) for experiment in BASES + SCHEDULED] == [None] * 8


@given(commands())
@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_it_builds_or_one_line_tells_why_not(command):
    outcome(*command)


@pytest.mark.parametrize(("argument", "check"), [("--epochs=inf", Epochs), ("--log-every=0", None)])
def test_sabotage_a_missing_check_is_noticed(monkeypatch, argument, check):
    """A traceback is seen, and so is what is built and would fail in the loop."""
    if check is not None:
        monkeypatch.setattr(check, "__post_init__", lambda self: None)
    monkeypatch.setattr("lepjax.checks.check_counts", lambda experiment: None)
    with pytest.raises((OverflowError, AssertionError)):
        outcome(BASES[0], [argument])


def test_sabotage_a_message_of_two_lines_is_noticed(monkeypatch):
    monkeypatch.setattr(UserError, "__str__", lambda self: f"{self.where}\n{self.found}")
    with pytest.raises(AssertionError):
        outcome(BASES[0], ["--log-every=0"])
