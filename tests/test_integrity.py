"""Nothing that comes from outside is executed, unpickled, unpacked or followed out of its folder."""

import ast
import json
import os
import pathlib
import pickle
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

from lepjax.core.errors import UserError
from lepjax.core.paths import safe_join
from lepjax.core.serialise import from_json
from lepjax.data.text import read_tokens
from lepjax.data.tokenizer import Tokenizer
from lepjax.models import pretrained
from lepjax.run import files

ROOT = pathlib.Path(__file__).parent.parent
SOURCES = sorted(path for room in ("lepjax", "experiments") for path in (ROOT / room).rglob("*.py"))

# ---- the gate: forms that execute or unpack what they read ----

MODULES = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle"}
BUILTINS = {"eval", "exec", "__import__"}
LOADS = {  # the last two names of what is called
    "torch.load",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "os.system",
    "os.popen",
    "shutil.unpack_archive",
}
METHODS = {"extractall", "extract", "unpack_archive", "read_pickle"}  # whatever they are called on
SILENT = {"allow_pickle", "trust_remote_code", "shell"}  # keywords, and keys of options, that must be a literal False


def forbidden(source):
    """(line, what it is) of every form that may execute or unpack what it reads."""
    tree = ast.parse(source)
    names = {}  # local name -> dotted name of what was imported
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name.split(".")[0]: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        yield from ((node.lineno, what) for what in _of_node(node, names))


def _of_node(node, names):
    if isinstance(node, ast.Import):
        yield from (f"import {a.name}" for a in node.names if a.name.split(".")[0] in MODULES)
    elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
        yield f"import {node.module}"
    elif isinstance(node, ast.Name) and node.id in BUILTINS:
        yield node.id
    elif isinstance(node, ast.keyword) and node.arg in SILENT:
        if not (isinstance(node.value, ast.Constant) and node.value.value is False):
            yield node.arg
    elif isinstance(node, ast.Dict):  # `run(command, **{"shell": True})`
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and key.value in SILENT and getattr(value, "value", None) is not False:
                yield key.value
    elif isinstance(node, ast.Call):
        called = _dotted(node.func, names)
        given = {keyword.arg for keyword in node.keywords}
        if called == "numpy.load" and "allow_pickle" not in given:
            yield "numpy.load without allow_pickle=False"
    if isinstance(node, ast.Attribute):
        dotted = _dotted(node, names)
        if dotted in LOADS or node.attr in METHODS:
            yield dotted
        if node.attr in BUILTINS and dotted.split(".")[0] == "builtins":
            yield dotted
    elif isinstance(node, ast.Name) and names.get(node.id) in LOADS | {"builtins.eval", "builtins.exec"}:
        yield names[node.id]


def _dotted(node, names):
    """`np.lib.load` -> numpy.lib.load."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    base = names.get(node.id, node.id) if isinstance(node, ast.Name) else "?"
    return ".".join([base, *reversed(parts)])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_executes_what_it_reads(path):
    assert list(forbidden(path.read_text(encoding="utf-8"))) == []


CORPUS = """
import pickle
import pickle as p
from pickle import loads
def f():\\n    import cloudpickle
import marshal
import shelve
import dill
import joblib
from joblib import load
import pandas as pd\\npd.read_pickle("x")
eval("1")
exec("x = 1")
run = eval
__import__("os")
import builtins\\nbuiltins.eval("1")
import builtins as b\\nb.exec("1")
from builtins import eval as safe\\nsafe("1")
import numpy as np\\nnp.load("x.npy")
import numpy\\nnumpy.load("x.npy", mmap_mode="r")
from numpy import load\\nload("x.npy")
import numpy as np\\nnp.load("x.npy", allow_pickle=True)
import numpy as np\\nnp.load("x.npy", allow_pickle=flag)
import numpy as np\\nnp.load("x.npy", **options)
import numpy as np\\nnp.lib.format.read_array(f, allow_pickle=True)
import torch\\ntorch.load("x.pt")
import torch\\ntorch.load("x.pt", weights_only=True)
from torch import load\\nload("x.pt")
import yaml\\nyaml.load(text)
import yaml\\nyaml.unsafe_load(text)
from yaml import load\\nload(text)
AutoModel.from_pretrained(name, trust_remote_code=True)
AutoModel.from_pretrained(name, trust_remote_code=trust)
import tarfile\\ntarfile.open(x).extractall(y)
import tarfile\\nwith tarfile.open(x) as t:\\n    t.extract(m)
import zipfile\\nzipfile.ZipFile(x).extractall()
import shutil\\nshutil.unpack_archive(x)
from shutil import unpack_archive\\nunpack_archive(x)
import subprocess\\nsubprocess.run("ls", shell=True)
import subprocess as s\\ns.Popen(c, shell=flag)
import subprocess\\nsubprocess.run(c, **{"shell": True})
import os\\nos.system("ls")
from os import popen\\npopen("ls")
"""


@pytest.mark.parametrize("source", CORPUS.strip().splitlines())
def test_sabotage_each_form_is_noticed(source):
    assert list(forbidden(source.replace("\\n", "\n")))


def test_the_gate_lets_honest_code_pass():
    honest = """
