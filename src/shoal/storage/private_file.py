"""Private file: a small file of the owner alone, whole or absent after a crash."""

from __future__ import annotations

import os

from shoal.storage.faults import ascii_path, fault_of_os_error


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
