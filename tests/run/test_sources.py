"""The manifest tells where pretrained things came from, and at which commit."""

import huggingface_hub
import pytest
from huggingface_hub import errors

from lepjax.core import hub
from lepjax.data.labelled import LabelledText
from lepjax.data.source import Splits
from lepjax.run.sources import sources
from tests.labelled import labelled

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NOTHING = Splits(train=None, evaluation={}, notes=("train: 3 records, hub nyu-mll/glue sst2 @ 0123",))


@pytest.fixture
def snapshot(tmp_path):
    folder = tmp_path / "models--a--b" / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    return folder


def of(tokenizer):
    return sources(labelled(data=LabelledText(tokenizer=str(tokenizer))), NOTHING)


def test_a_snapshot_tells_its_commit(snapshot, tmp_path):
    found = of(snapshot)
    assert found["data.tokenizer"] == {"name": str(snapshot), "folder": str(snapshot), "commit": COMMIT}
    assert found["data"] == list(NOTHING.notes) and "model.pretrained" not in found
    assert of(tmp_path)["data.tokenizer"] == {"name": str(tmp_path), "folder": str(tmp_path), "commit": None}


def test_a_name_of_the_hub_is_looked_up_without_a_network(snapshot, monkeypatch):
    asked = []

    def download(repository, revision, local_files_only):
        asked.append((repository, revision, local_files_only))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert of("a/b@v1")["data.tokenizer"] == {"name": "a/b@v1", "folder": str(snapshot), "commit": COMMIT}
    assert asked == [("a/b", "v1", True)]

    def missing(*args, **options):
        raise errors.LocalEntryNotFoundError("no")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", missing)
    assert of("a/b")["data.tokenizer"] == {"name": "a/b", "folder": None, "commit": None}


def test_a_downloaded_folder_tells_its_commit(tmp_path):
    notes = tmp_path / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    (notes / "config.json.metadata").write_text(f"{COMMIT}\netag\n1.0\n")
    assert hub.commit(tmp_path) == COMMIT


def test_sabotage_a_mixed_folder_has_no_commit(tmp_path):
    """Files of two commits, or a note that is none, must not pass for one commit."""
    notes = tmp_path / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    (notes / "a.metadata").write_text(f"{COMMIT}\n")
    (notes / "b.metadata").write_text(f"{COMMIT[::-1]}\n")
    assert hub.commit(tmp_path) is None
    (notes / "b.metadata").unlink()
    (notes / "a.metadata").write_text("main\n")
    assert hub.commit(tmp_path) is None
