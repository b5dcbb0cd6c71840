"""Spool: what comes through a pipe to be shared, kept in the home for as long as it is shared.

    HOME/spool/<16 random bytes in hexadecimal>/<name>

Written while it comes, fsynced at its end, and only then shared. What no share has (the pipe broke, the node
was killed) is deleted at the next start.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final, TypeVar

from shoal.content.paths import display_path, find_path_problem
from shoal.core.errors import LocalMisuse, Refused
from shoal.core.undo import async_undone_on_failure
from shoal.core.units import MIB
from shoal.storage.disk_space import check_free_space
from shoal.storage.faults import fault_of_os_error
from shoal.storage.private_file import sync_directory
from shoal.storage.tree_handles import write_fully

T = TypeVar("T")

SPOOL_DIR: Final = b"spool"
AT_ONCE: Final = 8  # pipes that are read at the same time; wild guess
WRITE_BYTES: Final = 4 * MIB  # in memory for each pipe, and what is written at once
FILE_MODE: Final = 0o644  # that getters see; here the home keeps others out
LEFT_BYTES: Final = 64 * MIB  # that a pipe leaves free on the disk of the home: the database is there, too


class Spool:
    """The spool of one home. Loop thread only; writing is done in threads."""

    def __init__(self, home: bytes) -> None:
        self._path = os.path.join(os.path.realpath(home), SPOOL_DIR)
        self._made: set[bytes] = set()  # folders of this run: never swept
        self._active = 0

    def owns(self, path: bytes) -> bool:
        """Whether a path is a file of the spool."""
        return path.startswith(self._path + b"/")

    async def receive(self, name: bytes, pieces: AsyncIterator[bytes]) -> bytes:
        """Write everything that comes to a new file called `name`; return its path. It is durable then.

        Raises: LocalMisuse for a name that no file can have, Refused (code "too_many_pipes"), StorageFault,
        and what `pieces` raises; nothing is left behind then. May be cancelled.
        """
        check_name(name)
        if self._active >= AT_ONCE:
            raise Refused(
                "Nothing was shared",
                cause=f"{AT_ONCE} pipes are read already",
                next_step="wait until one of them has ended",
                code="too_many_pipes",
            )
        folder = os.path.join(self._path, os.urandom(16).hex().encode())
        self._made.add(folder)
        self._active += 1
        try:
            async with async_undone_on_failure(partial(self.remove, os.path.join(folder, name))):
                return await self._receive(folder, name, pieces)
        finally:
            self._active -= 1

    async def _receive(self, folder: bytes, name: bytes, pieces: AsyncIterator[bytes]) -> bytes:
        path = os.path.join(folder, name)
        fd = await _run(partial(_create, path))
        try:
            position = 0
            buffer = bytearray()
            async for piece in pieces:
                buffer += piece
                if len(buffer) >= WRITE_BYTES:
                    full, buffer = buffer, bytearray()
                    await _run(partial(_write, fd, path, full, position))
                    position += len(full)
            await _run(partial(_write, fd, path, buffer, position))
            await _run(partial(_sync, fd, path))
        finally:
            os.close(fd)
        return path

    async def remove(self, path: bytes) -> None:
        """Delete a file of the spool; nothing if it is gone or none. Raises: StorageFault."""
        if self.owns(path):
            folder = os.path.dirname(path)
            await _run(partial(_remove, [folder]))
            self._made.discard(folder)

    async def sweep(self, kept: Iterable[bytes]) -> None:
        """Delete what is neither one of the paths `kept` nor came in this run. Raises: StorageFault."""
        folders = {os.path.dirname(path) for path in kept} | self._made
        names = {os.path.basename(folder) for folder in folders}  # by name alone: a home may be moved
        with _faults(self._path), suppress(FileNotFoundError):
            found = os.listdir(self._path)
            await _run(partial(_remove, [os.path.join(self._path, n) for n in found if n not in names]))


async def sweep_notes(directory: bytes, transfers: Iterable[bytes]) -> None:
    """Delete notes of selections (storage/selected_chunks.py) whose transfer was forgotten.

    Raises: StorageFault.
    """
    known = {transfer.hex().encode() for transfer in transfers}

    def sweep() -> None:
        with _faults(directory), suppress(FileNotFoundError):
            for name in os.listdir(directory):
                identifier, _, kind = name.partition(b".")
                if kind in (b"pieces", b"pieces.new") and identifier not in known:
                    os.unlink(os.path.join(directory, name))

    await _run(sweep)


def check_name(name: bytes) -> None:
    """Raises: LocalMisuse (code "bad_name") for a name that no file can have."""
    problem = "it has a slash" if b"/" in name else find_path_problem(name)
    if problem is not None:
        raise LocalMisuse(
            "Nothing was shared",
            cause=f"{display_path(name[:80])!r} cannot be the name of a file: {problem}",
            next_step="say another one with --name",
            code="bad_name",
        )


async def _run(work: Callable[[], T]) -> T:
    """Run `work` in a thread. Cancelled, the thread still ends before this does: it may use a descriptor."""
    future = asyncio.get_running_loop().run_in_executor(None, work)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return future.result()


def _create(path: bytes) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with _faults(path):
        os.makedirs(os.path.dirname(path), 0o700)
        return os.open(path, flags, 0o600)


def _write(fd: int, path: bytes, data: bytearray, position: int) -> None:
    with _faults(path):
        check_free_space(fd, len(data) + LEFT_BYTES, display_path(os.path.dirname(path)))
        write_fully(fd, memoryview(data), position)


def _sync(fd: int, path: bytes) -> None:
    folder = os.path.dirname(path)
    with _faults(path):
        os.fchmod(fd, FILE_MODE)
        os.fsync(fd)
        for each in (folder, os.path.dirname(folder), os.path.dirname(os.path.dirname(folder))):
            sync_directory(os.fsdecode(each))


def _remove(folders: list[bytes]) -> None:
    for folder in folders:
        with _faults(folder), suppress(FileNotFoundError):
            shutil.rmtree(folder)


@contextmanager
def _faults(path: bytes) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise fault_of_os_error(
            error, "What came through the pipe was not kept", os.fsdecode(path)
        ) from error
