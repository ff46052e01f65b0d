"""Every notebook runs from its first cell to its last, and draws what it says."""

import pathlib

import nbclient
import nbformat
import pytest

NOTEBOOKS = pathlib.Path(__file__).parent.parent / "notebooks"


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebook_runs(path, test_data, tmp_path, monkeypatch):
    monkeypatch.setenv("LEPJAX_NOTEBOOK_MODEL", str(test_data / "weights" / "minilm_l6_fp16"))
    monkeypatch.setenv("LEPJAX_NOTEBOOK_DATA", str(test_data / "sst2"))
    monkeypatch.setenv("LEPJAX_NOTEBOOK_ROWS", "256")
    monkeypatch.setenv("LEPJAX_NOTEBOOK_RUN", str(tmp_path / "run"))
    monkeypatch.setenv("XLA_FLAGS", "")  # a notebook has the machine's devices, not the tests' simulated ones
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=400, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    text = "".join(output.get("text", "") for output in outputs)
    assert "Epoch 2 | train loss: " in text
    assert "model.safetensors" in text


def test_notebooks_are_stored_without_outputs():
    for path in NOTEBOOKS.glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            assert not cell.get("outputs") and cell.get("execution_count") is None, path
