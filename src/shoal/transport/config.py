"""Config: what a transport is given, its times and its limits. Tests make the times short."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shoal.transport.address import Address

if TYPE_CHECKING:
    from shoal.identity.keys import DeviceKeys


@dataclass(frozen=True, slots=True)
class SessionTiming:
    """Times of sessions, in seconds."""

    handshake_s: float = 8.0  # accept to verified hello; security.md section 3
    # the relay has to be there 15 s after a direct path was cut, so a dead peer is noticed within 10 s. What
    # comes for other reasons shows as well that it is there, so only silence is broken by a ping; it has 5 s
    heartbeat_s: float = 3.6
    heads_s: float = 10.0  # between two pings at most: they tell heads of logs, the round trip, and the time
    resting_s: float = 12.0  # heartbeat_s of a session that nobody uses; overlay.md, "every 5-15 s"
    rest_after_s: float = 10.0  # of use that a session which may rest begins to
    silence_s: float = 5.0  # nothing received for this long: probe
    probe_s: float = 4.0  # a probe must be answered within
    tick_s: float = 0.5  # how often sessions are judged
    stall_s: float = 3.0  # our own loop came this much late, or the wall clock jumped: probe all, judge later
    simultaneous_s: float = 8.0  # two sessions younger than this may come from simultaneous dials
    drain_s: float = 30.0  # a replaced session may finish its requests this long
    replace_age_s: float = 24 * 3600.0  # formats.md, Session: pyOpenSSL has no KeyUpdate
    replace_records: int = 2**24  # TLS records in either direction; formats.md
    replace_grace_s: float = 3600.0  # the accepting end waits this much longer for the dialler to replace
    goodbye_s: float = 1.0  # a closing session may take this long to flush its last words


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Budgets before anybody is authenticated; security.md section 3 unless a line says otherwise."""

    pending_handshakes: int = 64
    pending_a_group: int = 32  # of them from one address or /64, so that one cannot take all; wild guess
    evict_after_s: float = 1.0  # a full table drops its oldest without a valid knock; two slow round trips
    connections_s: float = 5.0  # without a valid knock, an address or /64
    connections_burst: float = 20.0  # many members behind one address start at once; wild guess
    knocks_s: float = 20.0  # valid knocks, an address or /64; refunded on authentication
    knocks_burst: float = 40.0  # wild guess
    groups: int = 10_000  # remembered addresses, least recently used forgotten
    handshake_bytes: int = 16 * 1024  # received before the peer is known; our own flights are under 3 KiB
    sent_before_certificate_bytes: int = 4 * 1024
    nonces: int = 65_536  # seen knock nonces; formats.md, Knock
    dials: int = 64  # own dials at once


@dataclass(frozen=True, slots=True)
class TransportConfig:
    """Everything a `Transport` needs to know about its node."""

    keys: DeviceKeys
    network_id: bytes
    listen: Sequence[Address] = (Address("::", 0),)
    timing: SessionTiming = field(default_factory=SessionTiming)
    limits: AdmissionLimits = field(default_factory=AdmissionLimits)
