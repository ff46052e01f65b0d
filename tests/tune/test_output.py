"""The folder of an autotune: begun anew after one that did not end, and else left alone."""

import pytest

from lepjax.core.errors import UserError
from lepjax.tune import output


def left(folder, *names):
    """A folder with these files."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("kept")
    return folder


def test_what_an_unfinished_one_left_is_begun_anew(tmp_path):
    folder = left(tmp_path / "out", "vocabulary/vocab.txt", "run/result.json", output.MARK)
    assert output.free(str(folder)) == folder
    with output.claimed(folder):
        assert [path.name for path in folder.iterdir()] == [output.MARK]
        left(folder, output.FINISHED)
    assert [path.name for path in folder.iterdir()] == [output.FINISHED]


@pytest.mark.parametrize(
    "names",
    [
        (output.FINISHED, "model/config.json"),
        (output.FINISHED, output.MARK),  # killed after it had ended
        ("vocabulary/vocab.txt",),
        (output.MARK, "thesis.tex"),
    ],
)
def test_anything_else_is_left_alone(names, tmp_path):
    folder = left(tmp_path / "out", *names)
    with pytest.raises(UserError, match="not an empty folder"):
        output.free(str(folder))
    assert all((folder / name).read_text() == "kept" for name in names)


def test_one_that_fails_may_be_repeated(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), output.claimed(output.free(str(tmp_path / "out"))):
            left(tmp_path / "out", "race/0/study.db")
            raise ZeroDivisionError
    with output.claimed(output.free(str(tmp_path / "out"))):
        assert not (tmp_path / "out" / "race").exists()


def test_one_that_is_at_work_is_not_disturbed(tmp_path):
    with output.claimed(tmp_path):
        left(tmp_path, "run/result.json")
        with pytest.raises(UserError, match="another autotune is at work here"), output.claimed(tmp_path):
            pass
        assert (tmp_path / "run" / "result.json").read_text() == "kept"


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path):
    elsewhere, folder = left(tmp_path / "elsewhere", "model.txt"), left(tmp_path / "out", output.MARK)
    (folder / "model").symlink_to(elsewhere)
    with output.claimed(folder):
        assert not (folder / "model").exists() and (elsewhere / "model.txt").is_file()


def test_where_nothing_can_be_written(tmp_path):
    left(tmp_path, "file")
    with pytest.raises(UserError, match="cannot be written"), output.claimed(tmp_path / "file" / "out"):
        pass


@pytest.mark.parametrize(("data", "name"), [("sst2", "sst2"), (".", "here"), ("sub/..", "here"), ("a/b/", "b")])
def test_the_default_is_named_after_the_data(data, name, tmp_path, monkeypatch):
    (tmp_path / "here" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert output.default(data) == f"runs/autotune/{name}"
    assert output.default("/") == "runs/autotune/data"
