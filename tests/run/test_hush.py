"""Orbax's pages about a failed save are not printed; other errors are."""

import logging
import sys
import types

import pytest

from lepjax.run.hush import hush


@pytest.fixture
def hushed(monkeypatch):
    problems = []
    monkeypatch.setattr(sys, "unraisablehook", problems.append)
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    before = [list(logger.filters) for logger in loggers]
    hush()
    yield problems
    for logger, filters in zip(loggers, before, strict=True):
        logger.filters[:] = filters


def passes(name, path, text, level=logging.ERROR):
    return bool(logging.getLogger(name).filter(logging.LogRecord(name, level, path, 1, text, (), None)))


def test_only_what_we_tell_ourselves_is_dropped(hushed):
    assert not passes("absl", "/lib/orbax/checkpoint/_src/futures.py", "a save failed")
    assert passes("absl", "/lib/orbax/checkpoint/_src/futures.py", "a hint", logging.WARNING)
    assert passes("absl", "/lib/grain/loader.py", "a worker died")
    assert not passes("asyncio", "tasks.py", "Task exception was never retrieved <... orbax/checkpoint ...>")
    assert passes("asyncio", "tasks.py", "Task exception was never retrieved")


def test_threads_that_come_too_late_are_dropped(hushed):
    for error in (RuntimeError("Event loop is closed"), RuntimeError("no"), ValueError("Event loop is closed")):
        sys.unraisablehook(types.SimpleNamespace(exc_value=error))
    assert [str(problem.exc_value) for problem in hushed] == ["no", "Event loop is closed"]
