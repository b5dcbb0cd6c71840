"""Transfer state: one get as it is kept, counted and shown."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from shoal.apps.files.context import ChangeSignal, FilesContext
from shoal.apps.files.status import GetResult, TransferStatus
from shoal.content.link import Link
from shoal.core.decoders import get_json_decoder
from shoal.core.errors import (
    ConfigFault,
    LocalMisuse,
    Refused,
    RemoteFault,
    ShoalError,
    StorageFault,
    Unavailable,
)
from shoal.storage.rows import pack, unpack
from shoal.storage.transfers import TransferRow, TransferState

RATE_WEIGHT = 0.4  # of the newest second

_FAULTS: dict[str, type[ShoalError]] = {
    kind.__name__: kind
    for kind in (LocalMisuse, RemoteFault, Unavailable, StorageFault, ConfigFault, Refused)
}


class FollowOptions(msgspec.Struct, array_like=True):
    """What makes a transfer a follow: it goes on with every version. `version` lies at DEST, 0 for none."""

    keep_s: float
    keep_count: int
    version: int = 0
    refused: str = ""  # why its feed is not believed any more


class TransferOptions(msgspec.Struct, array_like=True):
    """What the transfers table keeps for us: what was asked for, and of the result what has no column."""

    overwrite: bool = False
    wait_s: float | None = 0.0
    elapsed_s: float = 0.0
    name: str = ""
    files: int = 0
    total_bytes: int = 0  # of the files, holes included
    skipped: list[tuple[bytes, str]] = []
    blamed: list[bytes] = []
    collected: bool = False  # somebody was told that it is done, and how
    manifest_bytes: int = 0  # fetched of feed and manifest
    only: list[bytes] = []  # patterns that say which part is wanted, sorted; all of it without any
    unmatched: list[bytes] = []  # those of them that selected nothing
    follow: FollowOptions | None = None
    background: bool = False  # it moves what other transfers leave


class Rate:
    """Bytes a second, smoothed over some seconds; of what rests nothing is left, and it begins anew."""

    def __init__(self) -> None:
        self.bytes_s = 0.0
        self._at = 0.0
        self._done = 0

    def measure(self, now: float, done: int) -> None:
        """Take what is done now, at most twice a second."""
        if now - self._at < 0.5:
            return
        if self._at:
            newest = max(0.0, (done - self._done) / (now - self._at))
            self.bytes_s += (RATE_WEIGHT if self.bytes_s else 1.0) * (newest - self.bytes_s)
        self._at, self._done = now, done

    def rest(self) -> None:
        """Nothing moves: no time left can be told from what moved before."""
        self.bytes_s = 0.0


class TransferRecord:
    """The kept part of a transfer, with its counters; loop thread only."""

    def __init__(self, context: FilesContext, row: TransferRow) -> None:
        self.context = context
        self.row = row
        self.link = Link.parse(row.link)
        self.options = (
            unpack(TransferOptions, row.options, "transfers.options") if row.options else TransferOptions()
        )
        self.state = row.state
        self.done_bytes = row.done_bytes
        self.fetched_bytes = row.fetched_bytes
        self.refetched_bytes = row.refetched_bytes
        self.reused_bytes = row.reused_bytes
        self.total_bytes = row.total_bytes
        self.version = row.version
        self.providers = dict(row.providers)
        self.resumed = row.resumed
        self.error = read_error(row.error)
        self.note = ""
        self.asked_at = context.clock.monotonic()  # when somebody asked for it last
        self.rate = Rate()
        self.count_arriving: Callable[[], int] | None = None  # bytes of chunks under way, while it fetches
        self.looks_at_all = True  # a follow: compare DEST with the version that lies there, too
        self.newest = 0  # version that was heard of
        self.signal = ChangeSignal()
        self._shown: tuple[object, ...] = ()

    @property
    def id(self) -> bytes:
        return self.row.id

    @property
    def kind(self) -> str:
        """What it is, for people."""
        return "get" if self.options.follow is None else "follow"

    def status(self) -> TransferStatus:
        """Return a snapshot."""
        return TransferStatus(
            id=self.id,
            share_id=self.row.share_id,
            state=self.state,
            bytes=self.total_bytes,
            done_bytes=self.shown_bytes,
            rate_bytes_s=self.rate.bytes_s,
            providers=dict(self.providers),
            name=self.options.name,
            dest=self.row.dest,
            revision=self.signal.revision,
            note=self.note,
            error=self.error,
            result=self.result() if self.state is TransferState.DONE else None,
            only=list(self.options.only),
            background=self.options.background,
        )

    @property
    def shown_bytes(self) -> int:
        """What is done, and what came of chunks that are not complete: one may take a minute."""
        if self.count_arriving is None or self.total_bytes is None:
            return self.done_bytes
        return max(self.done_bytes, min(self.total_bytes, self.done_bytes + self.count_arriving()))

    def result(self) -> GetResult:
        """Return what the transfer did, all its runs together."""
        return GetResult(
            files=self.options.files,
            bytes=self.options.total_bytes,
            seconds=self.options.elapsed_s,
            fetched_bytes=self.fetched_bytes,
            refetched_bytes=self.refetched_bytes,
            reused_bytes=self.reused_bytes,
            resumed=self.resumed,
            skipped=list(self.options.skipped),
            providers=dict(self.providers),
            blamed=list(self.options.blamed),
            unmatched=list(self.options.unmatched),
            manifest_bytes=self.options.manifest_bytes,
        )

    async def enter(self, state: TransferState, error: ShoalError | None = None) -> None:
        """Change the state, durably, together with everything that is counted; seen once it is durable."""
        if state.is_end or state is TransferState.PAUSED:
            self.rate.rest()
            self.note = ""
        try:
            await self.context.stores.transfers.update(
                self.id,
                state=state,
                updated_at=self.context.clock.wall(),
                version=self.version,
                options=pack(self.options),
                total_bytes=self.total_bytes,
                done_bytes=self.done_bytes,
                fetched_bytes=self.fetched_bytes,
                refetched_bytes=self.refetched_bytes,
                reused_bytes=self.reused_bytes,
                providers=self.providers,
                resumed=self.resumed,
                error=write_error(error),
            )
        finally:
            self.state = state
            self.error = error
            self.signal.touch()

    def queue(self) -> None:
        """Wait for its turn again, unless it ended: it was stopped."""
        if not self.state.is_end:
            self.state = TransferState.QUEUED
            self.rate.rest()
            self.note = ""
            self.signal.touch()

    async def collect(self) -> TransferStatus:
        """Return a snapshot; one that says DONE was handed over then, durably: the next get begins anew."""
        if self.state is TransferState.DONE and not self.options.collected:
            self.options.collected = True
            await self.context.stores.transfers.update(self.id, options=pack(self.options))
        return self.status()

    def say(self, note: str) -> None:
        """Tell people what the transfer waits for."""
        if note != self.note:
            self.note = note
            self.signal.touch()

    def measure(self, now: float) -> None:
        """Update the rate, at most twice a second, and wake whoever shows progress if there is some."""
        self.rate.measure(now, self.shown_bytes)
        shown = (self.shown_bytes, self.note, self.state)
        if shown != self._shown:
            self._shown = shown
            self.signal.touch()


def write_error(error: ShoalError | None) -> str:
    """Return an error as the table keeps it."""
    if error is None:
        return ""
    kind = next((name for name, known in _FAULTS.items() if isinstance(error, known)), "Unavailable")
    parts = [kind, error.code, error.message, error.cause, error.next_step]
    return msgspec.json.encode(parts).decode()


def read_error(text: str) -> ShoalError | None:
    """Return the error that `write_error` wrote."""
    if not text:
        return None
    try:
        kind, code, message, cause, next_step = get_json_decoder(tuple[str, str, str, str, str]).decode(text)
    except msgspec.MsgspecError:
        return Unavailable(text)
    return _FAULTS.get(kind, Unavailable)(message, cause=cause, next_step=next_step, code=code)
