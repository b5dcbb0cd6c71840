"""Migrations killed at every statement: the database of an older release always opens whole afterwards."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from shoal.storage.database import Database
from shoal.storage.schema import MIGRATIONS, migrate
from shoal.testing.kill_rounds import make_older

ROOT = Path(__file__).resolve().parents[2]
NEXT = "a value of the older release"
# a child that opens the database and ends by SIGKILL right before its statement number N
CHILD = """
import os, signal, sqlite3, sys
from shoal.storage.database import Database
left = int(sys.argv[2])
class Connection(sqlite3.Connection):
    def execute(self, sql, parameters=(), /):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().execute(sql, parameters)
def connect(path):
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=Connection)
database = Database(sys.argv[1], connect=connect)
database.open_blocking()
left = 1000
database.close_blocking()
"""


def make_old_database(path: Path, version: int) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    migrate(connection, str(path))
    connection.execute("INSERT INTO named_values VALUES ('name', ?)", (NEXT.encode(),))
    connection.close()
    make_older(path, version)


def open_and_kill(path: Path, statement: int) -> int:
    """Open the database in a child that dies before a statement; returns its exit code."""
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(path), str(statement)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        check=False,
        timeout=20,
    ).returncode


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
def test_a_migration_killed_at_every_statement_is_whole_or_not_there(tmp_path: Path, version: int) -> None:
    path = tmp_path / "shoal.db"
    make_old_database(path, version)
    old = path.read_bytes()
    seen: set[int] = set()
    for statement in range(4, 100):  # the first ones are pragmas of every opening
        path.write_bytes(old)
        for end in ("-wal", "-shm"):
            path.with_name(path.name + end).unlink(missing_ok=True)
        code = open_and_kill(path, statement)
        assert code in (0, -9)
        looking = sqlite3.connect(path)
        seen.add(looking.execute("PRAGMA user_version").fetchone()[0])
        assert looking.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        looking.close()
        database = Database(str(path))
        database.open_blocking()
        found = database.read_blocking(lambda c: c.execute("SELECT value FROM named_values").fetchall())
        tables = database.read_blocking(lambda c: c.execute("SELECT sql FROM sqlite_master").fetchall())
        database.close_blocking()
        assert found == [(NEXT.encode(),)]
        assert set(tables) == fresh_tables()
        if code == 0:
            break
    else:
        pytest.fail("opening never came to its end")
    assert seen == set(range(version, len(MIGRATIONS) + 1))


def fresh_tables() -> set[tuple[str]]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection, "memory")
    found = set(connection.execute("SELECT sql FROM sqlite_master").fetchall())
    connection.close()
    return found
