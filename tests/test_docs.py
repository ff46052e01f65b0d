"""What the documents tell people to type works, and what they link to exists."""

import pathlib
import re
import shlex

import pytest

from lepjax import datasets
from lepjax.cli import main as command

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README + (ROOT / "docs" / "tuning.md").read_text(), re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith("lepjax ")]
SMALL = "--model.layers 1 --model.width 16 --model.heads 2 --model.context 16 --data.length 16 --steps 2 --mesh data=1"


def test_the_two_commands():
    assert BLOCKS[0].strip() == "pip install -e . && lepjax train experiments/quickstart.py"
    assert BLOCKS[1].strip() == 'pip install -e ".[test]" && pytest'
    assert BLOCKS[1].strip() in (ROOT / ".ci" / "run").read_text()


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("library")
    for i in range(80):
        (folder / f"package{i}.py").write_text("".join(f"def function_{i}_{j}(x): return x + {j}\n" for j in range(6)))
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_readme_runs(line, library, home, monkeypatch, capsys):
    """In the order of the README, shrunken: the model, the text and the number of steps are overridden."""
    monkeypatch.chdir(home)
    monkeypatch.setattr("lepjax.cli.doctor.LEAST_FREE", 0)
    words = shlex.split(line)[1:]
    if words[0] in ("eval", "generate"):
        arguments = [words[0], str(home / "run"), *words[2:]]
    else:
        arguments = [str(ROOT / word) if word.endswith(".py") else word for word in words]
        arguments = [str(home / "run") if word.startswith("runs/") else word for word in arguments]
    if words[0] in ("train", "launch", "run", "data") and "--help" not in words:
        arguments = [word for word in arguments if word not in ("--steps", "2000")]
        arguments += [
            *(SMALL.split()[:-2] if words[0] == "launch" else SMALL.split()),  # what is launched has a mesh of its own
            "--data.folder",
            str(library),
            "--data.heldout",
            "0.3",
            "--run-dir",
            str(home / ("run" if words[0] == "train" else f"of {words[0]}")),
        ]
    arguments = [
        "16" if word == "256" else word for word in arguments
    ]  # of `find batch --most`: each size is a compile
    if words[0] == "tune":
        arguments += ["--steps", "8", "--mesh", "data=1", "--run-dir", str(home / f"tune {len(words)}")]
    if "--help" in arguments:
        with pytest.raises(SystemExit) as stop:
            command.run(arguments)
        assert stop.value.code == 0
    else:
        assert command.run(arguments) == 0, capsys.readouterr()


def test_the_python_of_the_readme_runs(tiny_bert, test_data, tmp_path, monkeypatch, capsys):
    """With local folders, and few rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEPJAX_DATA", str(test_data))
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    for given, used in (
        ('"google-bert/bert-base-uncased"', repr(str(tiny_bert))),
        ('datasets.load("sst2", split=["train", "validation"])', "(d.head(64) for d in LOADED)"),
    ):
        assert given in block
        block = block.replace(given, used)
    names = {"LOADED": datasets.load("sst2", split=["train", "validation"])}
    exec(compile(block, "README.md", "exec"), names)
    out = capsys.readouterr().out
    assert re.search(r"Epoch 1 \| train loss: \d\.\d{4}, dev acc: \d\.\d{4}", out)
    assert (tmp_path / "out" / "model.safetensors").is_file() and names["history"].evaluations


def test_links_lead_somewhere():
    for document in (
        ROOT / "README.md",
        ROOT / "tests" / "README.md",
        ROOT / "experiments" / "benchmarks" / "README.md",
    ):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document}: {target}"


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").rglob("*.py")), ids=lambda p: p.stem)
def test_no_measurement_is_missing(path):
    assert "to be measured" not in path.read_text()
