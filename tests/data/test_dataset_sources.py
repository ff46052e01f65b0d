"""Where data sets come from: a folder, the hub, TFDS; and that it is said."""

import importlib
import inspect
import shutil
import sys

import huggingface_hub
import numpy as np
import pyarrow as pa
import pytest
import tensorflow_datasets
from pyarrow import parquet

from lepjax.core.errors import UserError
from lepjax.data import fetch
from lepjax.data.datasets import load
from lepjax.data.fetch import Wanted
from lepjax.data.known import KNOWN, Known
from lepjax.data.quarantine import REFUSE
from tests.data.written import fails, quiet, write

# ---- the hub ----

SHA = KNOWN["sst2"].revision


def hub_files(folder):
    (folder / "sst2").mkdir(parents=True)
    for split, rows in {"train": 3, "validation": 2, "test": 2}.items():
        labels = [i % 2 if split != "test" else -1 for i in range(rows)]
        table = pa.table({"sentence": [f"{split} {i}" for i in range(rows)], "label": labels, "idx": list(range(rows))})
        parquet.write_table(table, folder / "sst2" / f"{split}-00000-of-00001.parquet")
    return folder


def check_hub(found):
    assert {split: len(data) for split, data in found.items()} == {"train": 3, "validation": 2, "test": 2}
    assert found["train"].label_ids().tolist() == [0, 1, 0] and found["train"].labels == ("negative", "positive")
    assert "label" not in found["test"].columns, "-1 stands for a secret"
    assert found["train"].source == f"hub nyu-mll/glue sst2 @ {SHA}"
    assert found["train"].where(2).endswith("sst2/train-00000-of-00001.parquet row 3")


@pytest.fixture
def unreachable(monkeypatch):
    """The hub cannot be reached, and that is asked only once per data set."""
    asked = []

    def refuse(self, repo_id, **options):
        inspect.signature(huggingface_hub.HfApi.repo_info).bind(self, repo_id, **options)
        asked.append(repo_id)
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    return asked


def test_the_hubs_cache_needs_no_network(here, unreachable):
    hub_files(here / "cache" / "datasets--nyu-mll--glue" / "snapshots" / SHA)
    check_hub(load("sst2", source="hub", data_dir="cache", say=quiet))
    assert unreachable == ["nyu-mll/glue"]
    branch = here / "cache" / "datasets--nyu-mll--glue" / "refs" / "main"
    write(branch, SHA)
    check_hub(load("sst2", source="hub", data_dir="cache", revision="main", say=quiet))
    fails("nyu-mll/glue@other is not in the hub's cache", "sst2", source="hub", data_dir="cache", revision="other")


def test_a_download(here, monkeypatch):
    real, calls = inspect.signature(huggingface_hub.snapshot_download), []

    def download(*args, **options):
        calls.append(real.bind(*args, **options).arguments)
        folder = here / "downloads" / SHA
        return str(folder if folder.exists() else hub_files(folder))

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, repo_id, **options: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    check_hub(load("sst2", source="hub", say=quiet))
    expected = {"repo_id": "nyu-mll/glue", "repo_type": "dataset", "revision": SHA, "allow_patterns": ["sst2/*"]}
    assert calls == [{**expected, "cache_dir": None}]
    check_hub(load("sst2", say=quiet))  # "auto" comes to it too
    shutil.rmtree(here / "downloads" / SHA / "sst2")
    fails(f"nyu-mll/glue sst2 @ {SHA}: the hub's repository has no table there", "sst2", source="hub")


def test_a_revision_that_is_none(here, monkeypatch):
    class Response:
        headers, request = {}, None

    def refuse(self, repo_id, **options):
        raise huggingface_hub.errors.RevisionNotFoundError("404", response=Response())

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    message = "nyu-mll/glue@v9: the hub has no such revision. Use a branch, tag or commit of it."
    fails(message, "sst2", source="hub", revision="v9")


def test_no_network_at_all(here, unreachable, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(here / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(here / "tfds"))
    fix = "Download its files and pass their folder: data_dir=FOLDER (--data-dir FOLDER), or set LEPJAX_DATA."
    hub = f"nyu-mll/glue@{SHA} is not in the hub's cache, and the hub cannot be reached (ConnectionError)"
    tfds = "TFDS has not prepared it on this machine"
    fails(f"sst2: LEPJAX_DATA is not set; {hub}; {tfds}. {fix}", "sst2")
    fails(f"sst2: {hub}. {fix}", "sst2", source="hub")
    fails(f"sst2: LEPJAX_DATA is not set. {fix}", "sst2", source="local")
    fails(f"resume_ner_zh: it has no entry on the hub. {fix}", "resume_ner_zh", source="hub")
    fails("source: no source 'web'", "sst2", source="web")


@pytest.mark.parametrize("name", KNOWN)
def test_known_data_sets(name):
    known = KNOWN[name]
    assert known.name == name and (known.hub or known.name == "resume_ner_zh") and bool(known.hub) == bool(known.config)
    assert known.labels is not None and len(set(known.labels)) == len(known.labels)
    if known.tfds:
        importlib.import_module("tensorflow_datasets.text")
        kinds = {**tensorflow_datasets.builder(known.tfds, data_dir="/nowhere").info.features}
        label = kinds.get("label") or getattr(kinds.get("ner"), "feature", None)
        names = getattr(label, "names", ())
        assert known.labels == tuple(names), "TFDS has the same classes in the same order"


# ---- TFDS ----


class Toybox(tensorflow_datasets.core.GeneratorBasedBuilder):
    """Three sentences with classes and tags."""

    VERSION = tensorflow_datasets.core.Version("1.0.0")
    code_path = None  # TFDS would look for files beside this one

    def _info(self):
        features = tensorflow_datasets.features
        kinds = {
            "sentence": features.Text(),
            "label": features.ClassLabel(names=["negative", "positive"]),
            "score": features.Scalar(np.float32),
            "words": features.Sequence(features.Text()),
        }
        return tensorflow_datasets.core.DatasetInfo(builder=self, features=features.FeaturesDict(kinds))

    def _split_generators(self, manager):
        return {"train": self._generate_examples(3), "validation_matched": self._generate_examples(2)}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"sentence": f"Nummer fünf {i}", "label": i % 2, "score": i / 2, "words": ["ü"] * i}


