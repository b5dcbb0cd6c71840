"""Ports: what file sharing asks of the rest of the node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from shoal.identity.keys import DeviceKeys
from shoal.identity.operations import Role
from shoal.identity.state import MembershipState
from shoal.storage.entries import Entries
from shoal.storage.objects import Objects
from shoal.storage.shares import Shares
from shoal.storage.transfers import Transfers


class FileStores(NamedTuple):
    """The tables that file sharing uses."""

    entries: Entries
    objects: Objects
    shares: Shares
    transfers: Transfers


class FilesNetwork(Protocol):
    """What file sharing needs to know of the network; membership.network.Network is one."""

    network_id: bytes
    keys: DeviceKeys

    @property
    def own_id(self) -> bytes: ...

    @property
    def state(self) -> MembershipState: ...

    @property
    def is_out(self) -> bool:
        """Whether this device was removed or has left."""
        ...

    def role_of(self, peer_id: bytes) -> Role | None:
        """Return the role of an active member, else None."""
        ...

    def content_secret(self, generation: int) -> bytes:
        """Return the default space's content secret. Raises: Unavailable when this device has none."""
        ...

    def content_generation(self) -> int:
        """Return the newest generation of it. Raises: Unavailable."""
        ...


class Located(Protocol):
    """What a search came to."""

    @property
    def hits(self) -> Sequence[bytes]:
        """Peers that announced the key."""
        ...


class FilesOverlay(Protocol):
    """Where share ids are announced and found; overlay.port is one."""

    async def publish(self, key: bytes) -> None:
        """Announce that this node has what `key` stands for, until it is withdrawn."""
        ...

    async def withdraw(self, key: bytes) -> None:
        """End an announcement; idempotent."""
        ...

    def tell_head(self, key: bytes, entries: int) -> None:
        """Announce `key`, and that this device's own feed for which it stands has so many entries."""
        ...

    def listen(self, key: bytes, on_head: Callable[[bytes, int], None] | None, who: str = "") -> None:
        """Call `on_head(peer, entries)` when a member says so of its feed; None ends that."""
        ...

    async def locate(self, key: bytes, budget_s: float) -> Located:
        """Ask the network who announced `key`, for at most `budget_s`. Raises: Unavailable."""
        ...

    def neighbours(self) -> list[bytes]:
        """Peers with a session now."""
        ...
