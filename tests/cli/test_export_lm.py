"""`lepjax export` of language models: what was trained, in a folder that our reader reads. Theirs: tests/parity."""

import dataclasses
import json
import types

import jax
import numpy as np
import pytest
from rich.console import Console

from lepjax.cli import main as command
from lepjax.core.errors import CONFIGURATION, UserError, guarded
from lepjax.core.functional import Functional
from lepjax.core.optimizers import AdamW
from lepjax.experiment import Steps
from lepjax.models import pretrained
from lepjax.models.gpt2 import Gpt2
from lepjax.models.llama import Llama
from lepjax.models.llama_family import LlamaArchitecture
from lepjax.models.model import Model
from lepjax.run.directory import RunDirectory
from lepjax.run.encoders import save
from lepjax.run.open import open_run
from lepjax.run.train import train
from tests.folders import SMALL, export_of_two_steps, loaded
from tests.models.test_outside_model import Window
from tests.tiny import tiny

TOKENS = np.random.default_rng(0).integers(0, 256, (2, 19)).astype(np.int32)


def logits(model, params):
    return jax.jit(model.apply)(params, {}, TOKENS)[0]


@pytest.fixture(scope="module", params=[Gpt2, Llama], ids=lambda kind: kind.__name__)
def exported(request, tmp_path_factory):
    """(kind, the folder of its run, the folder written)."""
    folder = tmp_path_factory.mktemp("exported")
    return request.param, folder / "run", export_of_two_steps(request.param, folder)


def test_export_is_what_was_trained(exported):
    kind, run, out = exported
    directory = RunDirectory(run)
    trained, step = open_run(directory, directory.experiment(), "last")
    assert step == 2
    recipe, model, params = loaded(out, kind)
    np.testing.assert_array_equal(logits(model, params), logits(trained.built.model, trained.params))
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(logits(model, params), logits(model, trained.built.init().params))
    assert recipe.arch == SMALL[kind].arch
    assert {path.name for path in out.iterdir()} == {"config.json", "model.safetensors"}


def test_the_average_is_exported_where_there_is_one(tmp_path):
    out = export_of_two_steps(Gpt2, tmp_path, ema=0.5)
    directory = RunDirectory(tmp_path / "run")
    trained, _ = open_run(directory, directory.experiment(), "last")
    params = loaded(out, Gpt2)[2]
    jax.tree.map(np.testing.assert_array_equal, params, trained.state.ema)
    with pytest.raises(AssertionError):
        jax.tree.map(np.testing.assert_array_equal, params, trained.state.params)


def test_what_came_with_the_pretrained_model_goes_on_with_it(exported, tmp_path):
    """Trained on from the exported folder at a learning rate of 0, and exported again: nothing but tokens is new."""
    kind, _, out = exported
    source = tmp_path / "source"
    config = {**json.loads((out / "config.json").read_text()), "eos_token_id": 7}
    tensors = pretrained.Tensors.of(out)
    pretrained.write(source, config, {name: tensors.read(name) for name in tensors.files})
    for name in ("tokenizer.json", "vocab.json", "merges.txt", "notes.md"):
        (source / name).write_text(name)
    model, still = kind(pretrained=str(source)), AdamW(learning_rate=0.0)
    again = export_of_two_steps(kind, tmp_path, model=model, optimizer=still)
    kept = {"config.json", "model.safetensors", "tokenizer.json", "vocab.json", "merges.txt"}
    assert {path.name for path in again.iterdir()} == kept
    assert (again / "merges.txt").read_text() == "merges.txt"
    written = json.loads((again / "config.json").read_text())
    assert written["eos_token_id"] == 7 and config["bos_token_id"] is written["bos_token_id"] is None
    jax.tree.map(np.testing.assert_array_equal, loaded(again, kind)[2], loaded(source, kind)[2])


def test_metas_layout_becomes_hugging_faces(test_data, tmp_path):
    stories = test_data / "weights" / "stories260k"
    if not stories.is_dir():
        pytest.skip(f"no {stories}")
    recipe, model, params = loaded(stories)
    pretrained.write(tmp_path, *recipe.folder(params, model.leaves))
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "llama"
    again, _, read = loaded(tmp_path)
    assert type(again.arch) is LlamaArchitecture and vars(again.arch) == vars(recipe.arch)
    jax.tree.map(np.testing.assert_array_equal, read, params)


def test_a_model_that_transformers_does_not_know(tmp_path, capsys):
    experiment = tiny(model=Window(), length=Steps(1), mesh="data=1", run_dir=str(tmp_path / "run"))
    assert train(experiment, console=Console(quiet=True)).code == 0
    code = guarded(lambda: command.run(["export", str(tmp_path / "run"), str(tmp_path / "out")]))
    err = capsys.readouterr().err
    assert code == CONFIGURATION and err.count("\n") == 1, err
    assert "model: Window has no form that transformers loads. Define its method `folder`." in err
    assert not (tmp_path / "out").exists()


@dataclasses.dataclass(frozen=True)
class Known(Model):
    def folder(self, params, leaves):
        return {"model_type": "known"}, params


def test_a_new_family_needs_its_own_file_only(tmp_path):
    def run_of(model):
        built = types.SimpleNamespace(experiment=types.SimpleNamespace(model=model), model=Functional(None, None, {}))
        return types.SimpleNamespace(built=built, params={"x": np.ones(3, np.float32)})

    save(run_of(Known()), tmp_path / "out", "run")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "known"
    np.testing.assert_array_equal(pretrained.Tensors.of(tmp_path / "out").read("x"), np.ones(3))
    with pytest.raises(UserError, match="Model has no form"):
        save(run_of(Model()), tmp_path / "other", "run")
