"""Disk: disks that fail: a database connection that runs full at a word, and a real disk of a few MiB."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

_SQLITE_FULL = 13
_SQLITE_IOERR_WRITE = 778
_SQLITE_IOERR_FSYNC = 1034
_CODES = {"full": _SQLITE_FULL, "io": _SQLITE_IOERR_WRITE, "sync": _SQLITE_IOERR_FSYNC}
_SYNCING = ("COMMIT", "PRAGMA WAL_CHECKPOINT")
_WRITING = ("INSERT", "UPDATE", "DELETE", "CREATE", "COMMIT")


class FailingDisk:
    """The `connect` of a Database whose disk fails while `fault` says so.

    `fault` is None (healthy), "full", "io", or "sync": then only what fsyncs fails, commits and checkpoints.
    As SQLite does, a failing statement undoes its transaction. `failures` counts. With `gate` cleared commits
    wait, as on a very slow disk; set by default.
    """

    def __init__(self) -> None:
        self.fault: str | None = None
        self.failures = 0
        self.gate = threading.Event()
        self.gate.set()

    def connect(self, path: str) -> sqlite3.Connection:
        """Open a connection on this disk."""
        disk = self

        class Connection(sqlite3.Connection):
            """A connection that asks the disk first."""

            def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
                """Run a statement unless the disk fails."""
                if sql.startswith("COMMIT"):
                    disk.gate.wait()
                disk.check(self, sql)
                return super().execute(sql, parameters)

            def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
                """Run a statement for each row unless the disk fails."""
                disk.check(self, sql)
                return super().executemany(sql, parameters)

        return sqlite3.connect(
            path, timeout=5.0, isolation_level=None, check_same_thread=False, factory=Connection
        )

    def check(self, connection: sqlite3.Connection, sql: str) -> None:
        """Fail a writing statement while the disk is broken."""
        words = _SYNCING if self.fault == "sync" else _WRITING
        if self.fault is None or not sql.lstrip().upper().startswith(words):
            return
        self.failures += 1
        if connection.in_transaction:
            connection.rollback()
        text = "database or disk is full" if self.fault == "full" else "disk I/O error"
        error = sqlite3.OperationalError(text)
        error.sqlite_errorcode = _CODES[self.fault]
        raise error


def can_mount() -> bool:
    """Say whether this process may mount a tmpfs: Linux, as root, outside most containers."""
    return sys.platform == "linux" and os.geteuid() == 0 and shutil.which("mount") is not None


@contextmanager
def small_disk(directory: str, size_bytes: int, options: str = "") -> Iterator[str]:
    """Mount a tmpfs of `size_bytes` on an existing directory: it runs full for real.

    `options` are added to the mount's, e.g. "ro". Raises: OSError where mounting is refused; see `can_mount`.
    """
    words = f"size={size_bytes},mode=0700" + (f",{options}" if options else "")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", words, "shoal-test", directory],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise OSError(f"mount: {done.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], capture_output=True, check=False)


class UnpluggedDisk:
    """A small disk at `place` that can be pulled out while files on it are open, and put in again.

    Pulled out, `place` is an empty folder. Between `with` and its end; see `can_mount`.
    """

    def __init__(self, place: Path, size_bytes: int) -> None:
        self.place = place
        self._size_bytes = size_bytes
        self._inside = place.with_name(f"{place.name} itself")  # where the disk is while it is not plugged in
        self._stack = ExitStack()
        self._is_plugged = False

    def __enter__(self) -> UnpluggedDisk:
        self.place.mkdir()
        self._inside = self._insert(self._inside)
        self.plug()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_plugged:
            self.unplug()
        self._stack.close()

    def plug(self) -> None:
        """Put it in: the same disk, in the same place."""
        subprocess.run(["mount", "--bind", self._inside, self.place], check=True)
        self._is_plugged = True

    def unplug(self) -> None:
        """Pull it out; who has a file of it open keeps that."""
        subprocess.run(["umount", "--lazy", self.place], check=True)
        self._is_plugged = False

    def plug_in_copy(self, *, forgets: bool) -> None:
        """Put it in as another device. If it `forgets`, all files hold zeros: names, sizes, times remain."""
        other = self._insert(self._inside.with_name(f"{self._inside.name} again"))
        subprocess.run(["cp", "--archive", f"{self._inside}/.", str(other)], check=True)
        for file in other.rglob("*") if forgets else ():
            if file.is_file() and not file.is_symlink():
                info = file.stat()
                file.write_bytes(bytes(info.st_size))
                os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns))
        self._inside = other
        self.plug()

    def _insert(self, where: Path) -> Path:
        where.mkdir()
        self._stack.enter_context(small_disk(str(where), self._size_bytes))
        return where


def fill_disk(path: str) -> int:
    """Write a file until its disk is full to the last page; returns its size. For a `small_disk` only."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    size = 0
    try:
        while True:
            size += os.write(fd, bytes(4096))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    finally:
        os.close(fd)
    return size
