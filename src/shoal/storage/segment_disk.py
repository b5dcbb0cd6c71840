"""Segment disk: the few things that the store asks of an operating system, and the directory that does them.

Everything that can fail or be lost by a crash goes through `SegmentDisk`: a test gives another one and can
enumerate what happens at every call (shoal.testing.segment_disk).
"""

from __future__ import annotations

import os
import threading
from typing import Protocol

from shoal.storage.private_file import sync_directory

OPEN_FILES = 64  # segments kept open for reading


class SegmentDisk(Protocol):
    """One directory of segment files. A file is named; handles are the disk's own. All raise OSError."""

    def list_names(self) -> list[str]:
        """Return the names of all files."""
        ...

    def create(self, name: str) -> None:
        """Make an empty file, or empty the one that is there."""
        ...

    def append(self, name: str, offset: int, parts: list[bytes]) -> None:
        """Write parts one after the other at `offset`, which is the file's end."""
        ...

    def truncate(self, name: str, size: int) -> None:
        """Cut a file's end off."""
        ...

    def fsync(self, name: str) -> None:
        """Return once the file's bytes are durable."""
        ...

    def fsync_names(self) -> None:
        """Return once what was created, renamed and unlinked is durable."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, over one that has it."""
        ...

    def unlink(self, name: str) -> None:
        """Delete a file; who reads it may go on."""
        ...

    def size(self, name: str) -> int:
        """Return a file's size in bytes."""
        ...

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Return up to `size` bytes, fewer at the end. Any thread."""
        ...

    def close(self) -> None:
        """Let go of everything that is open."""
        ...


class _Handle:
    """An open file; closed by the last who uses it once it is let go of."""

    __slots__ = ("fd", "users")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.users = 1  # the cache


class SegmentDirectory:
    """A SegmentDisk in a real directory of mode 0700, which is made where it is missing."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._handles: dict[str, _Handle] = {}
        self._forgotten = (
            0  # how often a name has got another meaning; a file opened meanwhile may be the old one
        )

    def prepare(self) -> None:
        """Make the directory, durably. Raises: OSError."""
        if not os.path.isdir(self.path):
            os.mkdir(self.path, 0o700)
            sync_directory(os.path.dirname(self.path))

    def list_names(self) -> list[str]:
        return sorted(os.listdir(self.path))

    def create(self, name: str) -> None:
        self._forget(name)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(self._join(name), flags, 0o600))

    def append(self, name: str, offset: int, parts: list[bytes]) -> None:
        handle = self._acquire(name)
        try:
            left = [memoryview(part) for part in parts if part]
            while left:
                done = os.pwritev(handle.fd, left[:512], offset)
                offset += done
                while left and done >= len(left[0]):
                    done -= len(left.pop(0))
                if done:
                    left[0] = left[0][done:]
        finally:
            self._release(handle)

    def truncate(self, name: str, size: int) -> None:
        handle = self._acquire(name)
        try:
            os.ftruncate(handle.fd, size)
        finally:
            self._release(handle)

    def fsync(self, name: str) -> None:
        handle = self._acquire(name)
        try:
            os.fdatasync(handle.fd) if hasattr(os, "fdatasync") else os.fsync(handle.fd)
        finally:
            self._release(handle)

    def fsync_names(self) -> None:
        sync_directory(self.path)

    def rename(self, old: str, new: str) -> None:
        os.rename(self._join(old), self._join(new))
        self._forget(old)
        self._forget(new)

    def unlink(self, name: str) -> None:
        os.unlink(self._join(name))
        self._forget(name)

    def size(self, name: str) -> int:
        return os.stat(self._join(name), follow_symlinks=False).st_size

    def read(self, name: str, offset: int, size: int) -> bytes:
        handle = self._acquire(name)
        try:
            return os.pread(handle.fd, size, offset)
        finally:
            self._release(handle)

    def close(self) -> None:
        with self._lock:
            handles, self._handles = list(self._handles.values()), {}
        for handle in handles:
            self._release(handle)

    def _join(self, name: str) -> str:
        return os.path.join(self.path, name)

    def _acquire(self, name: str) -> _Handle:
        with self._lock:
            handle = self._handles.get(name)
            if handle is not None:
                handle.users += 1
                return handle
            forgotten = self._forgotten
        fd = os.open(self._join(name), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        evicted: list[_Handle] = []
        with self._lock:
            handle = self._handles.get(name)
            if forgotten != self._forgotten:  # not kept: a deleted file would take its space for ever
                return _Handle(fd)
            if handle is None:
                handle = self._handles[name] = _Handle(fd)
                fd = -1
                while len(self._handles) > OPEN_FILES:
                    evicted.append(self._handles.pop(next(iter(self._handles))))
            handle.users += 1
        if fd >= 0:
            os.close(fd)
        for old in evicted:
            self._release(old)
        return handle

    def _release(self, handle: _Handle) -> None:
        with self._lock:
            handle.users -= 1
            last = handle.users == 0
        if last:
            os.close(handle.fd)

    def _forget(self, name: str) -> None:
        with self._lock:
            self._forgotten += 1
            handle = self._handles.pop(name, None)
        if handle is not None:
            self._release(handle)
