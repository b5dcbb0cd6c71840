"""Segment disk of a test: in memory, counts calls, fails or stops at one of them, and knows what a power cut
at this moment could leave behind: every subset of writes that were not made durable, the last one torn.
"""

from __future__ import annotations

import errno
import itertools
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from shoal.core.errors import StorageFault
from shoal.storage.faults import fault_of_sqlite
from shoal.storage.schema import migrate

T = TypeVar("T")

SUBSET_LIMIT = 6  # writes of which every subset is tried; of more only prefixes


class PowerCut(Exception):
    """The machine stopped in the middle of a call."""


@dataclass
class MemoryFile:
    """One file: what is on the platter, and what only the kernel has, as (offset, bytes)."""

    durable: bytes = b""
    cached: bytes = b""
    pending: list[tuple[int, bytes]] = field(default_factory=list)
    unsure: list[tuple[int, bytes]] = field(
        default_factory=list
    )  # after a failed fsync: maybe there, maybe not


class MemoryDisk:
    """A SegmentDisk. `calls` counts what writes; `fail_at` and `cut_at` name one of them by its number."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files = {name: MemoryFile(data, data) for name, data in (files or {}).items()}
        self.durable_names = dict(self.files)
        self.name_log: list[dict[str, MemoryFile]] = []
        self.calls = 0
        self.cut_at = 0
        self.fail_at = 0
        self.errno = errno.EIO

    def step(self, undone: Callable[[], None] = lambda: None) -> None:
        """Count a writing call; stop or fail where that was wished for."""
        self.calls += 1
        if self.calls == self.cut_at:
            raise PowerCut
        if self.calls == self.fail_at:
            undone()
            raise OSError(self.errno, "injected")

    def list_names(self) -> list[str]:
        return sorted(self.files)

    def create(self, name: str) -> None:
        self.step()
        self.files[name] = MemoryFile()
        self._note_names()

    def append(self, name: str, offset: int, parts: list[bytes]) -> None:
        file = self.files[name]
        assert offset == len(file.cached), "an append not at the end"

        def write(data: list[bytes]) -> None:
            for part in data:
                file.pending.append((len(file.cached), part))
                file.cached += part

        self.step(lambda: write([b"".join(parts)[: sum(map(len, parts)) // 2]]))
        write(parts)

    def truncate(self, name: str, size: int) -> None:
        self.step()
        file = self.files[name]
        file.cached = file.cached[:size]
        file.durable = file.durable[:size]  # the rest may come back: it is pending no more, and never indexed
        file.pending = [(at, data[: max(0, size - at)]) for at, data in file.pending if at < size]

    def fsync(self, name: str) -> None:
        file = self.files[name]

        def lose() -> None:
            file.unsure += file.pending
            file.pending = []

        self.step(lose)
        file.durable = _apply(file.durable, file.pending)
        file.pending = []

    def fsync_names(self) -> None:
        self.step()
        self.durable_names = dict(self.files)
        self.name_log = []

    def rename(self, old: str, new: str) -> None:
        self.step()
        self.files[new] = self.files.pop(old)
        self._note_names()

    def unlink(self, name: str) -> None:
        if name not in self.files:
            raise FileNotFoundError(errno.ENOENT, name)
        self.step()
        del self.files[name]
        self._note_names()

    def size(self, name: str) -> int:
        return len(self._get(name).cached)

    def read(self, name: str, offset: int, size: int) -> bytes:
        return self._get(name).cached[offset : offset + size]

    def close(self) -> None:
        """Nothing is open."""

    def images(self) -> Iterator[dict[str, bytes]]:
        """Yield what could be on the disk after a power cut now."""
        for names in [self.durable_names, *self.name_log]:
            keys = sorted(names)
            for contents in itertools.product(*(_contents(names[name]) for name in keys)):
                yield dict(zip(keys, contents, strict=True))

    def _get(self, name: str) -> MemoryFile:
        if name not in self.files:
            raise FileNotFoundError(errno.ENOENT, name)
        return self.files[name]

    def _note_names(self) -> None:
        self.name_log.append(dict(self.files))


class MemoryIndex:
    """An IndexPort in memory whose commits are calls of a MemoryDisk: they fail and are cut like writes."""

    def __init__(self, disk: MemoryDisk, image: bytes | None = None) -> None:
        self.disk = disk
        self.connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        if image is None:
            migrate(self.connection, "memory")
        else:
            self.connection.deserialize(image)

    def write(self, run: Callable[[sqlite3.Connection], T]) -> T:
        self.connection.execute("BEGIN")
        try:
            value = run(self.connection)
            self.disk.step()
        except OSError as error:
            self.connection.execute("ROLLBACK")
            raise fault_of_sqlite(sqlite3.OperationalError(str(error)), "not saved", "memory") from error
        except (PowerCut, StorageFault, sqlite3.Error):
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")
        return value

    def read(self, run: Callable[[sqlite3.Connection], T]) -> T:
        return run(self.connection)

    def image(self) -> bytes:
        """Return everything that is committed."""
        return self.connection.serialize()


def _contents(file: MemoryFile) -> Iterator[bytes]:
    """Yield what a file could hold after a power cut."""
    writes = [write for write in file.unsure + file.pending if write[1]]
    yield file.durable
    if not writes:
        return
    if len(writes) <= SUBSET_LIMIT:
        chosen = [c for n in range(1, len(writes) + 1) for c in itertools.combinations(writes, n)]
    else:
        chosen = [tuple(writes[:n]) for n in range(1, len(writes) + 1)]
    for subset in chosen:
        yield _apply(file.durable, list(subset))
    at, data = writes[-1]
    yield _apply(file.durable, [*writes[:-1], (at, data[: len(data) // 2])])


def _apply(content: bytes, writes: list[tuple[int, bytes]]) -> bytes:
    result = bytearray(content)
    for at, data in writes:
        if len(result) < at:
            result += bytes(at - len(result))
        result[at : at + len(data)] = data
    return bytes(result)
