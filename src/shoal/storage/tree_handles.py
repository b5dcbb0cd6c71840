"""Handles: open descriptors of a tree of files, reached one component at a time, links never followed.

Every directory below the top is opened relative to its parent with O_NOFOLLOW. Whoever plants a symbolic link
in a tree that we read or write gets an error from us, never a file outside of that tree.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from shoal.core.errors import LocalMisuse

DIRECTORY_LIMIT: Final = 64  # descriptors kept for folders, and as many for files
READ_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_DIRECTORY


class _Handle:
    """An open descriptor; `with` gives it back to its cache. No generator: every large chunk borrows one."""

    __slots__ = ("_cache", "fd", "users")

    def __init__(self, fd: int, cache: HandleCache) -> None:
        self.fd = fd
        self.users = 0
        self._cache = cache

    def __enter__(self) -> int:
        return self.fd

    def __exit__(self, *_: object) -> None:
        self._cache.give_back(self)


class HandleCache:
    """Keeps at most `limit` descriptors open, least recently used first to go; for several threads.

    A borrowed one is never closed; while more than `limit` are borrowed at once, more are open.
    """

    def __init__(self, open_key: Callable[[bytes], int], limit: int = DIRECTORY_LIMIT) -> None:
        self._open_key = open_key
        self._limit = limit
        self._handles: OrderedDict[bytes, _Handle] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = False

    def borrow(self, key: bytes) -> _Handle:
        """Return what to enter at once with `with`, for the descriptor of `key`, opened if it is not.

        Raises: OSError, LocalMisuse after `close`.
        """
        with self._lock:
            handle = self._handles.get(key)
            if handle is not None:
                handle.users += 1
                self._handles.move_to_end(key)
                return handle
            if self._closed:
                raise LocalMisuse("A closed tree was asked for a file")
        fd = self._open_key(key)  # without the lock: it may wait for a disk, and asks for its parent here
        with self._lock:
            handle = self._handles.get(key)
            if handle is None:
                handle = self._handles[key] = _Handle(fd, self)
            else:  # another thread was faster
                os.close(fd)
            handle.users += 1
            self._shrink()
            return handle

    def give_back(self, handle: _Handle) -> None:
        """End a borrowing; `with` does it."""
        with self._lock:
            handle.users -= 1
            self._shrink()

    def forget(self, key: bytes) -> None:
        """Close the descriptor of `key`, if it is open and not borrowed."""
        with self._lock:
            handle = self._handles.get(key)
            if handle is not None and not handle.users:
                os.close(self._handles.pop(key).fd)

    def rest(self) -> None:
        """Close all that are not borrowed now; they are opened again when they are asked for."""
        with self._lock:
            self._shrink(0)

    def close(self) -> None:
        """Close all that are not borrowed now, the others when they come back; idempotent."""
        with self._lock:
            self._closed = True
            self._shrink()

    def _shrink(self, limit: int | None = None) -> None:
        if limit is None:
            limit = 0 if self._closed else self._limit
        if len(self._handles) <= limit:
            return
        for key, handle in list(self._handles.items()):
            if not handle.users:
                del self._handles[key]
                os.close(handle.fd)
                if len(self._handles) <= limit:
                    return


class TreeHandles:
    """Opens what lies below the top names of a share.

    Tops lie either all in one directory (`base`, a descriptor that stays the caller's) or each at an absolute
    path of its own (`roots`). For several threads.
    """

    def __init__(self, *, base: int | None = None, roots: Mapping[bytes, bytes] | None = None) -> None:
        self._base = base
        self._roots = roots
        self._directories = HandleCache(self._open_directory)

    @contextmanager
    def parent_of(self, path: bytes) -> Iterator[tuple[int | None, bytes]]:
        """Yield (directory descriptor, name) for *at calls on `path`. The descriptor is None for the top of a
        root, the name then is its absolute path. Raises: OSError.
        """
        parent, _, name = path.rpartition(b"/")
        if not parent:
            yield self._top(name)
            return
        with self._directories.borrow(parent) as fd:
            yield fd, name

    @contextmanager
    def opened(self, folder: bytes) -> Iterator[int | None]:
        """Yield the descriptor of a folder, for *at calls on names in it; for b"" that of the base,
        None where tops lie at absolute paths of their own: `top` has them. Raises: OSError.
        """
        if folder:
            with self._directories.borrow(folder) as fd:
                yield fd
        else:
            yield self._base

    def top(self, name: bytes) -> bytes:
        """Return what to open for a top name, with the descriptor that `opened(b"")` yields."""
        return self._top(name)[1]

    def open(self, path: bytes, flags: int = READ_FLAGS, mode: int = 0o600) -> int:
        """Return a new descriptor of `path`, the caller's to close. Raises: OSError."""
        with self.parent_of(path) as (fd, name):
            return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=fd)

    def lstat(self, path: bytes) -> os.stat_result | None:
        """Return what lies at `path`, or None. Raises: OSError for anything but that it is not there."""
        try:
            with self.parent_of(path) as (fd, name):
                return os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def forget(self, path: bytes) -> None:
        """Close the descriptor of a folder that is about to be moved or removed."""
        self._directories.forget(path)

    def rest(self) -> None:
        """Close all descriptors that are not in use; they are opened again when they are needed."""
        self._directories.rest()

    def close(self) -> None:
        """Close all descriptors; idempotent."""
        self._directories.close()

    def _open_directory(self, path: bytes) -> int:
        with self.parent_of(path) as (fd, name):
            return os.open(name, DIRECTORY_FLAGS, dir_fd=fd)

    def _top(self, name: bytes) -> tuple[int | None, bytes]:
        if self._roots is None:
            return self._base, name
        try:
            return None, self._roots[name]
        except KeyError:
            raise LocalMisuse("A path outside of the share was asked for") from None


def read_exactly(fd: int, view: memoryview, offset: int) -> bool:
    """Fill `view` from a file at `offset`; False if the file ends before. Raises: OSError."""
    done = os.preadv(fd, (view,), offset)
    while done < len(view):
        more = os.preadv(fd, (view[done:],), offset + done)
        if not more:
            return False
        done += more
    return True


def write_fully(fd: int, view: memoryview, offset: int) -> None:
    """Write all of `view` into a file at `offset`. Raises: OSError (ENOSPC also after a part was written)."""
    done = os.pwrite(fd, view, offset)
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)
