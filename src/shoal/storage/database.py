"""Database: one SQLite file, one writer thread, a few readers; acknowledged means on the disk.

Group commit: the writer takes everything that is queued, runs each job in a savepoint of one transaction and
commits once, so that concurrent writers share one fsync. WAL mode; `synchronous` is FULL for durable groups.

Two promises a writer can ask for:

    durable=True   survives a power cut once `write` has returned
    durable=False  survives kill -9 of the process (the kernel has the bytes), perhaps not a power cut:
                   for what can be verified again after another boot, at a fraction of the cost
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import msgspec

from shoal.core.errors import ConfigFault, LocalMisuse, ShoalError, StorageFault, Unavailable
from shoal.storage.faults import ascii_path, fault_of_os_error, fault_of_sqlite
from shoal.storage.schema import migrate

log = logging.getLogger("shoal.storage")

T = TypeVar("T")
Connection = sqlite3.Connection
Connect = Callable[[str], Connection]

QUEUE_LIMIT = 4096  # writes that wait; a further `write` waits before it queues
GROUP_LIMIT = 256  # jobs in one transaction: bounds how long the first waits for the last
READERS = 2
CLOSE_TIMEOUT_S = 3.0  # SIGTERM has to end a node within 5 s
WAL_BYTES = 64 * 1024 * 1024  # what a checkpoint leaves of the -wal file

_FSYNC_ERRORS = (1034, 1290)  # SQLITE_IOERR_FSYNC, SQLITE_IOERR_DIR_FSYNC

# What a job may raise by a mistake of its own or on purpose; it fails that job and nothing else.
_JOB_ERRORS = (
    sqlite3.Error,
    sqlite3.Warning,
    ShoalError,
    msgspec.MsgspecError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def connect_sqlite(path: str) -> Connection:
    """Open a connection in autocommit mode; transactions are begun and ended by name."""
    return sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)


class _Job(Generic[T]):
    """One write: what to run, and whom to tell."""

    __slots__ = ("durable", "error", "future", "loop", "run", "settled", "value")

    def __init__(self, run: Callable[[Connection], T], durable: bool) -> None:
        self.run = run
        self.durable = durable
        self.value: T | None = None
        self.error: Exception | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.future: asyncio.Future[T] | None = None
        self.settled: threading.Event | None = None


class Database:
    """The node's tables. Expects `await open()` first and `await close()` last; see the module for promises.

    A job is a function of the connection. It must touch nothing else: it runs on the writer thread, and runs
    a second time alone when the group it was in could not be committed.
    """

    def __init__(self, path: str, *, connect: Connect = connect_sqlite) -> None:
        self.path = path
        self._connect = connect
        self._queue: deque[_Job[Any]] = deque()
        self._wake = threading.Condition()
        self._room = asyncio.Semaphore(QUEUE_LIMIT)
        self._thread: threading.Thread | None = None
        self._closing = False
        self._synchronous = ""
        self._is_doubtful = False  # an fsync of the -wal file failed: what of it the disk has nobody knows
        self._readers: ThreadPoolExecutor | None = None
        self._reader_local = threading.local()
        self._reader_connections: list[Connection] = []
        self.commits = 0  # groups committed: what group commit saves can be measured
        self.writes = 0

    async def open(self) -> None:
        """Open or make the file, bring its tables up to date, start the writer.

        Not safe to cancel half-way: call `close` then.
        Raises: StorageFault for a damaged file or the disk, ConfigFault for tables of a newer release.
        """
        await asyncio.to_thread(self.open_blocking)

    def open_blocking(self) -> None:
        """`open` for a program without a loop."""
        if self._thread is not None or self._closing:
            raise LocalMisuse("a database is opened once")
        try:
            # SQLite would make it with the umask's mode; -wal and -shm inherit the mode of this file
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise fault_of_os_error(error, "The database was not opened", self.path) from error
        try:
            connection = self._connect(self.path)
            try:
                self._prepare(connection)
                migrate(connection, self.path)
            except (sqlite3.Error, ConfigFault, StorageFault):
                connection.close()
                raise
        except sqlite3.Error as error:
            raise fault_of_sqlite(error, "The database was not opened", self.path) from error
        self._readers = ThreadPoolExecutor(READERS, "shoal-db-read")
        self._thread = threading.Thread(
            target=self._run_writer, args=(connection,), name="shoal-db-write", daemon=True
        )
        self._thread.start()

    async def write(self, run: Callable[[Connection], T], *, durable: bool = True) -> T:
        """Run `run(connection)` in a transaction and return its value once it is committed.

        What `run` raises undoes that job alone and is raised here. Cancelling is safe for the database, but
        the caller does not learn whether the write happened.
        Raises: StorageFault (codes disk_full, io, corrupt, permission), Unavailable while closing.
        """
        async with self._room:
            return await self.submit(run, durable=durable)

    def submit(self, run: Callable[[Connection], T], *, durable: bool = True) -> asyncio.Future[T]:
        """Queue a write at once and return its future: for callers that wait for room themselves.

        Loop thread only. Raises: Unavailable while closing; the future as `write`.
        """
        job: _Job[T] = _Job(run, durable)
        job.loop = asyncio.get_running_loop()
        job.future = job.loop.create_future()
        self._put(job)
        return job.future

    def write_blocking(self, run: Callable[[Connection], T], *, durable: bool = True) -> T:
        """`write` for another thread. On the loop's thread it stalls the node for one fsync: only where an
        order demands it. Raises: as `write`.
        """
        job: _Job[T] = _Job(run, durable)
        job.settled = threading.Event()
        self._put(job)
        job.settled.wait()
        if job.error is not None:
            raise job.error
        return job.value  # type: ignore[return-value]  # no error: it is a T

    async def read(self, run: Callable[[Connection], T]) -> T:
        """Run `run(connection)` on a reader that cannot write; it sees everything acknowledged before.

        Safe to cancel; the query itself runs to its end. Raises: StorageFault, Unavailable while closing.
        """
        readers = self._open_readers()
        return await asyncio.get_running_loop().run_in_executor(readers, self._read, run)

    def read_blocking(self, run: Callable[[Connection], T]) -> T:
        """`read` for another thread. Raises: as `read`."""
        return self._open_readers().submit(self._read, run).result()

    async def check(self) -> list[str]:
        """Return what SQLite finds wrong with the file; empty if nothing. Reads all of it: for `doctor`."""

        def run(connection: Connection) -> list[str]:
            rows = connection.execute("PRAGMA quick_check(20)").fetchall()
            return [row[0] for row in rows if row[0] != "ok"]

        try:
            return await self.read(run)
        except StorageFault as fault:
            return [fault.cause]

    async def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Commit what is queued, close the file; idempotent; gives up after `timeout_s`.

        Not safe to cancel: threads may go on until the process ends.
        """
        await asyncio.to_thread(self.close_blocking, timeout_s)

    def close_blocking(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """`close` for a program without a loop."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        readers, self._readers = self._readers, None
        if readers is not None:
            for connection in self._reader_connections:
                connection.interrupt()
            readers.shutdown(wait=True, cancel_futures=True)
        for connection in self._reader_connections:
            connection.close()
        self._reader_connections.clear()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(timeout_s)
            if thread.is_alive():
                log.error("the database did not close within %s s: the disk is very slow", timeout_s)

    def _put(self, job: _Job[Any]) -> None:
        with self._wake:
            if self._closing or self._thread is None:
                raise Unavailable("The database is closed", cause="the node is stopping or not started")
            self._queue.append(job)
            self._wake.notify()

    def _open_readers(self) -> ThreadPoolExecutor:
        if self._readers is None:
            raise Unavailable("The database is closed", cause="the node is stopping or not started")
        return self._readers

    def _prepare(self, connection: Connection) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA journal_size_limit={WAL_BYTES}")
        self._synchronous = "FULL"

    def _read(self, run: Callable[[Connection], T]) -> T:
        try:
            connection: Connection | None = getattr(self._reader_local, "connection", None)
            if connection is None:
                connection = self._connect(self.path)
                connection.execute("PRAGMA query_only=ON")
                self._reader_local.connection = connection
                self._reader_connections.append(connection)
            return run(connection)
        except sqlite3.Error as error:
            raise fault_of_sqlite(error, "The database was not read", self.path) from error

    def _run_writer(self, connection: Connection) -> None:
        """The writer thread: until closed and empty."""
        try:
            while jobs := self._take():
                self._run_group(connection, jobs)
                _settle(jobs)
                jobs = []  # or what the last ones hold would stay in memory until others come
        finally:  # also when a job raised what no job may: nobody waits for ever
            with self._wake:
                self._closing = True
                left, self._queue = list(self._queue), deque()
            for job in left:
                job.error = Unavailable("The write was not done", cause="the database's writer has ended")
            _settle(left)
            try:
                connection.close()
            except sqlite3.Error as error:  # a full disk: what was acknowledged is in the -wal file
                log.warning("closing %s: %s", ascii_path(self.path), error)

    def _take(self) -> list[_Job[Any]]:
        """Wait for jobs; return at most GROUP_LIMIT, none at the end."""
        with self._wake:
            while not self._queue and not self._closing:
                self._wake.wait()
            return [self._queue.popleft() for _ in range(min(GROUP_LIMIT, len(self._queue)))]

    def _run_group(self, connection: Connection, jobs: list[_Job[Any]]) -> None:
        """Run jobs in one transaction; if that cannot be committed, each in its own."""
        error = self._try_commit(connection, jobs)
        if error is None:
            return
        if len(jobs) == 1 or self._is_doubtful:  # each alone would wait for the same disk again
            for job in jobs:
                job.error = job.error or error
            return
        for job in jobs:
            job.error = None
            alone = self._try_commit(connection, [job])
            job.error = job.error or alone

    def _try_commit(self, connection: Connection, jobs: list[_Job[Any]]) -> StorageFault | None:
        """Run jobs, commit. Returns the fault that undid all of them; else each job has value or error."""
        synchronous = "FULL" if any(job.durable for job in jobs) else "NORMAL"
        try:
            if self._is_doubtful:
                self._begin_log_anew(connection)
            if synchronous != self._synchronous:
                connection.execute(f"PRAGMA synchronous={synchronous}")
                self._synchronous = synchronous
            connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                self._run_job(connection, job)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                try:
                    connection.execute("ROLLBACK")
                except sqlite3.Error as second:
                    log.warning("rolling back %s: %s", ascii_path(self.path), second)
            if getattr(error, "sqlite_errorcode", None) in _FSYNC_ERRORS:
                self._is_doubtful = True
            return fault_of_sqlite(error, "The change was not saved", self.path)
        self.commits += 1
        self.writes += len(jobs)
        return None

    def _begin_log_anew(self, connection: Connection) -> None:
        """Move what is committed into the database file, and empty the -wal file.

        After a failed fsync the kernel calls pages clean that the disk does not have. A commit behind them is
        fsynced, acknowledged, and lost with the first power cut: recovery ends at the first frame that
        is not whole. Until it is all written once more, which this does, nothing is acknowledged.
        Raises: sqlite3.Error.
        """
        connection.execute("PRAGMA synchronous=FULL")
        self._synchronous = "FULL"
        is_busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if is_busy:
            raise sqlite3.OperationalError(
                "what an fsync failed for is not written again yet: readers need it"
            )
        self._is_doubtful = False
        log.warning("%s: an fsync had failed; what it was for is written again", ascii_path(self.path))

    def _run_job(self, connection: Connection, job: _Job[Any]) -> None:
        connection.execute("SAVEPOINT job")
        try:
            job.value = job.run(connection)
        except _JOB_ERRORS as error:
            if isinstance(error, sqlite3.Error):
                job.error = fault_of_sqlite(error, "The change was not saved", self.path)
            else:
                job.error = error
            if not connection.in_transaction:  # SQLite undid everything, as for a full disk
                raise sqlite3.OperationalError(str(error)) from error
            connection.execute("ROLLBACK TO job")
        connection.execute("RELEASE job")


def _settle(jobs: list[_Job[Any]]) -> None:
    """Tell everybody who waits; one wake-up a loop, not one a job."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Job[Any]]] = {}
    for job in jobs:
        if job.loop is not None:
            by_loop.setdefault(job.loop, []).append(job)
        elif job.settled is not None:
            job.settled.set()
    for loop, waiting in by_loop.items():
        try:
            loop.call_soon_threadsafe(_deliver, waiting)
        except RuntimeError:  # that loop is closed: nobody waits
            log.debug("%d writes ended after their loop", len(waiting))


def _deliver(jobs: list[_Job[Any]]) -> None:
    for job in jobs:
        future = job.future
        if future is None or future.done():
            continue
        if job.error is not None:
            future.set_exception(job.error)
        else:
            future.set_result(job.value)
