"""Lanes for tests: two connected ends without a session, on loopback TCP."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from shoal.transport.lane import PROGRESS_WINDOW_S, Lane
from shoal.transport.lane_record import (
    LANE_ID_BYTES,
    SECRET_BYTES,
    LaneRole,
    RecordOpener,
    RecordSealer,
    RecordType,
    derive_lane_key,
)


@dataclass(frozen=True)
class LaneKeys:
    """Everything two ends derive their keys from; fixed values, so that records are reproducible."""

    secret: bytes = b"\x01" * SECRET_BYTES
    lane_id: bytes = b"\x02" * LANE_ID_BYTES
    opener: bytes = b"\x03" * 32
    acceptor: bytes = b"\x04" * 32

    def key(self, sender: LaneRole) -> bytes:
        """Return the key of the direction that `sender` sends."""
        return derive_lane_key(self.secret, self.lane_id, self.opener, self.acceptor, sender)

    def sealer(self, sender: LaneRole) -> RecordSealer:
        """Return a sealer whose OPEN is already sent."""
        sealer = RecordSealer(self.key(sender))
        sealer.seal(RecordType.OPEN)
        return sealer

    def verifier(self, sender: LaneRole) -> RecordOpener:
        """Return an opener that has already seen OPEN."""
        opener = RecordOpener(self.key(sender))
        opener.open(RecordSealer(self.key(sender)).seal(RecordType.OPEN))
        return opener

    def lane(self, sock: socket.socket, role: LaneRole, window_s: float = PROGRESS_WINDOW_S) -> Lane:
        """Return one end over a connected socket."""
        other = LaneRole(1 - role)
        return Lane(
            sock,
            lane_id=self.lane_id,
            session_peer=self.acceptor if role is LaneRole.OPENER else self.opener,
            sealer=self.sealer(role),
            opener=self.verifier(other),
            sends=role is LaneRole.OPENER,
            window_s=window_s,
        )


def make_tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Return two ends of one loopback TCP connection: who dialled first."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dialled = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    return dialled, accepted


def make_lane_pair(window_s: float = PROGRESS_WINDOW_S) -> tuple[Lane, Lane]:
    """Return opener's and acceptor's end of one lane; the opener is the sender."""
    dialled, accepted = make_tcp_pair()
    keys = LaneKeys()
    return (
        keys.lane(dialled, LaneRole.OPENER, window_s),
        keys.lane(accepted, LaneRole.ACCEPTOR, window_s),
    )
