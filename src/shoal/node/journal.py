"""Journal: writes into the log what a person will want to know later."""

from __future__ import annotations

import logging

from shoal.core.events import EventBus
from shoal.identity.ids import short_peer_id
from shoal.membership.events import (
    Blocked,
    CodeFailed,
    InviteUsed,
    JoinFailed,
    MembershipChanged,
    NoLongerMember,
)

log = logging.getLogger("shoal.journal")


class Journal:
    """Listens to the node's events. One a node."""

    def __init__(self, events: EventBus) -> None:
        self._events = events

    def start(self) -> None:
        """Begin to listen; ends with the bus."""
        self._events.on(MembershipChanged, self._on_members)
        self._events.on(Blocked, lambda e: log.error("no sessions until an upgrade: %s", e.reason))
        self._events.on(
            NoLongerMember, lambda e: log.error("this device is no member any more: %s", e.reason)
        )
        self._events.on(InviteUsed, lambda e: log.info("%r joined, %s", e.name, short_peer_id(e.peer_id)))
        self._events.on(CodeFailed, self._on_code_failed)
        self._events.on(JoinFailed, lambda e: log.warning("somebody with a ticket was refused: %s", e.code))

    def _on_code_failed(self, event: CodeFailed) -> None:
        end = f"{event.left} tries left" if event.left else "the code is burnt"
        log.warning("wrong words for code %d from %s: %s", event.nameplate, event.address, end)

    def _on_members(self, event: MembershipChanged) -> None:
        for word, peers in (("member", event.added), ("no member any more", event.removed)):
            for peer in sorted(peers):
                log.info("%s: %s", short_peer_id(peer), word)
