"""The command line: what it prints, and that a mistake costs one clear line and changes nothing."""

import importlib.metadata
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import pytest

from lepjax.cli import main as command
from lepjax.core.errors import CONFIGURATION, DONE, RESTART, UserError, guarded
from lepjax.experiment import build
from lepjax.run.debug import debug_step
from tests.tiny import tiny

ROOT = pathlib.Path(__file__).parent.parent.parent
EXPERIMENTS = sorted(p for p in (ROOT / "experiments").glob("*.py") if p.stem != "__init__")
SMALL = [
    "--model.layers",
    "1",
    "--model.width",
    "32",
    "--model.heads",
    "2",
    "--model.context",
    "32",
    "--data.length",
    "32",
]
SMALL_ENCODER = [f"--model.architecture.{size}" for size in ("width=16", "layers=1", "heads=2")]

EXPERIMENT = '''
"""A small experiment on a small text."""
from lepjax.experiment import Experiment, Steps
from lepjax.core.optimizers import AdamW
from tests.tiny import tiny

def experiment() -> Experiment:
    return tiny(mesh="data=1", length=Steps(4))

def longer() -> Experiment:
    return tiny(mesh="data=1", length=Steps(5))
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.py").write_text(EXPERIMENT)
    return tmp_path


def lepjax(*arguments, capsys=None):
    """Runs the command in this process: (exit code, stdout, stderr)."""
    code = guarded(lambda: command.run([str(a) for a in arguments]))
    out = capsys.readouterr()
    return code, out.out, out.err


def listing(folder):
    return sorted((str(p), p.stat().st_mtime_ns) for p in folder.rglob("*") if "__pycache__" not in str(p))


# ---- mistakes ----

MISTAKES = {
    "missing file": (["train", "smal.py"], "smal.py: no such experiment file. Did you mean small.py?"),
    "no experiment": (["train", "empty.py"], "empty.py: has no function that returns an Experiment"),
    "unknown variant": (["train", "small.py:long"], "Did you mean longer?"),
    "syntax error": (["train", "broken.py"], "broken.py: line 1:"),
    "unknown field": (
        ["train", "small.py", "--optimizer.learnin-rate", "1"],
        "no field --optimizer.learnin-rate. Did you mean --optimizer.learning-rate?",
    ),
    "unknown short field": (["train", "small.py", "--stesp", "3"], "no field --stesp. Did you mean --steps?"),
    "bad value": (["train", "small.py", "--seed", "one"], "--seed"),
    "bad steps": (["train", "small.py", "--steps", "many"], "--steps: 'many' is not a number"),
    "two lengths": (["train", "small.py", "--steps", "3", "--epochs", "1"], "--steps and --epochs are both given"),
    "mesh and devices": (
        ["train", "small.py", "--mesh", "data=3"],
        "mesh data=3: 3 does not divide 8 devices. Use 1, 2, 4, 8",
    ),
    "mesh axis": (["train", "small.py", "--mesh", "dat=2"], "no mesh axis 'dat'. Did you mean data?"),
    "mesh and batch": (
        ["train", "small.py", "--mesh", "data=8", "--data.batch-size", "12"],
        "batch size 12 does not divide over 8 devices",
    ),
    "unwritable": (["train", "small.py", "--run-dir", "/proc/nothing/here"], "/proc/nothing/here: cannot be written"),
    "a file as run": (["train", "small.py", "--run-dir", "small.py"], "small.py: is a file"),
    "command": (["trian", "small.py"], "no command 'trian'. Did you mean train?"),
    "not trained": (["eval", "small.py"], "has not been trained. Run: lepjax train small.py"),
    "no run": (["generate", "."], "is no run directory"),
    "explain open mesh": (["explain", "small.py", "--mesh", "data=-1"], "an open axis"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_changes_nothing(folder, capsys, name):
    (folder / "empty.py").write_text("x = 1\n")
    (folder / "broken.py").write_text("def\n")
    arguments, message = MISTAKES[name]
    before = listing(folder)
    code, out, err = lepjax(*arguments, capsys=capsys)
    assert code == CONFIGURATION
    assert message in err and err.startswith("lepjax: ") and err.count("\n") == 1, err
    assert out == ""
    assert listing(folder) == before


def test_a_bug_keeps_its_traceback_and_has_its_own_code(folder, capsys):
    (folder / "bug.py").write_text("def experiment():\n    return 1 / 0\n")
    code, _, err = lepjax("train", "bug.py", capsys=capsys)
    assert code == 70 and "ZeroDivisionError" in err


# ---- the usual day ----


def test_train_eval_generate_resume(folder, capsys):
    code, out, _ = lepjax("train", "small.py", "--run-dir", "run", "--seed", "3", capsys=capsys)
    assert code == DONE
    for expected in (
        "devices ",
        "mesh ",
        "h.*.attn.c_attn.kernel",
        "layers, embed, heads",
        "step ",
        "plan ",
        "seconds ",
    ):
        assert expected in out, out
    (loss,) = re.findall(r"dev_loss (\d+\.\d+), dev_perplexity", out.split("result")[1])

    code, out, _ = lepjax("eval", "run", capsys=capsys)
    assert code == DONE and float(re.search(r"dev_loss (\S+)", out)[1]) == pytest.approx(float(loss), abs=1e-4)
    assert lepjax("eval", "small.py", "--run-dir", "run", "--seed", "3", capsys=capsys)[1] == out

    code, out, _ = lepjax("generate", "run", "--prompt", "the ", "--tokens", "40", "--temperature", "0", capsys=capsys)
    assert code == DONE and out.startswith("the ") and len(out.rstrip("\n").encode()) >= 40

    code, out, _ = lepjax("train", "small.py", "--run-dir", "run", "--seed", "3", capsys=capsys)
    assert code == DONE and "already finished" in out
    code, out, _ = lepjax("train", "small.py", "--run-dir", "run", "--seed", "3", "--steps", "6", capsys=capsys)
    assert code == DONE and "resuming at step 4 of 6" in out and "length.steps 4 -> 6" in out

    code, _, err = lepjax("train", "small.py", "--run-dir", "run", "--seed", "4", capsys=capsys)
    assert code == CONFIGURATION and "belongs to another experiment (seed is 3 there, 4 here)" in err
    code, _, err = lepjax("eval", "run", "--checkpoint", "5", capsys=capsys)
    assert code == CONFIGURATION and "There are 4, 6." in err


def test_explain_needs_no_devices(folder, capsys):
    code, out, _ = lepjax("explain", "small.py", "--mesh", "data=2,fsdp=2,tensor=4", capsys=capsys)
    assert code == DONE
    assert "16 devices" in out and "embed -> fsdp" in out
    row = next(line for line in out.splitlines() if line.startswith("h.*.mlp.c_fc.kernel"))
    assert row.split()[-2:] == ["131,072", "16,384"] and "fsdp, tensor" in row
    assert not (folder / "runs").exists()


def test_explain_refuses_what_does_not_divide(folder, capsys):
    code, _, err = lepjax("explain", "small.py", "--mesh", "tensor=48,data=8", capsys=capsys)
    assert code == CONFIGURATION and "does not divide over tensor=48" in err


@pytest.mark.full  # the next one and debug nan watch modules too
def test_debug_tells_every_module(folder, capsys):
    code, out, _ = lepjax("train", "small.py", "--run-dir", "run", "--steps", "1", "--debug", capsys=capsys)
    assert code == DONE
    for expected in (
        "debug: step 0",
        "batch['tokens'] int32[8, 32]",
        "c_attn float32[",
        "ln_f float32[8, 32, 64] max |x|",
    ):
        assert expected in out, out


def test_debug_names_the_module_that_is_not_finite():
    built = build(tiny(), jax.devices()[:1])
    state = built.init()
    bias = state.params["h"]["mlp"]["c_fc"]["bias"]
    state.params["h"]["mlp"]["c_fc"]["bias"] = bias.at[1, 5].set(jax.numpy.nan)
    rows = built.batches(1)[0]
    said = []
    with pytest.raises(UserError, match=r"debug: Gpt2Module\.Block\[1\]\.mlp\.c_fc: \d+ of \d+ outputs are not finite"):
        debug_step(built, said.append)(state, rows)
    assert sum("Block[0].mlp.c_fc float32" in line for line in said) == 1  # the layer before was told


def test_doctor(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("lepjax.cli.doctor.LEAST_FREE", 0)
    code, out, _ = lepjax("doctor", capsys=capsys)
    assert code == DONE and "healthy" in out
    for expected in ("jax ", "GFLOP/s in float32", "GB/s", "cache "):
        assert expected in out
    monkeypatch.setattr("lepjax.cli.doctor.LEAST_FREE", 2**60)
    code, out, _ = lepjax("doctor", capsys=capsys)
    assert code == CONFIGURATION and "MiB free" in out


# ---- every experiment module ----


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_every_experiment_shows_its_fields(path, capsys):
    with pytest.raises(SystemExit) as stop:
        command.run(["train", str(path), "--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0
    for flag in (
        "--optimizer.learning-rate FLOAT",
        "--seed INT",
        "--run-dir STR",
        "Peak learning rate.",
        "(default: 0)",
        "--steps N",
    ):
        assert flag in " ".join(out.split()), out


@pytest.mark.parametrize("path", [p for p in EXPERIMENTS if "def tiny(" not in p.read_text()], ids=lambda p: p.stem)
def test_every_experiment_runs_two_steps(path, tmp_path, capsys, request, monkeypatch):
    """But those too large for it: tests/experiments/test_recipes.py runs their `tiny` variants."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # vocabularies
    if "lepjax.data.stdlib" in path.read_text() or "lepjax.data.docstrings" in path.read_text():
        library = tmp_path / "library"
        for i in range(80):
            (library / f"package{i}").mkdir(parents=True)
            functions = (
                f'def function_{i}_{j}(x):\n    """Adds {j} of {i}."""\n    return x + {j}\n' for j in range(12)
            )
            (library / f"package{i}" / "code.py").write_text("".join(functions))
        sizes = SMALL if "Gpt2" in path.read_text() else SMALL_ENCODER
        arguments = ["--data.folder", library, "--data.heldout", "0.3", *sizes]
    elif "Digits" in path.read_text():
        arguments = ["--data.batch-size", "8"]
    elif "max_train_examples" in path.read_text():
        data, model = request.getfixturevalue("test_data"), request.getfixturevalue("tiny_bert")
        folder = data / {"sst2_bert": "sst2", "conll_ner": "conll2003"}[path.stem]
        arguments = ["--model", model, "--data-dir", folder, "--max-train-examples", "128"]
    else:
        monkeypatch.setenv("LEPJAX_TEST_DATA", str(request.getfixturevalue("test_data")))
        model = "--model.architecture." if "LlamaArchitecture" in path.read_text() else "--model."
        sizes = [flag.replace("--model.", model) for flag in SMALL]
        arguments = ["--data.dev", "0.003", "--evaluation-batch-size", "8", *sizes]
    arguments += ["--steps", "2", "--mesh", "data=1", "--run-dir", tmp_path / "run"]
    code, out, err = lepjax("train", path, *arguments, capsys=capsys)
    assert code == DONE, err
    assert (tmp_path / "run" / "report.html").exists()
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 2


# ---- as processes ----


def process(*arguments, cwd, **kwargs):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "lepjax", *map(str, arguments)],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def test_help_does_not_import_jax():
    code = "import sys; from lepjax.cli import main; print(main.usage()); sys.exit('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    for name in ("train", "eval", "generate", "explain", "doctor"):
        assert name in done.stdout


def test_ctrl_c_saves_says_so_and_the_same_command_goes_on(folder):
    command_line = ["train", "small.py", "--run-dir", "run", "--steps", "100000", "--log-every", "1"]
    running = process(*command_line, cwd=folder)
    metrics = folder / "run" / "metrics.jsonl"
    deadline = time.time() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") > 5):
        assert running.poll() is None and time.time() < deadline, running.communicate()
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == RESTART, err
    told = re.search(r"SIGINT at step (\d+); saved at step (\d+)", out)
    assert told, out[-2000:]
    step = int(told[2])
    assert step - int(told[1]) in (0, 1)  # it may be heard while a step is on its way
    assert "run the same command to go on" in out and "Traceback" not in err
    again = process("train", "small.py", "--run-dir", "run", "--steps", str(step + 3), cwd=folder)
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert f"resuming at step {step} of {step + 3}" in out


def test_versions_agree():
    assert importlib.metadata.version("lepjax") == __import__("lepjax").__version__
