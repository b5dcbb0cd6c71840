"""Home: the directory of one network on one device; who may use it, and one daemon at a time.

HOME/              0700, owned by the user that runs shoal
  version          "shoal home 1": written once, read before anything else
  lock             flock held by the daemon; holds its pid
  network          the network's id in hexadecimal, once this device is in one
  config.toml      the user's settings (optional)
  keys/            identity.keystore
  shoal.db         storage.database
  store/           storage.store: sealed chunks in segment files
  spool/           apps.files.spool: what came through pipes and is shared
  log/             the daemon's log
  api.sock         the API, unless the path is too long for a socket
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time

from shoal.core.errors import ConfigFault, LocalMisuse, Refused, StorageFault
from shoal.storage.faults import ascii_path, fault_of_os_error
from shoal.storage.home_check import (
    HOME_VERSION,
    VERSION_PREFIX,
    check_directory,
    check_unused,
    no_home,
    not_writable,
    read_version,
)
from shoal.storage.home_lookup import (
    SOCKET_PATH_BYTES,
    find_daemon,
    find_network,
    find_socket_path,
    has_home,
    has_network,
    read_pid,
    resolve_path,
)
from shoal.storage.private_file import write_private_file

__all__ = [
    "SOCKET_PATH_BYTES",
    "Home",
    "find_daemon",
    "find_network",
    "find_socket_path",
    "has_home",
    "has_network",
    "resolve_path",
    "write_private_file",
]

LOCK_PATIENCE_S = 0.5  # `find_daemon` of another process holds the lock for some microseconds


class Home:
    """An opened home. With `lock` it is this process's alone until `close` or the end of the process.

    Expects to be made by `Home.open`. Blocking, some system calls: for start and end, not for a busy loop.
    """

    def __init__(self, path: str, lock_fd: int | None) -> None:
        self.path = path
        self._lock_fd = lock_fd

    @classmethod
    def open(cls, path: str | bytes, create: bool = False, lock: bool = True) -> Home:
        """Check a home (make it first where `create`) and take its lock.

        Raises: ConfigFault for a home that is missing, foreign, open to others, not writable or newer;
        Refused (code `in_use`) where another process has it; StorageFault for the disk.
        """
        where = resolve_path(path)
        if create:
            _make_directory(where)
        check_directory(where)
        found = read_version(where)
        if found is None and not create:
            raise no_home(where)
        if found is not None and found > HOME_VERSION:
            raise ConfigFault(
                f"The home {ascii_path(where)} cannot be used",
                cause=f"it is of version {found}, this release knows version {HOME_VERSION}",
                next_step="upgrade shoal",
                code="newer_home",
            )
        if found is None:
            check_unused(where)
        lock_fd = _take_lock(where) if lock else None
        try:
            _make_subdirectory(os.path.join(where, "log"))
            if found is None:
                write_private_file(
                    os.path.join(where, "version"), f"{VERSION_PREFIX}{HOME_VERSION}\n".encode()
                )
        except StorageFault:
            if lock_fd is not None:
                os.close(lock_fd)
            raise
        return cls(where, lock_fd)

    @property
    def database_path(self) -> str:
        """The SQLite file."""
        return os.path.join(self.path, "shoal.db")

    @property
    def store_path(self) -> str:
        """The directory of the chunk store."""
        return os.path.join(self.path, "store")

    @property
    def log_dir(self) -> str:
        """The directory of the daemon's log."""
        return os.path.join(self.path, "log")

    @property
    def has_lock(self) -> bool:
        """Whether this object keeps other daemons out."""
        return self._lock_fd is not None

    @property
    def socket_path(self) -> str:
        """The API socket, see `find_socket_path`; `prepare_socket` makes it a safe place."""
        return find_socket_path(self.path)

    def prepare_socket(self) -> str:
        """Return the API socket's path with nothing lying there, ready to be bound.

        Expects the lock: what lies there is then of a daemon that was killed.
        Raises: ConfigFault where somebody else has the directory in /tmp, LocalMisuse without the lock.
        """
        if not self.has_lock:
            raise LocalMisuse("only the daemon that has the home's lock makes its socket")
        path = self.socket_path
        if os.path.dirname(path) != self.path:
            _prepare_socket_directory(os.path.dirname(path))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return path

    def lock(self) -> None:
        """Take the lock where `open` was told not to. Raises: Refused (code in_use), as `open`."""
        if self._lock_fd is None:
            self._lock_fd = _take_lock(self.path)

    def mark_network(self, network_id: bytes) -> None:
        """Note which network this home is of: when it was made or joined completely. Raises: StorageFault."""
        write_private_file(os.path.join(self.path, "network"), network_id.hex().encode() + b"\n")

    def close(self) -> None:
        """Give the lock back; idempotent. The lock file stays: removing it would let two daemons in."""
        if self._lock_fd is not None:
            fd, self._lock_fd = self._lock_fd, None
            with contextlib.suppress(OSError):  # a full disk must not keep the lock
                os.ftruncate(fd, 0)
            os.close(fd)

    def __enter__(self) -> Home:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _prepare_socket_directory(directory: str) -> None:
    """Make it 0700, or check that it is ours, closed to others and not a link."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    status = os.lstat(directory)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise ConfigFault(
            "The API socket has no safe place",
            cause=f"{directory} is not a directory that only you can use, and the home's path is too long",
            next_step=f"remove {directory}, or choose a home with a path under "
            f"{SOCKET_PATH_BYTES - len('/api.sock')} bytes",
            code="socket_directory",
        )


def _make_directory(where: str) -> None:
    try:
        os.makedirs(os.path.dirname(where), exist_ok=True)
        os.mkdir(where, 0o700)
    except FileExistsError:
        _tighten_if_empty(where)
        return
    except OSError as error:
        raise not_writable(where, error) from error


def _tighten_if_empty(where: str) -> None:
    """Close an empty directory of ours to others: nothing in it can have been read."""
    with contextlib.suppress(OSError):  # what is wrong with it is said by the checks that follow
        if os.stat(where).st_uid == os.geteuid() and not os.listdir(where):
            os.chmod(where, 0o700)


def _make_subdirectory(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    except OSError as error:
        raise fault_of_os_error(error, f"{ascii_path(path)} was not made", path) from error


def _take_lock(where: str) -> int:
    path = os.path.join(where, "lock")
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise not_writable(where, error) from error
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            pid = read_pid(fd)
            os.close(fd)
            owner = f"process {pid}" if pid else "another process"
            raise Refused(
                f"The home {ascii_path(where)} is in use",
                cause=f"{owner} runs a node on it",
                next_step="use `shoal status` to look at that node, `shoal down` to stop it",
                code="in_use",
            ) from None
        except OSError as error:
            os.close(fd)
            raise fault_of_os_error(error, "The home was not locked", path) from error
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        os.close(fd)
        raise fault_of_os_error(error, "The home was not locked", path) from error
    return fd