TOYBOX = Known("toybox", ("negative", "positive"), tfds="toybox")


def test_tfds_without_tensorflow(here, monkeypatch):
    wanted = Wanted(TOYBOX, folder=str(here / "tfds"))
    with pytest.raises(fetch.Unavailable, match="TFDS has not prepared it on this machine"):
        fetch.prepared_tfds(wanted)
    prepare_toybox(here / "tfds")
    parts = fetch.prepared_tfds(wanted)
    assert list(parts) == ["train", "validation"] and parts["train"].said == "TFDS toybox/1.0.0"
    monkeypatch.setitem(KNOWN, "toybox", TOYBOX)
    data = load("toybox", "train", source="tfds", data_dir=str(here / "tfds"), say=quiet)
    assert sorted(zip(data.columns["text"], data.label_ids().tolist(), strict=True)) == [
        ("Nummer fünf 0", 0),
        ("Nummer fünf 1", 1),
        ("Nummer fünf 2", 0),
    ]
    assert data.where(1) == "TFDS toybox/1.0.0 train record 2"
    raw = parts["train"].read(REFUSE).columns
    assert {type(value) for value in raw["score"]} == {float}
    assert sorted(raw["words"]) == [[], ["ü"], ["ü", "ü"]]
    assert "tensorflow" not in sys.modules


def prepare_toybox(folder):
    builder = tensorflow_datasets.builder("toybox", data_dir=str(folder), file_format="array_record")
    builder.download_and_prepare()


def test_what_tfds_cannot_do(here, monkeypatch):
    wanted = Wanted(KNOWN["sst2"], folder=str(here))
    for raised, message in {
        ImportError("no module", name="importlib_resources"): "glue/sst2: TFDS needs importlib_resources. pip install",
        ConnectionError("no network"): "TFDS cannot download glue/sst2 (ConnectionError)",
        NotImplementedError("tfrecord"): "glue/sst2: TFDS cannot read it (tfrecord). Pass data_dir=FOLDER",
    }.items():

        def builder(name, raised=raised, **options):
            raise raised

        monkeypatch.setattr(tensorflow_datasets, "builder", builder)
        with pytest.raises(UserError) as error:
            fetch.tfds(wanted)
        assert message in str(error.value)
    with pytest.raises(fetch.Unavailable, match="TFDS does not have it"):
        fetch.tfds(Wanted(KNOWN["resume_ner_zh"]))


# ---- which source ----


def test_the_order_of_sources(sst2, monkeypatch):
    other = write(sst2 / "other" / "sst2" / "train.tsv", "sentence\tlabel\nother\t1\n").parent.parent
    chosen = {"hub": fetch.Unavailable("no hub"), "tfds": fetch.Unavailable("no TFDS")}

    def answer(name):
        def source(wanted):
            if isinstance(chosen[name], Exception):
                raise chosen[name]
            return chosen[name]

        return source

    monkeypatch.setattr(fetch, "hub", answer("hub"))
    monkeypatch.setattr(fetch, "prepared_tfds", answer("tfds"))
    fails("sst2: LEPJAX_DATA is not set; no hub; no TFDS", "sst2")
    part = fetch.local(Wanted(KNOWN["sst2"], folder="sst2"))["train"]
    chosen["tfds"] = {"train": fetch.Part("TFDS", part.read)}
    assert load("sst2", "train", say=quiet).source == "TFDS"
    chosen["hub"] = {"train": fetch.Part("hub", part.read)}
    assert load("sst2", "train", say=quiet).source == "hub"
    monkeypatch.setenv("LEPJAX_DATA", str(other))
    assert load("sst2", "train", say=quiet).source == f"local file {other}/sst2/train.tsv"
    assert load("cola", "train", say=quiet).source == "hub", "not among the files there"
    assert load("sst2", "train", data_dir=".", say=quiet).source == "local file sst2/train.tsv"
    fails("empty (no such folder)", "sst2", data_dir="empty")  # sabotage: never quietly from elsewhere


def test_what_was_used_is_said(sst2, capsys):
    said = []
    data = load("sst2", data_dir=".", say=said.append)
    line = "sst2: train 3 rows, validation 1 rows, from local file sst2/train.tsv, local file sst2/dev.tsv"
    assert said == [line] and data["train"].source == "local file sst2/train.tsv"
    load("sst2", data_dir=".")
    assert capsys.readouterr().err == f"lepjax: {line}\n"
