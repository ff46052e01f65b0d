"""What libraries print about a failed save: pages, where one line says it all."""

from __future__ import annotations

import logging
import sys
from typing import Any


def hush() -> None:
    """From here on this process does not print them. The errors themselves are raised and told as before."""
    logging.getLogger("absl").addFilter(lambda record: not _of_orbax(record, record.pathname))
    logging.getLogger("asyncio").addFilter(lambda record: not _of_orbax(record, record.getMessage()))
    sys.unraisablehook = _Unraisable(sys.unraisablehook)


def _of_orbax(record: logging.LogRecord, where: str) -> bool:
    return record.levelno >= logging.ERROR and "orbax" in where


class _Unraisable:
    """TensorStore's threads report to an event loop that is closed once the first error has been raised."""

    def __init__(self, before: Any) -> None:
        self.before = before

    def __call__(self, problem: Any) -> None:
        if not (isinstance(problem.exc_value, RuntimeError) and str(problem.exc_value) == "Event loop is closed"):
            self.before(problem)
