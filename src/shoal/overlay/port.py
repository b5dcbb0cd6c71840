"""Port: what the layers above see of the overlay, whichever locator stands behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from shoal.overlay.steps import PeerStatus, Result


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

    def own_addresses(self) -> list[str]:
        """Return under what this node can be reached, for tickets."""
        ...

    def add_contact(self, peer_id: bytes, addresses: Sequence[str]) -> None:
        """Learn addresses of a peer from a ticket, a join or LAN discovery; trusted, and dialled soon."""
        ...

    def network_changed(self) -> None:
        """Look at the own addresses, probe sessions and dial absent members now."""
        ...
