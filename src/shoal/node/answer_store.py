"""Answers about the store: what it holds, and the long works on it, which go on without whoever asked."""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import dataclass, field

from msgspec.structs import replace

from shoal.api import schema as s
from shoal.api import store_schema as st
from shoal.api.faults import find_fault, make_body
from shoal.core.errors import ShoalError
from shoal.node.parts import Parts
from shoal.storage.store import Store


@dataclass
class _Work:
    """One work, running or ended."""

    state: st.StoreWork
    task: asyncio.Task[None] | None = None
    seen_bytes: int = 0  # set by its thread
    cancelled: threading.Event = field(default_factory=threading.Event)


class StoreAnswers:
    """The part of `NodeApi` that is about the store."""

    def __init__(self, parts: Parts) -> None:
        self._node = parts
        self._works: dict[str, _Work] = {}

    async def store(self, request: s.Nothing) -> st.StoreState:
        """Say what the store holds."""
        store = self._node.store
        use = await store.use()
        disk = os.statvfs(store.path)
        return st.StoreState(
            path=store.path,
            segments=use.segments,
            file_bytes=use.file_bytes,
            live_bytes=use.live_bytes,
            chunks=use.chunks,
            lost=use.lost,
            quota_bytes=store.quota_bytes,
            free_bytes=disk.f_bavail * disk.f_frsize,
            scrubs=store.scrubs,
        )

    async def store_work(self, request: st.StoreWorkRequest) -> st.StoreWork:
        """Start a work or attach to it; say how far it is after at most `wait_s`."""
        work = self._works.get(request.verb)
        if request.start and (work is None or not work.state.running):
            work = _Work(st.StoreWork(verb=request.verb, running=True))
            self._works[request.verb] = work
            work.task = self._node.base.supervisor.spawn("store work", self._run(work))
        if work is None:
            return st.StoreWork(verb=request.verb, running=False)
        if work.task is not None and not work.task.done():
            await asyncio.wait({work.task}, timeout=min(max(request.wait_s, 0.0), s.WAIT_LIMIT_S))
        return replace(work.state, bytes=work.seen_bytes) if work.state.running else work.state

    async def _run(self, work: _Work) -> None:
        store = self._node.store
        try:
            total = (await store.use()).live_bytes
            work.state = replace(work.state, total_bytes=total)
            run = _verify if work.state.verb == "verify" else _collect
            work.state = await asyncio.to_thread(run, store, work)
        except ShoalError as error:
            work.state = replace(work.state, running=False, error=make_body(error), fault=find_fault(error))
        finally:
            work.cancelled.set()


def _verify(store: Store, work: _Work) -> st.StoreWork:
    def note(size_bytes: int) -> None:
        work.seen_bytes = size_bytes

    found = store.verify_blocking(note, work.cancelled)
    return replace(
        work.state,
        running=False,
        bytes=found.size_bytes,
        chunks=found.chunks,
        lost=found.lost,
        missing=found.missing,
        repaired=found.repaired_rows,
    )


def _collect(store: Store, work: _Work) -> st.StoreWork:
    done = store.collect_blocking(everything=True, cancelled=work.cancelled, rest=0.25)
    return replace(
        work.state,
        running=False,
        segments=done.segments,
        moved_bytes=done.moved_bytes,
        freed_bytes=done.freed_bytes,
    )
