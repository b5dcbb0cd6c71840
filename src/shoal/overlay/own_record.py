"""Own record: signs what this node says of itself, and knows when that is no longer true."""

from __future__ import annotations

from collections.abc import Callable

from shoal.core.clock import Clock
from shoal.core.errors import MalformedMessage
from shoal.identity.keys import DeviceKeys
from shoal.identity.record import VIA_LIMIT, PeerRecord, parse_record, sign_record


class RecordSigner:
    """Counts the seq. `addresses`, `name` and `find_relays` are asked whenever something may have changed.

    `find_relays` returns the peers over which this node can be reached now; the record names VIA_LIMIT of
    them, those with ids nearest to our own, so that they differ from node to node.
    """

    def __init__(
        self,
        keys: DeviceKeys,
        network_id: bytes,
        clock: Clock,
        *,
        relays: bool,
        addresses: Callable[[], list[str]],
        name: Callable[[], str],
        find_relays: Callable[[], list[bytes]],
    ) -> None:
        """`relays`: this node splices streams for others."""
        self._keys = keys
        self._network_id = network_id
        self._clock = clock
        self._relays = relays
        self._addresses = addresses
        self._name = name
        self._find_relays = find_relays
        self._seq = 0

    def load(self, packed: bytes | None) -> None:
        """Go on counting behind the record of the last run; one of another release counts as none."""
        if packed is not None:
            try:
                self.count_from(parse_record(packed, self._network_id).seq)
            except MalformedMessage:
                pass

    def count_from(self, seq: int) -> None:
        """Sign with higher numbers than this from now on."""
        self._seq = max(self._seq, seq)

    def sign(self) -> PeerRecord:
        """Return a new record of what is true now."""
        self._seq += 1
        time = max(0, int(self._clock.wall()))
        addresses, via = self._addresses(), self._choose_relays()
        return sign_record(
            self._keys, self._network_id, self._seq, addresses, self._name(), time, self._relays, via
        )

    def is_true(self, record: PeerRecord) -> bool:
        """Whether a record of ours says what is true now."""
        said = (record.addresses, record.name, record.relays, record.via)
        return said == (tuple(self._addresses()), self._name(), self._relays, self._choose_relays())

    def _choose_relays(self) -> tuple[bytes, ...]:
        own = int.from_bytes(self._keys.peer_id, "big")
        near = sorted((int.from_bytes(relay, "big") ^ own, relay) for relay in self._find_relays())
        return tuple(relay for _, relay in near[:VIA_LIMIT])
