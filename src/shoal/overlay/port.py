"""Port: what the layers above see of the overlay, whichever locator stands behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from shoal.overlay.steps import PeerStatus, Result
from shoal.overlay.substrate.service import SubstrateStatus, TopicHandler
from shoal.transport.session import Session


class OverlayPort(Protocol):
    """Who is here and who has what. All calls are made on the loop thread."""

    async def publish(self, key: bytes) -> None:
        """Say that this node provides a key (32 bytes) until `withdraw`, to all who are or get connected.

        Raises: LocalMisuse beyond the number of keys that a node may announce.
        """
        ...

    async def withdraw(self, key: bytes) -> None:
        """Say that this node no longer provides a key."""
        ...

    def tell_head(self, key: bytes, entries: int) -> None:
        """Say that a feed of this device's own, for which a key stands, has so many entries; publishes it."""
        ...

    def listen(self, key: bytes, on_head: Callable[[bytes, int], None] | None, who: str = "") -> None:
        """Call `on_head(peer, entries)` when a member says how long its feed is for which a key stands.

        None ends that; `who` tells listeners of one key apart.
        """
        ...

    async def locate(self, key: bytes, budget_s: float) -> Result:
        """Find who provides a key, this node excepted. Cancelling is safe.

        Returns at the first providers found, when everybody has answered, or when the budget is spent.
        """
        ...

    def neighbours(self) -> list[bytes]:
        """Return the peers with a session now."""
        ...

    def peers_status(self) -> list[PeerStatus]:
        """Return every other active member, in the order of ids."""
        ...

    def find_session(self, peer_id: bytes) -> Session | None:
        """Return the session with a peer; without one, in a large network, it is dialled."""
        ...

    def broadcast(self, topic: int, payload: bytes) -> None:
        """Send a payload to all members, perhaps late. Raises: LocalMisuse beyond 16,320 bytes.

        The payload has to be signed by whom it is about: every node judges it before it passes it on.
        """
        ...

    def handle(self, topic: int, handler: TopicHandler) -> None:
        """Let `handler` judge and take the broadcasts of a topic. Own ones are not delivered here."""
        ...

    def substrate_status(self) -> SubstrateStatus:
        """Return how this node keeps the network together: mode, neighbours, size."""
        ...

    def own_addresses(self) -> list[str]:
        """Return under what this node can be reached, for tickets."""
        ...

    def add_contact(self, peer_id: bytes, addresses: Sequence[str]) -> None:
        """Learn addresses of a peer from a ticket, a join or LAN discovery; trusted, and dialled soon."""
        ...

    def network_changed(self) -> None:
        """Look at the own addresses, probe sessions and dial absent members now."""
        ...
