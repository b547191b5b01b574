"""The file of a store: opened, brought up to date, read and written in transactions; facts about the run; a dump."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfdev.errors import RunError
from selfdev.migrations import MIGRATIONS

FILE_NAME = "store.sqlite"
CLOCK_TABLES = frozenset({"phase", "opening", "migration"})  # rows that depend on the clock


class Database:
    """One SQLite file with the tables of a run."""

    def __init__(self, path: Path, read_only: bool = False) -> None:
        """Open or create the store.

        Raises:
            RunError: not a store, made by a newer version, or not accessible.
        """
        self.path = path
        try:
            self._db = _connect(path, read_only)
            if not read_only:
                self._migrate()
            elif not self._has_tables():
                raise RunError(f"{path} holds no run yet; give a run directory made by `selfdev run`")
            elif self._is_older():
                self._db = _copy_in_memory(self._db)
                self._migrate()
        except sqlite3.DatabaseError as error:
            raise RunError(f"{path} cannot be used as a run store: {error}; give another --run-dir") from None

    def close(self) -> None:
        """Close the file; the store is unusable afterwards."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; nested use joins the outer one."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # -- facts about the run ------------------------------------------------------------------------------------------

    def get_meta(self, key: str) -> str | None:
        """One recorded fact, or None."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row["value"])

    def set_meta(self, key: str, value: str) -> None:
        """Record one fact; a later value replaces an earlier one."""
        with self.transaction():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def dump(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table that does not depend on the clock, in a fixed order: equal runs have equal dumps."""
        names = [r["name"] for r in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        kept = sorted(n for n in names if n not in CLOCK_TABLES and not n.startswith("sqlite_"))
        return {n: sorted((tuple(r) for r in self._db.execute(f"SELECT * FROM {n}")), key=repr) for n in kept}

    def _has_tables(self) -> bool:
        return self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'candidate'").fetchone() is not None

    def _is_older(self) -> bool:
        applied = {r["name"] for r in self._db.execute("SELECT name FROM migration")}
        return any(name not in applied for name, _ in MIGRATIONS)

    def _migrate(self) -> None:
        with self.transaction():
            self._db.execute("CREATE TABLE IF NOT EXISTS migration (name TEXT PRIMARY KEY, applied_at TEXT NOT NULL)")
            applied = {r["name"] for r in self._db.execute("SELECT name FROM migration")}
            unknown = applied - {name for name, _ in MIGRATIONS}
            if unknown:
                raise RunError(f"{self.path} was written by a newer selfdev ({max(unknown)}); update selfdev to use it")
            for name, step in MIGRATIONS:
                if name not in applied:
                    step(self._db)
                    self._db.execute("INSERT INTO migration VALUES (?, datetime('now'))", (name,))


def _connect(path: Path, read_only: bool) -> sqlite3.Connection:
    mode = "ro" if read_only else "rwc"
    db = sqlite3.connect(f"file:{_uri_path(path)}?mode={mode}", uri=True, isolation_level=None, timeout=5.0)
    db.row_factory = sqlite3.Row
    db.execute("PRAGMA foreign_keys = ON")
    if not read_only:
        try:  # some network file systems cannot do WAL
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            db.execute("PRAGMA journal_mode = DELETE")
        db.execute("PRAGMA synchronous = FULL")
    return db


def _copy_in_memory(db: sqlite3.Connection) -> sqlite3.Connection:
    """What an older store holds, to be brought up to date without touching its file."""
    copy = sqlite3.connect(":memory:", isolation_level=None)
    copy.row_factory = sqlite3.Row
    db.backup(copy)
    db.close()
    return copy


def _uri_path(path: Path) -> str:
    return path.absolute().as_uri().removeprefix("file:")
