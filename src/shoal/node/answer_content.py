"""Answers about content: what a share holds, and pipes into and out of shares."""

from __future__ import annotations

import stat
from collections.abc import AsyncGenerator, AsyncIterator

from msgspec import UNSET

from shoal.api import content_schema as c
from shoal.api import schema as s
from shoal.api.operations import ByteStream
from shoal.api.paths import decode_name, encode_path
from shoal.apps.files.stream_get import ShareStream, StreamEnd
from shoal.content.link import Link
from shoal.content.manifest import EntryKind, FileEntry
from shoal.content.paths import display_path
from shoal.core.units import format_time
from shoal.identity.ids import format_content_id, format_peer_id, format_share_id
from shoal.node.answer_files import share_core
from shoal.node.parts import Parts

_KINDS: dict[EntryKind, c.EntryKindName] = {
    EntryKind.FILE: "file",
    EntryKind.DIR: "folder",
    EntryKind.SYMLINK: "link",
}
_TYPES = {EntryKind.FILE: stat.S_IFREG, EntryKind.DIR: stat.S_IFDIR, EntryKind.SYMLINK: stat.S_IFLNK}
_SECOND_NS = 1_000_000_000


class ContentAnswers:
    """The part of `NodeApi` that is about what shares hold."""

    _parts: Parts

    async def ls(self, request: c.ListRequest) -> c.ListPage:
        """List what a share holds."""
        limit = min(max(1, request.limit), c.LIST_MOST)
        found = await self._parts.files.ls(Link.parse(request.link), decode_name(request.path), limit)
        return c.ListPage(
            share_id=format_share_id(found.share_id),
            name=found.name,
            version=found.version,
            content_id=format_content_id(found.content_id),
            files=found.files,
            bytes=found.bytes,
            entries=[_entry(entry) for entry in found.entries],
            more=found.total - len(found.entries),
        )

    async def share_stream(self, request: c.ShareStreamRequest, body: AsyncIterator[bytes]) -> s.Share:
        """Share what comes, once all of it came."""
        name = decode_name(request.name)
        status = await self._parts.files.share_stream(name, body, background=request.background)
        return s.Share(*share_core(status))

    async def get_stream(self, request: c.GetStreamRequest) -> ByteStream:
        """Return one file, to be read."""
        wait_s = request.wait_s if request.wait_s is None else max(0.0, request.wait_s)
        only = [decode_name(pattern) for pattern in request.only]
        link = Link.parse(request.link)
        return _Stream(self._parts.files.get_stream(link, only, wait_s, background=request.background))


class _Stream:
    """A share's stream as the API knows it."""

    def __init__(self, stream: ShareStream) -> None:
        self._stream = stream

    @property
    def note(self) -> str:
        return self._stream.note

    async def read(self) -> AsyncGenerator[bytes | c.StreamResult, None]:
        """Yield pieces of the file, and at last what it was."""
        items = self._stream.read()
        try:
            async for item in items:
                yield item if isinstance(item, bytes) else _result(item)
        finally:
            await items.aclose()


def _result(x: StreamEnd) -> c.StreamResult:
    return c.StreamResult(
        name=x.name,
        bytes=x.bytes,
        fetched_bytes=x.fetched_bytes,
        seconds=round(x.seconds, 3),
        providers={format_peer_id(peer): count for peer, count in x.providers.items()},
    )


def _entry(x: FileEntry) -> c.ListedEntry:
    shown = display_path(x.path)
    return c.ListedEntry(
        path=shown,
        kind=_KINDS[x.kind],
        bytes=x.size if x.kind is EntryKind.FILE else None,
        mtime=format_time(x.mtime_ns / _SECOND_NS),
        mode=stat.filemode(_TYPES[x.kind] | x.mode),
        target=display_path(x.target) if x.target else UNSET,
        raw=UNSET if shown.encode() == x.path else encode_path(x.path),
    )
