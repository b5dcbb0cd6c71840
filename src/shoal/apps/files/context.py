"""Context: what every part of file sharing works with, made once by the service."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

from shoal.apps.files.courtesy import Courtesy
from shoal.apps.files.hash_room import HashRoom
from shoal.apps.files.hash_turns import HashTurns
from shoal.apps.files.ports import FilesNetwork, FilesOverlay, FileStores
from shoal.content.kept_manifest import ManifestKeep
from shoal.core.clock import Clock
from shoal.core.free_memory import return_memory
from shoal.core.supervisor import Supervisor
from shoal.core.thread_priority import lower_thread_priority
from shoal.identity.entry import Entry
from shoal.identity.ids import short_peer_id
from shoal.storage.entries import EntryRow
from shoal.swarm.service import SwarmService

T = TypeVar("T")

LONG_WORK_S = 0.1  # what takes longer leaves much freed memory behind, such as a manifest of 30,000 files
TIDY_AFTER_S = 2.0  # until then its results are stored, and what was needed for them is dropped
BACKGROUND_THREADS = 2
THREADS = 4  # for verifying, finishing; each of them is disk-bound and long
HASH_THREADS = 16  # to scan and to wait for what hashes: more than a hash room and all looks take


@dataclass(slots=True)
class _Tidying:
    """Whether memory will be given back soon, and whether somebody asked for it since that was decided."""

    is_due: bool = False
    is_asked_again: bool = False


@dataclass(frozen=True, slots=True)
class FilesContext:
    """The node as seen by file sharing. `home` is never shared and never written into by a get."""

    network: FilesNetwork
    swarm: SwarmService
    overlay: FilesOverlay
    stores: FileStores
    home: bytes
    supervisor: Supervisor
    clock: Clock
    courtesy: Courtesy
    pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(THREADS, thread_name_prefix="shoal-files")
    )

    manifests: ManifestKeep = field(default_factory=ManifestKeep)
    background_pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(
            BACKGROUND_THREADS, thread_name_prefix="shoal-back", initializer=lower_thread_priority
        )
    )

    hash_pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(HASH_THREADS, thread_name_prefix="shoal-share")
    )
    hash_room: HashRoom = field(default_factory=HashRoom)
    hash_turns: HashTurns = field(default_factory=HashTurns)
    _tidying: _Tidying = field(default_factory=_Tidying)

    def choose(self, *, background: bool) -> FilesContext:
        """Return this context, or the one whose threads stand back."""
        return replace(self, pool=self.background_pool) if background else self

    def for_hashing(self, *, background: bool) -> FilesContext:
        """Return the context whose threads others never wait for, or the one whose threads stand back."""
        return replace(self, pool=self.background_pool if background else self.hash_pool)

    def close(self) -> None:
        """Let the threads end; what they do now they may finish."""
        for pool in (self.pool, self.background_pool, self.hash_pool):
            pool.shutdown(wait=False, cancel_futures=True)

    async def run(self, work: Callable[[threading.Event], T]) -> T:
        """Run `work(cancelled)` in a thread. Cancelling sets the event and waits until the work noticed:
        after it nothing of it goes on.
        """
        cancelled = threading.Event()
        loop = asyncio.get_running_loop()
        began = loop.time()
        future = loop.run_in_executor(self.pool, work, cancelled)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            cancelled.set()
            await asyncio.wait([future])
            if not future.cancelled():
                future.exception()  # nobody asks for it any more
            raise
        finally:
            if loop.time() - began > LONG_WORK_S:
                self.tidy_soon()

    def listen_to_manifests(self) -> None:
        """Give memory back after manifests were let go of, too; in the loop that the node runs in."""
        loop = asyncio.get_running_loop()

        def tidy_soon() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(self.tidy_soon)

        self.manifests.on_let_go = tidy_soon

    def tidy_soon(self) -> None:
        """Give memory back TIDY_AFTER_S from now, for what ends now. Often called it is done once in that
        time, and once after the last call. Loop thread only.
        """
        tidying = self._tidying
        if tidying.is_due:
            tidying.is_asked_again = True
            return
        tidying.is_due = True
        asyncio.get_running_loop().call_later(TIDY_AFTER_S, self._tidy)

    def _tidy(self) -> None:
        tidying = self._tidying
        again, tidying.is_due, tidying.is_asked_again = tidying.is_asked_again, False, False
        if again:
            self.tidy_soon()
        with contextlib.suppress(RuntimeError):  # the pool was closed meanwhile
            self.pool.submit(return_memory)

    def name_peer(self, peer: bytes) -> str:
        """Return a peer as people know it: its name and the beginning of its id."""
        member = self.network.state.members.get(peer)
        return f"{member.name} ({short_peer_id(peer)})" if member is not None else short_peer_id(peer)


def make_row(entry: Entry) -> EntryRow:
    """Return an entry as the store keeps it."""
    return EntryRow(entry.id, entry.log, entry.author, entry.seq, entry.data)


class ChangeSignal:
    """Wakes everybody who waits for a change of one thing; nobody is left out."""

    def __init__(self) -> None:
        self.revision = 0
        self._event = asyncio.Event()

    def touch(self) -> None:
        """Note a change."""
        self.revision += 1
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self, timeout_s: float) -> bool:
        """Wait for the next change; False after `timeout_s`. Safe to cancel."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return False
        return True
