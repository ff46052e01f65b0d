"""Step t reads batch t, unless the run has skipped data."""

import json

import pytest

from lepjax.core.errors import UserError
from lepjax.run import cursor
from lepjax.run.cursor import cursor_after, read_jumps


def cursor_of(run, step):
    return cursor_after(read_jumps(run), step)


def written(folder, ranges):
    (folder / "skipped_ranges.json").write_text(json.dumps(ranges))
    return folder


def test_without_a_file_the_cursor_is_the_step(tmp_path):
    assert [cursor_of(tmp_path, step) for step in (0, 1, 900)] == [0, 1, 900]
    assert cursor_of(tmp_path / "not there", 7) == 7


def test_after_a_rewind_data_are_skipped(tmp_path):
    """At step 10 the run went on with batch 14, at step 20 with batch 40."""
    folder = written(tmp_path, [[10, 14], [20, 40]])
    steps = (0, 9, 10, 11, 19, 20, 25)
    assert [cursor_of(folder, step) for step in steps] == [0, 9, 14, 15, 23, 40, 45]


def test_a_later_rewind_to_an_earlier_step_takes_all_steps_after_it(tmp_path):
    assert cursor_of(written(tmp_path, [[10, 14], [10, 30]]), 12) == 32
    folder = written(tmp_path, [[20, 40], [10, 60]])
    assert [cursor_of(folder, step) for step in (9, 10, 25)] == [9, 60, 75]


@pytest.mark.parametrize("ranges", [{}, 3, [1, 2], [[1]], [["1", 2]], [[1, 2.5]], [[-1, 2]], [[True, 2]], "x"])
def test_what_is_no_list_of_pairs(tmp_path, ranges):
    with pytest.raises(UserError, match=r"skipped_ranges.json: is no list of \[step, cursor\]$"):
        cursor_of(written(tmp_path, ranges), 3)
    (tmp_path / "skipped_ranges.json").write_text("[[1")
    with pytest.raises(UserError, match=r"skipped_ranges.json: cannot be read"):
        cursor_of(tmp_path, 3)


def test_sabotage_a_file_under_another_name_is_not_seen(tmp_path, monkeypatch):
    written(tmp_path, [[10, 14]])
    monkeypatch.setattr(cursor, "SKIPPED", "ranges.json")
    assert cursor_of(tmp_path, 10) != 14
