"""Answers about pins: the operations on kept copies."""

from __future__ import annotations

from shoal.api import pin_schema as p
from shoal.api import schema as s
from shoal.api.faults import find_fault, make_body
from shoal.apps.files.pins import PinStatus, find_pin
from shoal.content.link import Link
from shoal.core.errors import LocalMisuse
from shoal.core.units import format_time
from shoal.identity.ids import format_share_id
from shoal.node.parts import Parts

ID_CHARACTERS = 8  # of a share id, to find a pin by


class PinAnswers:
    """The part of `NodeApi` that is about pins."""

    def __init__(self, parts: Parts) -> None:
        self._pins = parts.pins

    async def pin(self, request: p.PinRequest) -> p.Pin:
        """Begin to keep a copy, or attach to who does so."""
        if request.lease_s is not None and request.lease_s <= 0:
            raise LocalMisuse(
                "Nothing was kept",
                cause="the time to keep it is over at once",
                next_step="say how long with --for, e.g. 30d, or leave --for away",
                code="usage",
            )
        wait_s = request.wait_s if request.wait_s is None else max(0.0, request.wait_s)
        return _pin(await self._pins.pin(Link.parse(request.link), request.lease_s, wait_s))

    async def pin_state(self, request: p.PinWaitRequest) -> p.Pin:
        """Say how far a pin is, after at most `wait_s`."""
        wait_s = min(max(request.wait_s, 0.0), s.WAIT_LIMIT_S)
        return _pin(await self._pins.wait(request.number, request.revision, wait_s))

    async def pins(self, request: s.Nothing) -> p.Pins:
        """List what is kept."""
        return p.Pins([_pin(x) for x in self._pins.pins()])

    async def unpin(self, request: p.UnpinRequest) -> p.Pins:
        """Keep a copy no longer."""
        text = request.pin.strip()
        if text.lower().startswith("shl"):
            share_id = Link.parse(text).share_id
        else:
            share_id = find_pin(
                self._pins.pins(),
                lambda x: (
                    x.name == text
                    or (len(text) >= ID_CHARACTERS and format_share_id(x.share_id).startswith(text.lower()))
                ),
            )
        return p.Pins([_pin(x) for x in await self._pins.unpin(share_id)])


def _pin(x: PinStatus) -> p.Pin:
    return p.Pin(
        number=x.number,
        share_id=format_share_id(x.share_id),
        name=x.name,
        state=x.state,
        version=x.version,
        chunks=x.chunks,
        done=x.done,
        bytes=x.size_bytes,
        done_bytes=x.done_bytes,
        lease=format_time(x.lease) if x.lease is not None else None,
        revision=x.revision,
        note=x.note,
        error=make_body(x.error) if x.error is not None else None,
        fault=find_fault(x.error) if x.error is not None else None,
    )
