"""Session traffic: what sessions cost beside the messages of the substrate, for `idle`.

Heartbeats, judged by the node's own rule; what two ends tell each other when a session opens; rounds of
anti-entropy; headers of frames and records, and the ACKs of TCP. Sizes are those that 24 real nodes had on
their interfaces, docs/overlay "Live". Nobody goes silent here without the network's notice, so heartbeats are
counted and change nothing.
"""

from __future__ import annotations

from typing import Any

from shoal.core.chance import Chance
from shoal.overlay.mesh import EXCHANGE_S
from shoal.sim.kernel import SECOND_US
from shoal.sim.network import IDLE_US, Network
from shoal.transport.config import SessionTiming
from shoal.transport.heartbeat import Beat, Heartbeat

TIMING = SessionTiming()
TICK_US = int(TIMING.tick_s * SECOND_US)
PACKET_BYTES = 66  # Ethernet, IPv4, TCP with time stamps; all of an ACK
RECORD_BYTES = 34  # a frame's header and a TLS record's
# Linux acknowledges what comes after a pause at once, and its answer 40 ms later, so every message has an ACK
MESSAGE_BYTES = RECORD_BYTES + PACKET_BYTES  # beside what sim.cost charges
PING_BYTES = 23 + 28 + 2 * (22 + 2 * PACKET_BYTES)  # ping, pong, their records, packets and ACKs
DIGEST_BYTES = 656 + 22 + 2 * PACKET_BYTES  # of a round in which nothing differs
OPENING_BYTES = 3250  # beside the handshake: hellos, two records, a digest, and in the end goodbyes
STREAM = 2**32 + 1  # of chance


class _End:
    """One end of a session."""

    __slots__ = ("beat", "heard_s", "session")

    def __init__(self, session: list[int], now: float) -> None:
        self.session = session
        self.beat = Heartbeat(TIMING, now)
        self.heard_s = now  # a heartbeat


class SessionTraffic:
    """Bytes of each node, both directions. Expects `tick` every TICK_US while time goes on."""

    def __init__(self, network: Network[Any]) -> None:
        self._network = network
        self._chance = Chance(network.seed, STREAM, 0)
        self._ends: dict[tuple[int, int], _End] = {}  # as many as pairs that ever had a session
        now = network.kernel.now_s
        self._compares_s = [now + EXCHANGE_S * self._chance.fraction() for _ in network.nodes]
        self.bytes = [0] * len(network.nodes)

    def tick(self) -> None:
        """Look at every session once."""
        now = self._network.kernel.now_s
        for node in self._network.nodes:
            open_to = [there for there in node.sessions if self._is_open(node.index, there)]
            for there in open_to:
                self._judge(now, node.index, there)
            if now >= self._compares_s[node.index]:
                self._compares_s[node.index] = now + EXCHANGE_S * self._chance.between(0.75, 1.25)
                if open_to:
                    self._compare(node.index, self._chance.pick(open_to))

    def _is_open(self, here: int, there: int) -> bool:
        network = self._network
        if here not in network.nodes[there].sessions:
            return False
        limit_us = network.kernel.now_us - IDLE_US
        return network.nodes[here].sessions[there][1] >= limit_us or network.is_kept(here, there)

    def _find_end(self, now: float, here: int, there: int) -> _End:
        session = self._network.nodes[here].sessions[there]
        end = self._ends.get((here, there))
        if end is None or end.session is not session:
            self._ends[here, there] = end = _End(session, now)
            self.bytes[here] += OPENING_BYTES
        return end

    def _judge(self, now: float, here: int, there: int) -> None:
        one, other = self._find_end(now, here, there), self._find_end(now, there, here)
        used_s = max(one.session[1], other.session[1]) / SECOND_US
        resting = not self._network.is_kept(here, there) and now - used_s >= TIMING.rest_after_s
        heard_s = max(one.heard_s, min(now, other.session[2] / SECOND_US))
        if one.beat.judge(now, heard_s, False, resting) is not Beat.PING:
            return
        one.beat.on_sent(0, now, None)
        other.beat.on_asked(now)
        one.beat.on_answer(0, now)
        one.heard_s = other.heard_s = now
        self._charge(here, there, PING_BYTES)

    def _compare(self, here: int, there: int) -> None:
        """Send the digest of a round, which is use of a session."""
        for index, peer in ((here, there), (there, here)):
            session = self._network.nodes[index].sessions[peer]
            session[1] = max(session[1], self._network.kernel.now_us)
        self._charge(here, there, DIGEST_BYTES)

    def _charge(self, here: int, there: int, size: int) -> None:
        self.bytes[here] += size
        self.bytes[there] += size
