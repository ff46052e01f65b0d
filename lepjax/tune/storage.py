"""Where a study is kept: any storage of Optuna's, opened so that several workers do not stumble over each other."""

from __future__ import annotations

import contextlib
import fcntl
import pathlib
import re
import sqlite3
import time
from typing import IO, Any

from lepjax.core.errors import UserError
from lepjax.tune.distributions import optuna

PATIENCE = 60.0  # seconds that a writer waits for its turn
JOURNALS = (".journal", ".log")


def open_storage(url: str) -> Any:
    """`sqlite:///study.db`, a journal file (`study.journal`), or any other URL that Optuna knows.

    Trials that have ended are read once: to read all anew at every look is what takes the time of a sweep of hundreds.
    Raises `UserError` where Optuna is missing or the storage cannot be reached; a password is never shown.
    """
    storages = optuna().storages
    try:
        if url.endswith(JOURNALS):
            path = pathlib.Path(url)
            if not path.parent.is_dir():
                raise UserError("no such folder", where=str(path.parent))
            return storages.JournalStorage(storages.journal.JournalFileBackend(str(path), FileLock(f"{path}.lock")))
        if url.startswith("sqlite:"):
            return storages.get_storage(_sqlite(url))
        return storages.get_storage(_server(url))
    except UserError:
        raise
    except Exception as error:  # of SQLAlchemy, of a driver, of the system: they have no common class
        reason = re.sub(r"//[^@/]*@", "//***@", (str(error).splitlines() or [""])[0])
        fix = "Use sqlite:///FILE, FILE.journal, or an URL that Optuna knows, whose driver is installed."
        raise UserError(f"cannot be reached ({reason[:200]})", where=f"storage {shown(url)}", fix=fix) from error


class FileLock:
    """A lock of the kernel's, which lets go when its holder dies; Optuna's, a file, then blocks all for half a minute."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._held: IO[str] | None = None

    def acquire(self) -> bool:
        held = open(self.path, "a", encoding="ascii")
        fcntl.flock(held, fcntl.LOCK_EX)
        self._held = held
        return True

    def release(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None


def shown(url: str) -> str:
    """The URL without its password."""
    return re.sub(r"([?&]password=)[^&]*", r"\1***", re.sub(r"//([^:@/]*):[^@]*@", r"//\1:***@", url))


def _server(url: str) -> Any:
    """Several workers may find no tables and make them at the same time: all but the first look again."""
    import sqlalchemy

    for _ in range(5):
        try:
            return optuna().storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        except (sqlalchemy.exc.ProgrammingError, sqlalchemy.exc.IntegrityError):
            time.sleep(1.0)
    return optuna().storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})


def _sqlite(url: str) -> Any:
    """Every transaction takes the write lock when it begins, and waits for it.

    Optuna reads and then writes: with SQLite's own transactions two workers that have both read cannot both go on, and one
    dies of `database is locked` (optuna #820, #4994). A write-ahead log lets a dashboard read meanwhile.
    """
    import sqlalchemy

    def connected(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # the driver begins no transactions of its own
        connection.execute("PRAGMA synchronous=NORMAL")  # a killed process loses nothing, a power cut the last moments

    def began(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    file = sqlalchemy.engine.make_url(url).database or ""
    with open(f"{file}.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one makes the tables, in transactions that do not suit these events
        with contextlib.closing(sqlite3.connect(file, timeout=PATIENCE)) as first:
            first.execute("PRAGMA journal_mode=WAL")  # for good; while others write it fails, whatever the timeout
        storage = optuna().storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": PATIENCE}})
        storage.engine.dispose()
    sqlalchemy.event.listen(storage.engine, "connect", connected)
    sqlalchemy.event.listen(storage.engine, "begin", began)
    return storage
