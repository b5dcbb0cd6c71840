"""Broadcasts: operations of the membership log on the substrate: judged, taken, and spread from here.

An operation is broadcast as its entry (topic 3), or, where that is longer than a broadcast may be, as its id
(topic 4): who hears of it pulls it from the neighbour that said so, and then says so too.

The rule that all nodes keep: nobody passes on what is not in his log. So what does not belong in the log is
the fault of who sent it, and who sent an entry has all that it follows.
"""

from __future__ import annotations

from typing import Protocol

from shoal.core.errors import LimitExceeded, MalformedMessage
from shoal.identity.entry import Entry, parse_entry
from shoal.identity.log import Added, Duplicate, MissingParents
from shoal.membership.messages import ID_BYTES
from shoal.membership.network import Network
from shoal.membership.sync_events import Heard, HeardOf
from shoal.overlay.substrate.messages import PAYLOAD_BYTES
from shoal.overlay.substrate.plumtree import Verdict
from shoal.overlay.substrate.service import TopicHandler
from shoal.overlay.topics import OPERATION_TOPIC, OPERATION_WORD_TOPIC


class BroadcastPort(Protocol):
    """What membership needs of the overlay; `overlay.port.OverlayPort` has it."""

    def broadcast(self, topic: int, payload: bytes) -> None: ...

    def handle(self, topic: int, handler: TopicHandler) -> None: ...


class Broadcasts:
    """Ties one network's log to the overlay; from then on both topics are judged and taken here."""

    def __init__(self, network: Network, overlay: BroadcastPort) -> None:
        self._network = network
        self._overlay = overlay
        overlay.handle(OPERATION_TOPIC, _Operations(network))
        overlay.handle(OPERATION_WORD_TOPIC, _Words(network))

    def spread(self, entries: tuple[Entry, ...]) -> None:
        """Broadcast entries that are in the log, but for those that others would not take."""
        state = self._network.state
        for entry in entries:
            if not state.is_active(entry.author) and entry.id not in state.removals:
                continue
            if len(entry.data) <= PAYLOAD_BYTES:
                self._overlay.broadcast(OPERATION_TOPIC, entry.data)
            else:
                self._overlay.broadcast(OPERATION_WORD_TOPIC, entry.id)


class _Operations:
    """Entries."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def judge(self, payload: bytes) -> Verdict:
        """Good is what `MembershipLog.add` would take, by a device that is a member still.

        What a removed device wrote unseen by who removed it counts for nothing, but is part of the set: a
        pull brings it, a broadcast does not.
        """
        network = self._network
        try:
            entry = parse_entry(payload)
        except (MalformedMessage, LimitExceeded):
            return Verdict.FORGED
        if entry.author in network.state.members and not network.state.is_active(entry.author):
            return Verdict.STALE  # before its signature is looked at
        match network.log.check(entry):
            case Added():
                return Verdict.GOOD
            case Duplicate():
                return _judge_known(network, entry.id)
            case MissingParents():
                return Verdict.LATER
            case rejected:
                return Verdict.STALE if rejected.code == "full" else Verdict.FORGED

    def find_author(self, payload: bytes) -> bytes | None:
        """None: the log has a place for so many operations of one device."""
        return None

    def deliver(self, payload: bytes, sender: bytes) -> None:
        """Give it to the log."""
        self._network.step(Heard(sender, payload))


class _Words:
    """Ids of entries."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def judge(self, payload: bytes) -> Verdict:
        """Nothing is to be seen of an id: it is passed on when its entry is here."""
        if len(payload) != ID_BYTES:
            return Verdict.FORGED
        return _judge_known(self._network, payload) if payload in self._network.log else Verdict.LATER

    def find_author(self, payload: bytes) -> bytes | None:
        """None: see `_Operations.find_author`."""
        return None

    def deliver(self, payload: bytes, sender: bytes) -> None:
        """Pull it from the sender."""
        self._network.step(HeardOf(sender, payload))


def _judge_known(network: Network, entry_id: bytes) -> Verdict:
    """What is in the log was spread from here when it was added, unless a pull that brought it goes on."""
    return Verdict.GOOD if network.is_untold(entry_id) else Verdict.STALE
