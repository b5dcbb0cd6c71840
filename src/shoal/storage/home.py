"""Home: the directory of one network on one device; who may use it, and one daemon at a time.

HOME/                0700, owned by the user that runs shoal
  version            "shoal home 1": written once, read before anything else
  lock               flock held by the daemon; holds its pid
  config.toml        the user's settings (optional)
  keys/              identity.keystore
  shoal.db           storage.database
  log/               the daemon's log
  api.sock           the API, unless the path is too long for a socket
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import stat
import time

from shoal.core.errors import ConfigFault, LocalMisuse, Refused, StorageFault
from shoal.storage.faults import ascii_path, fault_of_os_error

HOME_VERSION = 1
SOCKET_PATH_BYTES = 100  # sun_path holds 104 bytes on macOS and the BSDs, 108 on Linux, with its NUL
LOCK_PATIENCE_S = 0.5  # `find_daemon` of another process holds the lock for some microseconds
_VERSION_PREFIX = "shoal home "
# what may lie in a directory that becomes a home: what people write before the first start, and what a
# start that was killed half-way leaves
_MAY_PRECEDE = frozenset({"config.toml", "lock", "log", "version.new"})


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
        _check_directory(where)
        found = _read_version(where)
        if found is None and not create:
            raise _no_home(where)
        if found is not None and found > HOME_VERSION:
            raise ConfigFault(
                f"The home {ascii_path(where)} cannot be used",
                cause=f"it is of version {found}, this release knows version {HOME_VERSION}",
                next_step="upgrade shoal",
                code="newer_home",
            )
        if found is None:
            _check_unused(where)
        lock_fd = _take_lock(where) if lock else None
        try:
            _make_subdirectory(os.path.join(where, "log"))
            if found is None:
                write_private_file(
                    os.path.join(where, "version"), f"{_VERSION_PREFIX}{HOME_VERSION}\n".encode()
                )
        except StorageFault:
            if lock_fd is not None:
                os.close(lock_fd)
            raise
        return cls(where, lock_fd)

    @property
    def keys_path(self) -> str:
        """Where identity.keystore keeps the device's keys."""
        return os.path.join(self.path, "keys")

    @property
    def database_path(self) -> str:
        """The SQLite file."""
        return os.path.join(self.path, "shoal.db")

    @property
    def log_dir(self) -> str:
        """The directory of the daemon's log."""
        return os.path.join(self.path, "log")

    @property
    def config_path(self) -> str:
        """The user's settings; may be absent."""
        return os.path.join(self.path, "config.toml")

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
        return _read_pid(fd)
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


def write_private_file(path: str, data: bytes) -> None:
    """Write a file of mode 0600 that is whole or absent after a crash. Raises: StorageFault."""
    new = path + ".new"
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
        sync_directory(os.path.dirname(path))
    except OSError as error:
        raise fault_of_os_error(error, f"{ascii_path(path)} was not written", path) from error


def sync_directory(path: str) -> None:
    """Make the names in a directory durable. Raises: OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


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
        raise _not_writable(where, error) from error


def _tighten_if_empty(where: str) -> None:
    """Close an empty directory of ours to others: nothing in it can have been read."""
    with contextlib.suppress(OSError):  # what is wrong with it is said by the checks that follow
        if os.stat(where).st_uid == os.geteuid() and not os.listdir(where):
            os.chmod(where, 0o700)


def _check_directory(where: str) -> None:
    shown = ascii_path(where)
    try:
        status = os.stat(where)
    except FileNotFoundError:
        raise _no_home(where) from None
    except OSError as error:
        raise _not_writable(where, error) from error
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigFault(
            f"The home {shown} cannot be used",
            cause="it is not a directory",
            next_step="choose another with --home or SHOAL_HOME",
            code="home_kind",
        )
    if status.st_uid != os.geteuid():
        raise ConfigFault(
            f"The home {shown} cannot be used",
            cause=f"it belongs to {_user_name(status.st_uid)}, and this is {_user_name(os.geteuid())}",
            next_step="run shoal as that user, or choose another home with --home or SHOAL_HOME",
            code="home_owner",
        )
    if status.st_mode & 0o077:
        raise ConfigFault(
            f"The home {shown} cannot be used",
            cause=f"other users can get into it: its mode is {stat.S_IMODE(status.st_mode):04o}, not 0700",
            next_step=f"chmod 700 {shown}",
            code="home_permissions",
        )
    if not os.access(where, os.R_OK | os.W_OK | os.X_OK):
        raise _not_writable(where, None)


def _read_version(where: str) -> int | None:
    try:
        with open(os.path.join(where, "version"), encoding="ascii", errors="replace") as file:
            text = file.read(64).strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise fault_of_os_error(error, "The home's version was not read", where) from error
    number = text.removeprefix(_VERSION_PREFIX)
    if not text.startswith(_VERSION_PREFIX) or not number.isdecimal():
        raise ConfigFault(
            f"The home {ascii_path(where)} cannot be used",
            cause=f"its file `version` does not say {_VERSION_PREFIX!r} and a number",
            next_step=f"restore that file; homes of this release say '{_VERSION_PREFIX}{HOME_VERSION}'",
            code="home_version",
        )
    return int(number)


def _check_unused(where: str) -> None:
    strange = sorted(set(os.listdir(where)) - _MAY_PRECEDE)
    if strange:
        raise ConfigFault(
            f"The home {ascii_path(where)} cannot be used",
            cause=f"it is not a home of shoal and holds other files, e.g. {ascii_path(strange[0])}",
            next_step="choose an empty or new directory with --home or SHOAL_HOME",
            code="home_foreign",
        )


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
        raise _not_writable(where, error) from error
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            pid = _read_pid(fd)
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


def _read_pid(fd: int) -> int:
    text = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdecimal() else 0


def _no_home(where: str) -> ConfigFault:
    return ConfigFault(
        f"There is no network in {ascii_path(where)}",
        cause="it is not a home of shoal",
        next_step="make a network with `shoal up`, join one with `shoal join`, or name the right home "
        "with --home or SHOAL_HOME",
        code="no_home",
    )


def _not_writable(where: str, error: OSError | None) -> ConfigFault | StorageFault:
    if error is not None and fault_of_os_error(error, "", where).code == "disk_full":
        return fault_of_os_error(error, f"The home {ascii_path(where)} cannot be used", where)
    reason = (error.strerror if error else None) or "no permission to read and write it"
    return ConfigFault(
        f"The home {ascii_path(where)} cannot be used",
        cause=reason,
        next_step="make it readable and writable for you, or choose another with --home or SHOAL_HOME",
        code="home_not_writable",
    )


def _user_name(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user number {uid}"
