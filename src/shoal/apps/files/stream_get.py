"""Stream: the one file that a link (or a selection) names, in order, verified, and kept nowhere.

Chunks that this node serves are read where they lie. The others are fetched in order, a window of them ahead
of the reader, and are in memory until they are read: as fast as the reader takes them they are asked for.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from shoal.apps.files.context import FilesContext
from shoal.apps.files.finding import WATCH_S
from shoal.apps.files.glance import Glance
from shoal.apps.files.listing import Lister
from shoal.apps.files.served import ServedShare
from shoal.apps.files.share_turn import Claim, ShareTurn
from shoal.apps.files.target import is_chunk
from shoal.apps.files.wanted import find_wanted
from shoal.content.feed import Closing
from shoal.content.keys import ChunkKeys
from shoal.content.link import Link
from shoal.content.manifest import EntryKind, Manifest
from shoal.content.paths import display_path
from shoal.content.seal import PLAINTEXT_BYTES
from shoal.content.selection import check_patterns, refuse_empty
from shoal.core.errors import LocalMisuse, StorageFault, Unavailable
from shoal.core.units import MIB
from shoal.swarm.chunk_set import to_set

AHEAD_CHUNKS: Final = 32  # in memory before the reader: 16 MiB on average, never more than 32
HOLE_BYTES: Final = MIB  # zeros of a sparse file at once
SHOWN_LIMIT: Final = 5
COUNTED_S: Final = 0.5  # longest wait for reports at the end; those of a lane that was lost never come


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """What a stream was, all of it. `fetched_bytes` came over the network."""

    name: str
    bytes: int
    fetched_bytes: int
    seconds: float
    providers: dict[bytes, int] = field(default_factory=dict)  # type: ignore[valid-type]


class StreamTarget:
    """The chunks of one version on their way to a reader. Any thread."""

    def __init__(self, version: int, manifest: Manifest, keys: dict[int, ChunkKeys]) -> None:
        self.version = version
        self.total = manifest.chunk_count
        self.written = bytearray(self.total)
        self._manifest = manifest
        self._keys = keys
        self._lock = threading.Lock()
        self._chunks: dict[int, bytes] = {}  # bounded by the window of the scheduler

    def is_valid(self, ordinal: int, data: memoryview) -> bool:
        """Whether these bytes are that chunk."""
        return is_chunk(self._manifest, self._keys, ordinal, data)

    def write(self, ordinal: int, data: memoryview) -> None:
        """Keep a valid chunk until it is taken."""
        with self._lock:
            self._chunks[ordinal] = bytes(data)

    def take(self, ordinal: int) -> bytes | None:
        """Return a chunk that came, and let go of it."""
        with self._lock:
            return self._chunks.pop(ordinal, None)


class ShareStream:
    """One stream: iterate once over `read`. Loop thread only.

    `note` says what it waits for. Whoever stops reading closes the iterator; the fetch then ends by itself.
    `share` is what is served of the share here; `turn` the share's.
    """

    def __init__(
        self,
        context: FilesContext,
        lister: Lister,
        link: Link,
        *,
        only: Sequence[bytes],
        wait_s: float | None,
        background: bool,
        share: ServedShare | None,
        turn: ShareTurn,
    ) -> None:
        self.note = ""
        self._context = context
        self._lister = lister
        self._link = link
        self._only = check_patterns(only)
        self._wait_s = wait_s
        self._background = background
        self._share = share
        self._turn = turn
        self._claim = Claim("a pipe reads it", background, self._say)
        self._glance: Glance | None = None
        self._target: StreamTarget | None = None
        self._arrived = asyncio.Event()
        self._trusts_own = True
        self._fetched_bytes = 0
        self._taken_bytes = 0  # of chunks that came over the network and were read
        self._providers: dict[bytes, int] = {}

    async def read(self) -> AsyncGenerator[bytes | StreamEnd, None]:
        """Yield the file in pieces of at most 1 MiB, and at last what it was.

        Raises: LocalMisuse (codes "several_files", "no_file", "nothing_selected"), Unavailable (code
        "no_provider"), Refused, StorageFault, RemoteFault. May be cancelled and closed at any time.
        """
        started = self._context.clock.monotonic()
        try:
            _, closing, manifest = await self._lister.look(
                self._link, self._share, self._turn, self._wait_s, self._say
            )
            index = await self._find_file(manifest)
            position = 0
            async for piece in self._read_file(closing, manifest, index):
                position += len(piece)
                yield piece
            assert position == manifest.size(index)
            await self._wait_counted()
            yield StreamEnd(
                display_path(manifest.path(index)),
                position,
                self._fetched_bytes,
                self._context.clock.monotonic() - started,
                dict(self._providers),
            )
        finally:
            self._context.swarm.rest(self._link.share_id)  # it may have been read here
            self._end()

    async def _find_file(self, manifest: Manifest) -> int:
        wanted = await find_wanted(self._context, manifest, self._only)
        if wanted.selection is not None:
            refuse_empty(wanted.selection, self._only)
        files = [
            index
            for index in range(len(manifest))
            if manifest.kind(index) is EntryKind.FILE
            and (wanted.selection is None or wanted.selection.has(index))
        ]
        if len(files) == 1:
            return files[0]
        if not files:
            raise LocalMisuse(
                "Nothing was written",
                cause="there is no file in it, only folders or links",
                next_step="see what it holds with: shoal ls LINK",
                code="no_file",
            )
        shown = ", ".join(display_path(manifest.path(index)) for index in files[:SHOWN_LIMIT])
        more = f" and {len(files) - SHOWN_LIMIT} more" if len(files) > SHOWN_LIMIT else ""
        raise LocalMisuse(
            "Nothing was written",
            cause=f"a stream is one file, and these are {len(files)}: {shown}{more}",
            next_step="name one of them with --only, or get them into a folder",
            code="several_files",
        )

    async def _read_file(self, closing: Closing, manifest: Manifest, index: int) -> AsyncIterator[bytes]:
        """Yield a file from its beginning to its end, holes as zeros."""
        position = 0
        chunks = manifest.chunks_of(index)
        for ordinal in chunks:
            chunk = memoryview(await self._get_chunk(closing, manifest, chunks, ordinal))
            start = 0
            for piece in manifest.pieces(ordinal):
                data = chunk[start : start + piece.length]
                start += piece.length
                if piece.file_index != index:
                    continue
                for zeros in _fill(piece.file_offset - position):
                    yield zeros
                yield bytes(data)
                position = piece.file_offset + piece.length
        for zeros in _fill(manifest.size(index) - position):
            yield zeros

    async def _get_chunk(self, closing: Closing, manifest: Manifest, chunks: range, ordinal: int) -> bytes:
        if self._trusts_own:
            data = await self._read_own(closing, manifest, ordinal)
            if data is not None:
                return data
        if self._target is None:
            self._trusts_own = False  # from here on all of it is fetched
            await self._open(closing, manifest, range(ordinal, chunks.stop))
        return await self._wait_chunk(ordinal)

    async def _read_own(self, closing: Closing, manifest: Manifest, ordinal: int) -> bytes | None:
        """Return a chunk that this node serves itself, verified; None if it does not or it is not right."""
        offer = self._context.swarm.find_offer(self._link.share_id)
        version = offer.versions.get(closing.version) if offer is not None else None
        if version is None or not version.have >> ordinal & 1:
            return None
        source, keys = version.source, self._make_keys(manifest)

        def read() -> bytes | None:
            buffer = memoryview(bytearray(PLAINTEXT_BYTES))
            try:
                data = buffer[: source.read_into(ordinal, buffer)]
            except StorageFault:
                return None
            right = keys[manifest.chunk_generation(ordinal)].key(data) == manifest.chunk_key(ordinal)
            return bytes(data) if right else None

        return await asyncio.get_running_loop().run_in_executor(None, read)

    async def _open(self, closing: Closing, manifest: Manifest, chunks: range) -> None:
        """Begin to fetch what is left."""
        if self._share is not None and self._share.is_own:
            raise StorageFault(
                "The rest was not written",
                cause="the file is not what was shared any more",
                next_step="share it again",
                code="changed",
            )
        await self._turn.take(self._claim)
        glance = Glance(
            self._context,
            self._link,
            wait_s=self._wait_s,
            background=self._background,
            say=self._say,
            on_chunks=self._on_chunks,
        )
        self._glance = glance
        await glance.load()
        await glance.open()
        self._target = StreamTarget(closing.version, manifest, self._make_keys(manifest))
        total = manifest.chunk_count
        done = (1 << total) - 1 & ~to_set(chunks, total)
        glance.fetch.set_target(self._target, manifest.chunk_length, done, AHEAD_CHUNKS)

    async def _wait_chunk(self, ordinal: int) -> bytes:
        glance, target, clock = self._glance, self._target, self._context.clock
        assert glance is not None
        assert target is not None
        finder = glance.make_finder()
        glance.fetch.reached(ordinal)
        patience = finder.make_patience()
        while True:
            self._arrived.clear()
            data = target.take(ordinal)
            if data is not None:
                self._say("")
                self._taken_bytes += len(data)
                return data
            finder.check_member()
            if glance.fault is not None:
                raise glance.fault
            if glance.fetch.is_stuck():
                self._say(finder.explain_stuck())
                finder.give_up_if(patience)
            else:
                patience.restart(clock.monotonic())
            with suppress(TimeoutError):
                async with asyncio.timeout(WATCH_S):
                    await self._arrived.wait()

    async def _wait_counted(self) -> None:
        """Wait until what came last is counted, too: a lane's thread hands a chunk over before its report."""
        clock = self._context.clock
        limit = clock.monotonic() + COUNTED_S
        while self._fetched_bytes < self._taken_bytes and (left := limit - clock.monotonic()) > 0:
            self._arrived.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._arrived.wait()

    def _make_keys(self, manifest: Manifest) -> dict[int, ChunkKeys]:
        secret = self._context.network.content_secret
        return {generation: ChunkKeys(secret(generation)) for generation in manifest.generations()}

    def _on_chunks(self, peer: bytes, ordinals: list[int], size_bytes: int) -> None:
        self._fetched_bytes += size_bytes
        self._providers[peer] = self._providers.get(peer, 0) + size_bytes
        self._arrived.set()

    def _say(self, note: str) -> None:
        self.note = note

    def _end(self) -> None:
        """Let the fetch end in a task of its own: who reads may be gone or cancelled."""
        glance, self._glance = self._glance, None
        if glance is None:
            return

        async def close() -> None:
            try:
                await glance.close()
            finally:
                self._turn.leave(self._claim)

        with suppress(Unavailable):  # the node closes, and all fetches with it
            self._context.supervisor.spawn("stream end", close())


def _fill(size: int) -> Iterator[bytes]:
    """Yield `size` zeros."""
    while size > 0:
        yield bytes(min(size, HOLE_BYTES))
        size -= HOLE_BYTES
