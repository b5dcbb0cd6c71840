"""Home lookup: what can be told about a home from outside, touching nothing and without its lock.

Every command of the CLI comes by here: nothing heavy is imported.
"""

from __future__ import annotations

import fcntl
import os

SOCKET_PATH_BYTES = 100  # sun_path holds 104 bytes on macOS and the BSDs, 108 on Linux, with its NUL


def resolve_path(path: str | bytes) -> str:
    """Return the absolute path of a home, links followed, so that daemon and clients mean one place."""
    return os.path.realpath(os.path.expanduser(os.fsdecode(path)))


def has_home(path: str | bytes) -> bool:
    """Say whether a directory is a home already; never raises for what is not there."""
    return os.path.exists(os.path.join(resolve_path(path), "version"))


def find_daemon(path: str | bytes) -> int | None:
    """Return the pid of the daemon that has this home, 0 if it did not say yet, None if there is none."""
    try:
        fd = os.open(os.path.join(resolve_path(path), "lock"), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return read_pid(fd)
    finally:
        os.close(fd)


def find_network(path: str | bytes) -> bytes | None:
    """Return the id of the network that a home is of, None where there is none (yet)."""
    try:
        with open(os.path.join(resolve_path(path), "network"), encoding="ascii", errors="replace") as file:
            return bytes.fromhex(file.read(128))
    except (OSError, ValueError):
        return None


def has_network(path: str | bytes) -> bool:
    """Say whether a home is in a network."""
    return find_network(path) is not None


def find_socket_path(path: str | bytes) -> str:
    """Return the API socket's path of a home; touches nothing.

    A home whose socket's path would be over SOCKET_PATH_BYTES has it in /tmp/shoal-<uid>/; not in $TMPDIR,
    which daemon and client may not share. Clients check the peer's uid, the daemon the directory.
    """
    where = resolve_path(path)
    inside = os.path.join(where, "api.sock")
    if len(os.fsencode(inside)) <= SOCKET_PATH_BYTES:
        return inside
    import hashlib  # rarely needed, and every start of the command line comes by here

    name = hashlib.blake2b(os.fsencode(where), digest_size=16).hexdigest()
    return f"/tmp/shoal-{os.geteuid()}/{name}.sock"  # noqa: S108 - the daemon checks the directory


def read_pid(fd: int) -> int:
    """Return the pid in an open lock file, 0 if there is none yet."""
    text = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdecimal() else 0
