"""Disk space: asks for room before it is needed, and takes it, so that a full disk is noticed early."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Iterable
from typing import Final

from shoal.core.errors import StorageFault
from shoal.core.units import MIB, format_size

MARGIN_BYTES: Final = 4 * MIB  # for folders, names and what others write meanwhile
_NOT_SUPPORTED: Final = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


def check_free_space(directory: int, needed_bytes: int, where: str) -> None:
    """Raises: StorageFault (code "disk_full") if the file system of an open folder lacks `needed_bytes`."""
    if needed_bytes <= 0:
        return
    status = os.fstatvfs(directory)
    free = status.f_bavail * status.f_frsize
    if status.f_blocks and free < needed_bytes + MARGIN_BYTES:
        raise StorageFault(
            f"There is not enough room in {where}",
            cause=f"{format_size(needed_bytes)} and a reserve of {format_size(MARGIN_BYTES)} are needed, "
            f"{format_size(free)} are free",
            next_step="free space there or choose another folder, and run the same command again",
            code="disk_full",
        )


def has_room(directory: int, needed_bytes: int) -> bool:
    """Tell whether the file system of an open folder surely has `needed_bytes`; False if it does not say."""
    status = os.fstatvfs(directory)
    return status.f_bavail * status.f_frsize >= needed_bytes + MARGIN_BYTES


def block_bytes(directory: int) -> int:
    """Return in which units the file system of an open folder hands out space."""
    return os.fstatvfs(directory).f_frsize


def reserve(fd: int, size: int, extents: Iterable[tuple[int, int, int]]) -> None:
    """Give a file its size, and blocks for its data extents; holes stay holes.

    Where the file system cannot reserve, writing finds out whether there is room. Raises: OSError (ENOSPC).
    """
    info = os.fstat(fd)
    if info.st_size != size:
        os.ftruncate(fd, size)
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        for offset, length, _ in extents:
            os.posix_fallocate(fd, offset, length)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise


def sync_file_system(directory: int) -> None:
    """Wait until everything written to the file system of an open folder is on its disk. Raises: OSError."""
    if _syncfs is None:
        os.sync()
    elif _syncfs(directory) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def rename_new(source: bytes, target: bytes, *, source_dir: int, target_dir: int) -> None:
    """Rename by *at call, never over something that exists. Raises: FileExistsError, OSError."""
    if _renameat2 is not None:
        if _renameat2(source_dir, source, target_dir, target, _RENAME_NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
        if number not in _NOT_SUPPORTED:
            raise OSError(number, os.strerror(number), os.fsdecode(target))
    try:  # no such call here: look first; what appears in between is lost only if it is a file
        os.stat(target, dir_fd=target_dir, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(source, target, src_dir_fd=source_dir, dst_dir_fd=target_dir)
        return
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fsdecode(target))


_RENAME_NOREPLACE: Final = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_syncfs = getattr(_libc, "syncfs", None)
_renameat2 = getattr(_libc, "renameat2", None)
if _renameat2 is not None:
    _renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
