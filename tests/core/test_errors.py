"""User errors are one line and an exit code; bugs keep their traceback."""

import pickle
import subprocess
import sys

import pytest

from lepjax.core.errors import BUG, CONFIGURATION, DONE, RESTART, UserError, guarded, nearest


def raising(error):
    def command():
        raise error

    return command


def test_a_user_error_reads_where_found_fix():
    error = UserError("label '2' is not one of 0, 1.", where="train.tsv line 812", fix="Mend the line.")
    assert str(error) == "train.tsv line 812: label '2' is not one of 0, 1. Mend the line."
    assert str(UserError("no data")) == "no data"


def test_a_user_error_is_one_line_whatever_it_quotes():
    assert "\n" not in str(UserError("cannot read\n  this", where="a\nb", fix="try\n\nthat"))


@pytest.mark.parametrize(
    ("error", "code"),
    [(UserError("no data", where="data"), CONFIGURATION), (KeyboardInterrupt(), RESTART), (ZeroDivisionError(), BUG)],
)
def test_exit_codes(error, code, capsys):
    assert guarded(raising(error)) == code
    assert capsys.readouterr().out == ""


def test_a_command_returns_its_own_code():
    assert guarded(lambda: DONE) == 0
    assert guarded(lambda: 3) == 3
    assert (DONE, BUG, RESTART, CONFIGURATION) == (0, 70, 75, 78)


def test_a_user_error_prints_one_line_and_a_bug_its_traceback(capsys):
    guarded(raising(UserError("no data", where="data")))
    assert capsys.readouterr().err == "lepjax: data: no data\n"
    guarded(raising(ZeroDivisionError("ours")))
    printed = capsys.readouterr().err
    assert "Traceback" in printed and "ZeroDivisionError: ours" in printed and "bug" in printed


def test_a_reader_that_goes_away_is_no_bug():
    program = """
import sys
from lepjax.core.errors import guarded
def command():
    for _ in range(100_000):
        print("x" * 80)
    return 0
code = guarded(command)
assert "jax" not in sys.modules
sys.exit(code)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == DONE


def test_nearest_suggests_a_close_name_or_lists_them_all():
    assert nearest("tensr", ["data", "tensor"]) == "Did you mean tensor?"
    assert nearest("qqq", ["tensor", "data"]) == "Known: data, tensor."


def test_a_user_error_survives_the_way_back_from_a_worker_process():
    error = UserError("no data", where="data", fix="Add some.")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
