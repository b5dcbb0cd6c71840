"""Discovery: finds the members of our network on the local network, and lets them find us, showing nothing stable."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shoal.core.clock import Clock
from shoal.core.observation import Observer
from shoal.core.supervisor import Supervisor
from shoal.transport.address import Address


class Discovery:
    """Announces this node by multicast DNS and reports members it hears. spec/discovery.md has the bytes."""

    def __init__(
        self,
        *,
        own_id: bytes,
        port: Callable[[], int],
        door_keys: Callable[[], list[bytes]],
        members: Callable[[], set[bytes]],
        on_found: Callable[[bytes, Address], None],
        supervisor: Supervisor,
        clock: Clock,
        observe: Observer,
        interfaces: Sequence[str] | None = None,
    ) -> None:
        self._own_id = own_id
        self._port = port
        self._door_keys = door_keys
        self._members = members
        self._on_found = on_found
        self._supervisor = supervisor
        self._clock = clock
        self._observe = observe
        self._interfaces = interfaces

    async def start(self) -> None:
        """Begin to announce and to listen; never fails, what does not work is observed and tried again."""

    async def close(self) -> None:
        """Stop, within about a second; idempotent."""
