"""The command: mistakes in one line, before anything is compiled or written."""

import pytest

from lepjax.cli import main as command
from lepjax.cli.autotune import taken
from lepjax.core.errors import CONFIGURATION, guarded
from tests.tune.folders import rows, write


def test_options():
    given = taken(["--data", "d", "--models", "a", "b", "--budget=5m", "--models", "c"])
    assert given == {"--data": ["d"], "--models": ["a", "b", "c"], "--budget": ["5m"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "5m"], "no data"),
        (["--data", "DATA", "--budget", "soon"], "'soon' is no time"),
        (["--data", "DATA", "--budget", "5s"], "too short"),
        (["--data", "DATA", "--task", "tagging"], "no automatic recipe for 'tagging'"),
        (["--data", "DATA", "--models", "DATA"], "holds no model"),
        (["--data", "DATA", "--out", "DATA"], "not an empty folder"),
        (["--data", "DATA", "--seed", "x"], "'x' is no whole number"),
        (["--data", "DATA", "--bugdet", "5m"], "Did you mean --budget?"),
        (["--data", "DATA", "other"], "'other' belongs to no option"),
        (["--data"], "--data: needs a value"),
        (["--data", "/nowhere"], "/nowhere: no such folder"),
    ],
)
def test_mistakes(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path / "data", train=rows(20))
    asked = ["autotune", *(str(folder) if a == "DATA" else a for a in arguments)]
    assert guarded(lambda: command.run(asked)) == CONFIGURATION
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
