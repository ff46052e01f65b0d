"""Folders in the Hugging Face layout: what is saved comes back bitwise; what is wrong with one is said in one line."""

import json
import pathlib
import shutil
import types

import huggingface_hub
import jax
import numpy as np
import pytest
from huggingface_hub import errors
from safetensors.numpy import load_file, save_file

from lepjax.core.errors import UserError
from lepjax.models import face
from lepjax.models.bert_family import AlbertArchitecture, BertArchitecture, DistilBertArchitecture, RobertaArchitecture

SIZES = {"vocab_size": 50, "width": 8, "layers": 2, "heads": 2, "mlp_width": 16, "positions": 12}
TOKENS = np.arange(2, 14).reshape(2, 6)
QUERY = "bert.encoder.layer.1.attention.self.query.weight"


@pytest.fixture(scope="module")
def tagger():
    return face.BertForTokenClassification.from_config(BertArchitecture(**SIZES), num_labels=3)


@pytest.fixture(scope="module")
def saved(tagger, tmp_path_factory):
    return tagger.save_pretrained(tmp_path_factory.mktemp("saved"))


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def tensors_of(folder):
    return load_file(folder / "model.safetensors")


def write_tensors(folder, tensors):
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, folder / "model.safetensors")


def shard(folder):
    """Cuts model.safetensors into two files with an index."""
    tensors = tensors_of(folder)
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in sorted(set(files.values())):
        save_file({name: tensors[name] for name in files if files[name] == file}, folder / file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


# ---- what comes back ----


def test_round_trip_is_bitwise(tagger, saved, tmp_path):
    back = face.BertForTokenClassification.from_pretrained(saved, seed=1)
    assert (back.new, back.unused, back.labels) == ((), (), ("LABEL_0", "LABEL_1", "LABEL_2"))
    assert back.recipe.arch == tagger.recipe.arch
    same(back.params, tagger.params)
    same(back(TOKENS).logits, tagger(TOKENS).logits)
    again = back.save_pretrained(tmp_path)
    for name in ("config.json", "model.safetensors"):
        assert (again / name).read_bytes() == (saved / name).read_bytes()


def test_sabotage_round_trip(tagger, folder):
    change_query(folder, lambda x: np.nextafter(x, np.float32(1)))
    with pytest.raises(AssertionError):
        same(face.BertForTokenClassification.from_pretrained(folder).params, tagger.params)


@pytest.mark.parametrize(
    ("cls", "config"),
    [
        (face.RobertaForSequenceClassification, RobertaArchitecture(**SIZES)),
        (face.DistilBertForMaskedLM, DistilBertArchitecture(**SIZES)),
        (face.AlbertForPreTraining, AlbertArchitecture(**SIZES, narrow=4)),
    ],
    ids=lambda x: getattr(x, "model_type", ""),
)
def test_round_trip_of_the_relatives(cls, config, tmp_path):
    model = cls.from_config(config)
    back = cls.from_pretrained(model.save_pretrained(tmp_path))
    assert (back.new, back.unused, back.recipe.arch) == ((), (), config)
    same(back.params, model.params)


def test_scanned_layers_round_trip(tagger, saved, tmp_path):
    stacked = face.BertForTokenClassification.from_pretrained(saved, scan=True)
    kernel = stacked.params["encoder"]["layer"]["attention"]["query"]["kernel"]
    np.testing.assert_array_equal(kernel[1], tagger.params["encoder"]["layer"][1]["attention"]["query"]["kernel"])
    assert (stacked.save_pretrained(tmp_path) / "model.safetensors").read_bytes() == (
        saved / "model.safetensors"
    ).read_bytes()


def test_shards_and_old_names(tagger, folder):
    old = {name.removeprefix("bert."): array for name, array in tensors_of(folder).items()}
    names = {name: name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta") for name in old}
    write_tensors(folder, {**{names[name]: old[name] for name in old}, "embeddings.position_ids": np.arange(12)})
    shard(folder)
    back = face.BertForTokenClassification.from_pretrained(folder)
    assert (back.new, back.unused) == ((), ())
    same(back.params, tagger.params)


def test_a_new_head_is_named(tagger, saved):
    """The tagger has no pooler: what sequence classification needs beyond the encoder starts at random, from the seed."""
    one, same_seed, other = (face.BertForSequenceClassification.from_pretrained(saved, seed=s) for s in (1, 1, 2))
    assert one.new == ("pooler.dense.bias", "pooler.dense.kernel")
    assert one.unused == ()
    same(one.params, same_seed.params)
    same(one.params["encoder"], tagger.params["encoder"])
    same(one.params["head"], tagger.params["head"])
    with pytest.raises(AssertionError):
        same(one.params["pooler"], other.params["pooler"])
    drawn = face.BertForSequenceClassification.from_config(tagger.recipe.arch, seed=1, num_labels=3)
    same(one.params["pooler"], drawn.params["pooler"])  # the values it would have without the checkpoint


def test_unused_tensors_are_named(tagger, saved):
    model = face.BertForMaskedLM.from_pretrained(saved)
    assert model.unused == ("classifier.bias", "classifier.weight")
    parts = ("bias", "transform.dense.bias", "transform.dense.kernel", "transform.norm.bias", "transform.norm.scale")
    assert model.new == tuple(f"head.{part}" for part in parts)
    same(model.params["encoder"], tagger.params["encoder"])


def test_labels_and_tokenizer_survive(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    named = {str(i): name for i, name in enumerate(("O", "B", "I"))}
    (folder / "config.json").write_text(json.dumps({**config, "id2label": named}))
    (folder / "vocab.txt").write_text("[PAD]\n")
    (folder / "notes.md").write_text("private")
    target = face.BertForTokenClassification.from_pretrained(folder).save_pretrained(tmp_path / "out")
    written = json.loads((target / "config.json").read_text())
    assert written["id2label"] == named and written["label2id"] == {"O": 0, "B": 1, "I": 2}
    assert {path.name for path in target.iterdir()} == {"config.json", "model.safetensors", "vocab.txt"}


# ---- what is wrong ----


def set_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def only_a_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut(folder, at):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:at])


def change_query(folder, change):
    write_tensors(
        folder, {name: change(array) if name == QUERY else array for name, array in tensors_of(folder).items()}
    )


def lose_query(folder):
    write_tensors(folder, {name: array for name, array in tensors_of(folder).items() if name != QUERY})


def lose_a_shard(folder):
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


BAD = {
    "no folder": (shutil.rmtree, "copy: no such folder. Name a folder or a hub name."),
    "no config": (
        lambda f: (f / "config.json").unlink(),
        "copy/config.json: no such file. Name a folder in the Hugging Face layout.",
    ),
    "no JSON": (lambda f: (f / "config.json").write_text('{"model_type": '), "copy/config.json: is no JSON ("),
    "no text": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe{}"), "copy/config.json: is no JSON ("),
    "no object": (lambda f: (f / "config.json").write_text("[]"), "copy/config.json: is no JSON object"),
    "model type": (
        lambda f: set_config(f, model_type="llama"),
        "copy/config.json: model_type 'llama' is not supported. Known: bert, roberta, distilbert, albert.",
    ),
    "another family": (
        lambda f: set_config(f, model_type="roberta", pad_token_id=1),
        "copy/config.json: model_type 'roberta'. BertForTokenClassification loads others.",
    ),
    "activation": (
        lambda f: set_config(f, hidden_act="silu"),
        "copy/config.json: activation 'silu' is not supported. Known: gelu, gelu_new,",
    ),
    "no size": (lambda f: set_config(f, hidden_size=None), "copy/config.json: has no 'hidden_size'"),
    "a size in quotes": (
        lambda f: set_config(f, hidden_size="8"),
        "copy/config.json: hidden_size '8' is no number",
    ),
    "a list of labels": (
        lambda f: set_config(f, id2label=["O", "B", "I"]),
        "copy/config.json: id2label is no {number: name}",
    ),
    "relative positions": (
        lambda f: set_config(f, position_embedding_type="relative_key"),
        "copy/config.json: position_embedding_type 'relative_key' is not supported. Only 'absolute' is.",
    ),
    "untied output": (
        lambda f: set_config(f, tie_word_embeddings=False),
        "copy/config.json: tie_word_embeddings False is not supported. Only True is.",
    ),
    "only a pickle": (
        only_a_pickle,
        "copy: no model.safetensors, only pytorch_model.bin, which would have to be unpickled. Save the model as",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "copy: no model.safetensors. Save the model as"),
    "cut short": (lambda f: cut(f, -100), "copy/model.safetensors: is damaged or cut short ("),
    "cut in its header": (lambda f: cut(f, 100), "copy/model.safetensors: is damaged or cut short ("),
    "empty": (lambda f: cut(f, 0), "copy/model.safetensors: is damaged or cut short ("),
    "garbage": (
        lambda f: (f / "model.safetensors").write_bytes(b"<!DOCTYPE html>" * 50),
        "copy/model.safetensors: is damaged or cut short (",
    ),
    "a missing tensor": (
        lose_query,
        f"copy: has no tensor {QUERY}. Is it another architecture?",
    ),
    "a wrong shape": (
        lambda f: change_query(f, lambda x: x[:4]),
        f"copy/model.safetensors {QUERY}: shape (4, 8), expected (8, 8)",
    ),
    "a wrong size": (
        lambda f: set_config(f, max_position_embeddings=20),
        "copy/model.safetensors bert.embeddings.position_embeddings.weight: shape (12, 8), expected (20, 8)",
    ),
    "a lost shard": (
        lose_a_shard,
        "copy/model-00002-of-00002.safetensors: a shard is missing. model.safetensors.index.json names it.",
    ),
}


@pytest.fixture
def compiled():
    """The compilations so far."""
    events = []

    def hear(name, *_, **__):
        if name.endswith("backend_compile_duration"):
            events.append(name)

    jax.monitoring.register_event_duration_secs_listener(hear)
    yield events
    jax.monitoring.unregister_event_duration_listener(hear)


def check_error(error, folder, line):
    text = str(error)
    assert "\n" not in text
    assert text.startswith(f"{folder.parent}/{line}"), text


@pytest.mark.parametrize("what", BAD)
def test_bad_folders(what, folder, compiled):
    damage, line = BAD[what]
    damage(folder)
    with pytest.raises(UserError) as caught:
        face.BertForTokenClassification.from_pretrained(folder)
    check_error(caught.value, folder, line)
    assert compiled == []


def test_sabotage_bad_folders(folder, compiled):
    """The undamaged folder raises nothing, a compilation is heard, and another line is not taken for the right one."""
    face.BertForSequenceClassification.from_pretrained(folder)
    assert len(compiled) == 1  # draws the pooler
    with pytest.raises(AssertionError):
        check_error(UserError("no such file", where=str(folder)), folder, BAD["no folder"][1])


def test_head_with_other_labels(folder, compiled):
    with pytest.raises(UserError) as caught:
        face.BertForTokenClassification.from_pretrained(folder, num_labels=5)
    line = "copy/model.safetensors classifier.bias: shape (3,), expected (5,). Give the head as many labels as the folder's."
    check_error(caught.value, folder, line)
    assert compiled == []


def test_a_file_is_no_folder(folder):
    with pytest.raises(UserError, match="no such folder. Name a folder or a hub name."):
        face.BertModel.from_pretrained(folder / "config.json")


# ---- the hub ----


RESPONSE = types.SimpleNamespace(headers={}, request=None)
UNREACHABLE = "is no local folder, not in the cache, and the hub cannot be reached"
HUB = {
    "offline": (errors.LocalEntryNotFoundError("cannot find the files on the Hub"), UNREACHABLE),
    "offline mode": (errors.OfflineModeIsEnabled("HF_HUB_OFFLINE=1"), UNREACHABLE),
    "server error": (errors.HfHubHTTPError("502", response=RESPONSE), UNREACHABLE),
    "no network": (ConnectionError("Name or service not known"), UNREACHABLE),
    "no repository": (errors.RepositoryNotFoundError("404", response=RESPONSE), "neither a folder nor a repository"),
    "no name": (errors.HFValidationError("Repo id must use alphanumeric chars"), "neither a folder nor a repository"),
}


@pytest.mark.parametrize("what", HUB)
def test_hub(what, monkeypatch):
    error, found = HUB[what]
    asked = []

    def download(repository, **options):
        asked.append((repository, options["revision"], options["allow_patterns"]))
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(UserError) as caught:
        face.BertModel.from_pretrained("owner/model@v1")
    text = str(caught.value)
    assert text.startswith(f"owner/model@v1: {found}") and "\n" not in text
    assert "a local folder with config.json, model.safetensors and tokenizer.json" in text
    assert asked[0][:2] == ("owner/model", "v1")
    assert not any(pathlib.Path("pytorch_model.bin").match(pattern) for pattern in asked[0][2])


def test_hub_has_no_such_revision(monkeypatch):
    def download(*_, **__):
        raise errors.RevisionNotFoundError("404", response=RESPONSE)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(UserError, match="owner/model@v9: the hub has no such revision. Use a branch, tag or commit"):
        face.BertModel.from_pretrained("owner/model@v9")


def test_hub_folder_loads(saved, tagger, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(saved))
    same(face.BertForTokenClassification.from_pretrained("owner/model").params, tagger.params)
