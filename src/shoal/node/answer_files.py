"""Answers about files: the operations on shares and transfers."""

from __future__ import annotations

from msgspec import UNSET

from shoal.api import schema as s
from shoal.api.faults import find_fault, make_body
from shoal.api.paths import decode_name, decode_path
from shoal.apps.files.status import ShareStatus, TransferStatus
from shoal.content.link import Link
from shoal.content.paths import display_path
from shoal.core.errors import LocalMisuse, Refused
from shoal.identity.ids import format_content_id, format_peer_id, format_share_id, parse_share_id
from shoal.node.parts import Parts

SHARE_ID_CHARACTERS = len(format_share_id(bytes(32)))


class FileAnswers:
    """The part of `NodeApi` that is about shares and transfers."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def share(self, request: s.ShareRequest) -> s.Share:
        """Begin to share, or find what is shared already."""
        if not 0 < len(request.paths) <= s.PATHS_LIMIT:
            raise LocalMisuse(
                "Nothing was shared",
                cause=f"{len(request.paths)} paths were given, 1 to {s.PATHS_LIMIT} are expected",
                next_step="share the folder that holds them",
                code="bad_paths",
            )
        paths = [decode_path(path) for path in request.paths]
        status = await self._parts.files.share(
            paths,
            watch=request.watch,
            background=request.background,
            accept_removals=request.accept_removals,
        )
        return s.Share(*share_core(status))

    async def share_state(self, request: s.ShareWaitRequest) -> s.ShareDetail:
        """Say how far a share is, after at most `wait_s`."""
        share_id = parse_share_id(request.share_id)
        wait_s = min(max(request.wait_s, 0.0), s.WAIT_LIMIT_S)
        return _share_detail(await self._parts.files.wait_share(share_id, request.done_bytes, wait_s))

    async def shares(self, request: s.Nothing) -> s.Shares:
        """List what is served."""
        await self._parts.files.look_at_files()
        return s.Shares([_share_detail(status) for status in self._parts.files.shares()])

    async def unshare(self, request: s.UnshareRequest) -> s.Unshared:
        """Stop serving one share."""
        await self._parts.files.settle()  # a path that a get has just filled is a share in a moment
        status = await self._parts.files.unshare(self._find_share(request))
        return s.Unshared(format_share_id(status.share_id), status.name, status.own)

    async def get(self, request: s.GetRequest) -> s.TransferDetail:
        """Start a transfer or attach to it."""
        link = Link.parse(request.link)
        if link.network_id != self._parts.network.network_id:
            raise Refused(
                "Nothing was fetched",
                cause="the link is of another network",
                next_step="use it in a home of that network (--home), or ask for a link of this one",
                code="foreign_network",
            )
        wait_s = request.wait_s if request.wait_s is None else max(0.0, request.wait_s)
        status = await self._parts.files.get(
            link,
            decode_path(request.dest),
            overwrite=request.overwrite,
            wait_s=wait_s,
            only=[decode_name(pattern) for pattern in request.only],
            background=request.background,
        )
        return _transfer_detail(status)

    async def transfer(self, request: s.TransferRequest) -> s.TransferDetail:
        """Say how far a transfer is, after at most `wait_s`."""
        wait_s = min(max(request.wait_s, 0.0), s.WAIT_LIMIT_S)
        found = self._get_transfer(request.id)
        return _transfer_detail(await self._parts.files.wait_transfer(found.id, request.revision, wait_s))

    async def transfers(self, request: s.Nothing) -> s.Transfers:
        """List all transfers."""
        return s.Transfers(
            [
                s.Transfer(d.id, d.share_id, d.state, d.bytes, d.done_bytes, d.rate_bytes_s, d.providers)
                for d in map(_transfer_detail, self._parts.files.transfers())
            ]
        )

    async def control_transfer(self, request: s.TransferControlRequest) -> s.TransferDetail:
        """Pause, resume or cancel a transfer."""
        found = self._get_transfer(request.id)
        files = self._parts.files
        change = {"pause": files.pause, "resume": files.resume, "cancel": files.cancel}[request.verb]
        return _transfer_detail(await change(found.id))

    def _find_share(self, request: s.UnshareRequest) -> bytes:
        if request.path is not None:
            path = decode_path(request.path)
            holding = [x for x in self._parts.files.shares() if path in x.paths]
            if not holding:
                raise LocalMisuse(
                    "Nothing was changed",
                    cause=f"{display_path(path)} is not shared by this node",
                    next_step="see what is: shoal shares",
                    code="not_shared",
                )
            # of this path alone rather than of several, and an own one rather than what was fetched to there
            return min(holding, key=lambda x: (len(x.paths) > 1, not x.own)).share_id
        text = (request.share or "").strip()
        if text.lower().startswith("shl"):
            return Link.parse(text).share_id
        served = self._parts.files.shares()
        matches = [
            x.share_id
            for x in served
            if len(text) >= 8 and format_share_id(x.share_id).startswith(text.lower())
        ] or [x.share_id for x in served if text and x.name == text]
        if len(matches) == 1:
            return matches[0]
        if len(text) >= SHARE_ID_CHARACTERS:
            return parse_share_id(text)  # says so if it is damaged
        raise LocalMisuse(
            "Nothing was changed",
            cause=f"{text[:80]!r} names {'several shares' if matches else 'no share'} of this node",
            next_step="see them: shoal shares",
            code="ambiguous_share" if matches else "not_shared",
        )

    def _get_transfer(self, text: str) -> TransferStatus:
        """Find a transfer by its id or the beginning of it. Raises: LocalMisuse."""
        found = [t for t in self._parts.files.transfers() if _transfer_id(t.id).startswith(text.strip())]
        if len(found) == 1 and text.strip():
            return found[0]
        many = f"several transfers have ids that begin with {text[:80]!r}"
        raise LocalMisuse(
            "Nothing was done",
            cause=many if found and text.strip() else f"no transfer has the id {text[:80]!r}",
            next_step="see them: shoal transfers",
            code="unknown_transfer",
        )


def share_core(x: ShareStatus) -> tuple[str, str, bool, str | None, int | None, int | None]:
    """Return the fields of a share that every answer about one begins with."""
    return (
        x.link.to_text(),
        format_share_id(x.share_id),
        x.complete,
        format_content_id(x.content_id) if x.content_id is not None else None,
        x.files if x.complete else None,
        x.bytes if x.complete else None,
    )


def _share_detail(x: ShareStatus) -> s.ShareDetail:
    link, share_id, complete, content_id, files, size = share_core(x)
    return s.ShareDetail(
        link=link,
        share_id=share_id,
        complete=complete,
        content_id=content_id,
        files=files,
        bytes=size,
        name=x.name,
        paths=[display_path(path) for path in x.paths],
        state=x.state,
        version=x.version,
        own=x.own,
        done_bytes=x.done_bytes,
        skipped=[display_path(path) for path, _ in x.skipped],
        error=make_body(x.error) if x.error is not None else None,
        fault=find_fault(x.error) if x.error is not None else None,
        watching=x.watching,
        note=x.note,
        only=[display_path(pattern) for pattern in x.only],
        ignored=x.ignored,
        background=x.background,
        skipped_why=[reason for _, reason in x.skipped] or UNSET,
    )


def _transfer_id(value: bytes) -> str:
    return value.hex()


def _transfer_detail(x: TransferStatus) -> s.TransferDetail:
    result = x.result
    return s.TransferDetail(
        id=_transfer_id(x.id),
        share_id=format_share_id(x.share_id),
        state=x.state.value,
        bytes=x.bytes,
        done_bytes=x.done_bytes,
        rate_bytes_s=x.rate_bytes_s,
        providers=_by_peer(x.providers),
        name=x.name,
        dest=display_path(x.dest),
        revision=x.revision,
        note=x.note,
        error=make_body(x.error) if x.error is not None else None,
        fault=find_fault(x.error) if x.error is not None else None,
        result=None
        if result is None
        else s.GetResult(
            files=result.files,
            bytes=result.bytes,
            seconds=round(result.seconds, 3),
            fetched_bytes=result.fetched_bytes,
            refetched_bytes=result.refetched_bytes,
            reused_bytes=result.reused_bytes,
            resumed=result.resumed,
            skipped=[display_path(path) for path, _ in result.skipped],
            providers=_by_peer(result.providers),
            manifest_bytes=result.manifest_bytes,
            unmatched=[display_path(pattern) for pattern in result.unmatched] or UNSET,
            skipped_why=[reason for _, reason in result.skipped] or UNSET,
        ),
        only=[display_path(pattern) for pattern in x.only],
        background=x.background,
    )


def _by_peer(counts: dict[bytes, int]) -> dict[str, int]:
    return {format_peer_id(peer): count for peer, count in counts.items()}
