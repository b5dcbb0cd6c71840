"""Faults: what the disk and SQLite say, in words for people."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from shoal.core.errors import StorageFault

if TYPE_CHECKING:  # home.py is on the way of every command: no SQLite there
    import sqlite3

_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
_PERMISSION_ERRNOS = (errno.EACCES, errno.EPERM, errno.EROFS)
# primary result codes of SQLite: the low byte of an extended code
_SQLITE_PERM = 3
_SQLITE_BUSY = 5
_SQLITE_READONLY = 8
_SQLITE_IOERR = 10
_SQLITE_CORRUPT = 11
_SQLITE_FULL = 13
_SQLITE_CANTOPEN = 14
_SQLITE_CONSTRAINT = 19
_SQLITE_NOTADB = 26


def fault_of_os_error(error: OSError, what: str, path: str) -> StorageFault:
    """Return the StorageFault for an operating-system error at `path`. `what` = what did not happen."""
    shown = ascii_path(path)
    reason = error.strerror or str(error)
    if error.errno in _FULL_ERRNOS:
        return StorageFault(
            what,
            cause=f"no space left for {shown}",
            next_step="free space on that disk and run the same command again; nothing is lost",
            code="disk_full",
        )
    if error.errno in _PERMISSION_ERRNOS:
        return StorageFault(
            what,
            cause=f"{shown}: {reason}",
            next_step="give the user that runs shoal access to it",
            code="permission",
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG):
        return StorageFault(what, cause=f"{shown}: {reason}", next_step="check that path", code="io")
    return StorageFault(what, cause=f"{shown}: {reason}", next_step="run `shoal doctor`", code="io")


def fault_of_sqlite(error: sqlite3.Error, what: str, path: str) -> StorageFault:
    """Return the StorageFault for an error of SQLite on the database at `path`."""
    shown = ascii_path(path)
    primary = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    text = str(error)
    if primary == _SQLITE_FULL or "disk is full" in text:
        return StorageFault(
            what,
            cause=f"no space left for {shown}",
            next_step="free space on that disk; the node goes on and nothing acknowledged is lost",
            code="disk_full",
        )
    if primary in (_SQLITE_CORRUPT, _SQLITE_NOTADB):
        return StorageFault(
            what,
            cause=f"{shown} is damaged: {text}",
            next_step="stop the node and move that file away together with its -wal and -shm files, "
            "then join the network again with a new ticket; files you shared are not touched",
            code="corrupt",
        )
    if primary in (_SQLITE_PERM, _SQLITE_READONLY, _SQLITE_CANTOPEN):
        return StorageFault(
            what,
            cause=f"{shown}: {text}",
            next_step="make the home writable for the user that runs shoal",
            code="permission",
        )
    if primary == _SQLITE_BUSY:
        return StorageFault(
            what,
            cause=f"another program holds {shown}",
            next_step="close that program; only shoal may write to its database",
            code="busy",
        )
    if primary == _SQLITE_CONSTRAINT:
        return StorageFault(what, cause=f"{shown}: {text}", next_step="run `shoal doctor`", code="constraint")
    code = "io" if primary == _SQLITE_IOERR else "storage"
    return StorageFault(
        what, cause=f"{shown}: {text}", next_step="run `shoal doctor`; check that disk", code=code
    )


def ascii_path(path: str) -> str:
    """Return a path as people can read it: bytes that are not UTF-8 and control characters are escaped."""
    return "".join(
        c if c.isprintable() and not 0xD800 <= ord(c) <= 0xDFFF else c.encode("unicode_escape").decode()
        for c in path
    )
