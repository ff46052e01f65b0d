"""Whose a run directory is, also where two make it theirs in the same moment, or one dies doing so."""

import dataclasses

import pytest

from lepjax.core.errors import UserError
from lepjax.run.directory import RunDirectory
from tests.tiny import tiny


class Kill(BaseException):
    pass


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run"


def meanwhile(monkeypatch, act):
    """`act()` happens in another process between the first two looks of this one at experiment.json."""
    honest = RunDirectory.experiment

    def looks(self):
        found = honest(self)
        monkeypatch.setattr(RunDirectory, "experiment", honest)
        act()
        return found

    monkeypatch.setattr(RunDirectory, "experiment", looks)


def began(path, experiment):
    other = RunDirectory(path)
    other.claim(experiment)
    other.write_manifest("", {}, [])
    return other


def test_two_that_start_in_the_same_moment(path, monkeypatch):
    """The second is told of the first, whose lock is there before anything else is."""
    path.mkdir()
    others = []
    meanwhile(monkeypatch, lambda: others.append(began(path, tiny())))
    with pytest.raises(UserError, match=r"another process trains here \(pid \d+"):
        RunDirectory(path).claim(tiny())
    others[0].release()
    RunDirectory(path).claim(tiny())


def test_another_that_was_faster_and_has_ended_keeps_its_directory(path, monkeypatch):
    path.mkdir()
    meanwhile(monkeypatch, lambda: began(path, tiny(seed=1)).release())
    with pytest.raises(UserError, match="belongs to another experiment .seed is 1 there, 0 here"):
        RunDirectory(path).claim(tiny())
    assert RunDirectory(path).experiment() == tiny(seed=1)
    RunDirectory(path).claim(tiny(seed=1))  # the one that was refused holds no lock


def test_a_start_that_died_before_it_said_whose_it_is(path, monkeypatch):
    def die(*arguments):
        raise Kill

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", die)
        with pytest.raises(Kill):
            RunDirectory(path).claim(tiny())
    assert {entry.name for entry in path.iterdir()} == {".lock", ".experiment.json.tmp"}
    RunDirectory(path).check_free()
    RunDirectory(path).claim(tiny())
    assert RunDirectory(path).experiment() == tiny()


@pytest.mark.parametrize("look", [RunDirectory.check_free, lambda directory: directory.claim(tiny())])
def test_what_is_no_run_directory_stays_as_it_is(path, look):
    path.write_text("precious")
    with pytest.raises(UserError, match="is a file"):
        look(RunDirectory(path))
    path.unlink()
    path.mkdir()
    (path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="is not empty and no run directory"):
        look(RunDirectory(path))
    assert [entry.name for entry in path.iterdir()] == ["thesis.tex"]


def test_a_changed_field_is_named(path):
    RunDirectory(path).claim(tiny())
    with pytest.raises(UserError, match="belongs to another experiment"):
        RunDirectory(path).claim(dataclasses.replace(tiny(), seed=3))
