"""Where a study is kept: any storage of Optuna's, opened so that several workers do not stumble over each other."""

from __future__ import annotations

import fcntl
import pathlib
import re
from typing import Any

from lepjax.core.errors import UserError
from lepjax.tune.distributions import optuna

PATIENCE = 60.0  # seconds that a writer waits for its turn
JOURNALS = (".journal", ".log")


def open_storage(url: str) -> Any:
    """`sqlite:///study.db`, a journal file (`study.journal`), or any other URL that Optuna knows.

    Raises `UserError` where Optuna is missing or the storage cannot be reached; a password is never shown.
    """
    storages = optuna().storages
    try:
        if url.endswith(JOURNALS):
            path = pathlib.Path(url)
            if not path.parent.is_dir():
                raise UserError("no such folder", where=str(path.parent))
            backend = storages.journal.JournalFileBackend(str(path))
            return storages.JournalStorage(backend)
        if url.startswith("sqlite:"):
            return _sqlite(url)
        return storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    except UserError:
        raise
    except Exception as error:  # of SQLAlchemy, of a driver, of the system: they have no common class
        reason = re.sub(r"//[^@/]*@", "//***@", (str(error).splitlines() or [""])[0])
        fix = "Use sqlite:///FILE, FILE.journal, or an URL that Optuna knows, whose driver is installed."
        raise UserError(f"cannot be reached ({reason[:200]})", where=f"storage {shown(url)}", fix=fix) from error


def shown(url: str) -> str:
    """The URL without its password."""
    return re.sub(r"//([^:@/]*):[^@]*@", r"//\1:***@", url)


def _sqlite(url: str) -> Any:
    """Every transaction takes the write lock when it begins, and waits for it.

    Optuna reads and then writes: with SQLite's own transactions two workers that have both read cannot both go on, and one
    dies of `database is locked` (optuna #820, #4994). A write-ahead log lets a dashboard read meanwhile.
    """
    import sqlalchemy

    def connected(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # the driver begins no transactions of its own
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")  # a killed process loses nothing, a power cut the last moments

    def began(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    file = sqlalchemy.engine.make_url(url).database or ""
    with open(f"{file}.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one makes the tables, in transactions that do not suit these events
        storage = optuna().storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": PATIENCE}})
        storage.engine.dispose()
    sqlalchemy.event.listen(storage.engine, "connect", connected)
    sqlalchemy.event.listen(storage.engine, "begin", began)
    return storage