import ast, json, subprocess
import numpy as np
np.load("x.npy", allow_pickle=False)
np.lib.format.open_memmap("x.npy")
subprocess.run(["git", "describe"], shell=False)
model.eval()
re.compile("x")
jax.jit(f).lower(x).compile()
jax.eval_shape(f, x)
json.loads("1")
"""
    assert list(forbidden(honest)) == []


# ---- names out of files ----

OUTSIDE = {
    "empty": "",
    "blank": " ",
    "parent": "../../etc/passwd",
    "parent inside": "a/../../b",
    "parent at the end": "a/..",
    "absolute": "/etc/passwd",
    "two slashes": "//etc/passwd",
    "backslashes": "..\\..\\etc\\passwd",
    "a drive": "C:\\x",
    "NUL": "a\0b",
    "half a character": "a\ud800",
    "too long": "a" * 300,
    "a number": 7,
    "a list": ["a"],
    "nothing": None,
    "link to a file": "link",
    "link to a folder": "elsewhere/secret",
}


@pytest.fixture
def folder(tmp_path):
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("x")
    (folder / "inside").write_text("x")
    (folder / "link").symlink_to(outside / "secret")
    (folder / "elsewhere").symlink_to(outside)
    (folder / "near").symlink_to("inside")
    return folder


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leaves_its_folder(folder, name):
    with pytest.raises(UserError) as error:
        safe_join(folder, OUTSIDE[name], "index.json")
    assert str(error.value).startswith("index.json: ") and "\n" not in str(error.value)


def test_names_that_stay(folder, tmp_path):
    for name in ("inside", "near", "not/there.txt", "..txt", "a..b", "名前.safetensors", "./inside"):
        assert safe_join(folder, name) == folder / name
    (tmp_path / "door").symlink_to(folder)
    assert safe_join(tmp_path / "door", "near") == tmp_path / "door" / "near"


def test_snapshots_of_the_hub_are_links_into_their_repository(tmp_path):
    repository = tmp_path / "models--a--b"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs" / "1f").write_text("x")
    (tmp_path / "secret").write_text("x")
    (snapshot / "good").symlink_to("../../blobs/1f")
    (snapshot / "bad").symlink_to("../../../secret")
    assert safe_join(snapshot, "good").read_text() == "x"
    with pytest.raises(UserError, match="'bad' is a link that leaves the folder"):
        safe_join(snapshot, "bad")


def test_sabotage_a_plain_join_would_leave(folder):
    assert (folder / OUTSIDE["link to a file"]).read_text() == "x"
    assert not (folder / OUTSIDE["parent"]).resolve().is_relative_to(folder)


# ---- hostile files for our readers ----


def header(entries, body=b""):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


class Bomb:
    def __reduce__(self):
        return os.system, ("touch canary",)


TENSORS = {
    "a header of 2**62 bytes": struct.pack("<Q", 2**62) + b"{}",
    "a header of -1 bytes": struct.pack("<Q", 2**64 - 1) + b"{}",
    "overlapping offsets": header({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
    "offsets beyond the end": header({"a": entry([2**40], 0, 2**42)}, bytes(8)),
    "offsets backwards": header({"a": entry([2], 8, 0)}, bytes(8)),
    "a shape that overflows": header({"a": entry([2**62, 4], 0, 0)}),
    "a negative shape": header({"a": entry([-2], 0, 8)}, bytes(8)),
    "an unknown dtype": header({"a": entry([2], 0, 8, "PICKLE")}, bytes(8)),
    "a deep nest": header(b'{"a":' * 100_000),
    "a pickle": pickle.dumps(Bomb()),
    "an archive": b"PK\x03\x04" + bytes(100),
    "nothing": b"",
}


@pytest.mark.parametrize("name", TENSORS)
def test_hostile_tensors(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(TENSORS[name])
    with pytest.raises(UserError) as error:
        pretrained.Tensors.of(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}/model.safetensors: ") and "\n" not in str(error.value)
    assert not (tmp_path / "canary").exists()


INDEXES = {
    "a shard outside": {"weight_map": {"a": "../../etc/passwd"}},
    "an absolute shard": {"weight_map": {"a": "/etc/passwd"}},
    "a list as shard": {"weight_map": {"a": ["model.safetensors"]}},
    "a list as map": {"weight_map": ["model.safetensors"]},
    "no map": {},
    "an empty map": {"weight_map": {}},
    "a missing shard": {"weight_map": {"a": "b.safetensors"}},
}


@pytest.mark.parametrize("name", INDEXES)
def test_hostile_indexes(tmp_path, name):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps(INDEXES[name]))
    with pytest.raises(UserError) as error:
        pretrained.Tensors.of(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    save_file({"a": np.zeros(2, np.float32)}, tmp_path / "b.safetensors")
    index.write_text(json.dumps({"weight_map": {"a": "b.safetensors", "b": "b.safetensors"}}))
    assert pretrained.Tensors.of(tmp_path).read("a").shape == (2,)


JSON = {"a nest of lists": "[" * 200_000, "a nest of objects": '{"a":' * 200_000, "a list": "[]", "digits": "9" * 5000}
READERS = {
    "config.json": pretrained.read_config,
    "tokenizer.json": Tokenizer.load,
    "vocab.json": Tokenizer.load,
    "tokenizer_config.json": Tokenizer.load,
}


@pytest.mark.parametrize("file", READERS)
@pytest.mark.parametrize("name", JSON)
def test_hostile_json(tmp_path, file, name):
    (tmp_path / file).write_text(JSON[name])
    if file == "vocab.json":
        (tmp_path / "merges.txt").write_text("")
    if file == "tokenizer_config.json":
        (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\n")
    with pytest.raises(UserError) as error:
        READERS[file](tmp_path)
    assert str(error.value).startswith(f"{tmp_path}/{file}: ") and "\n" not in str(error.value)


EXPERIMENTS = {
    "a function": {"class": "os:system", "fields": {}},
    "a module that is none": {"class": "../evil:X", "fields": {}},
    "nothing": {},
    "no fields": {"class": "lepjax.core.optimizers:AdamW"},
    "fields that are none": {"class": "lepjax.core.optimizers:AdamW", "fields": [1]},
    "a float that is none": {"float": "x"},
    "a class that is a number": {"class": 7, "fields": {}},
    "a field too many": {"class": "lepjax.core.optimizers:AdamW", "fields": {"code": "x"}},
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_hostile_experiments(name):
    with pytest.raises(UserError) as error:
        from_json(EXPERIMENTS[name])
    assert str(error.value).startswith("experiment.json: ") and "\n" not in str(error.value)


def test_a_deep_nest_in_a_run_directory(tmp_path):
    (tmp_path / "experiment.json").write_text("[" * 200_000)
    with pytest.raises(UserError, match=r"experiment.json: cannot be read \(maximum recursion depth"):
        files.read_json(tmp_path / "experiment.json")


def test_tokens_are_never_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("objects.npy", np.array([Bomb()], object), allow_pickle=True)
    (tmp_path / "renamed.npy").write_bytes(pickle.dumps(Bomb()))
    for name in ("objects.npy", "renamed.npy"):
        with pytest.raises(UserError, match=rf"{name}: not a .npy file"):
            read_tokens(str(tmp_path / name), "data.train")
    assert not (tmp_path / "canary").exists()
