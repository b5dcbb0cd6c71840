"""Service: makes ways to peers that are no addresses, answers what they need, and drives the upgrade plan.

Implements `ports.ReachPort` (ways for dials and lanes) and answers service REACH. Relaying is in relay.py,
made only where the owner wants it; knowing how this node is reached is in prober.py.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from random import Random
from typing import Protocol

from shoal.core.budget import BoundedMap, TokenBucket
from shoal.core.errors import MalformedMessage, Refused, RemoteFault, ShoalError, Unavailable
from shoal.core.observation import Observation, Observer
from shoal.core.supervisor import Supervisor
from shoal.core.timers import Timers
from shoal.core.undo import undone_on_failure
from shoal.identity.ids import short_peer_id
from shoal.transport.address import PUNCHED, Address, may_dial
from shoal.transport.dialler import open_socket
from shoal.transport.join_channel import JoinChannel
from shoal.transport.ports import BaseService, ServiceBudget
from shoal.transport.reach.guests import NO_GUESTS, GuestPort, Guests
from shoal.transport.reach.messages import (
    CANDIDATES,
    PREAMBLE_BYTES,
    REACH_MAGIC,
    REACH_TABLE,
    TOKEN_BYTES,
    DialBack,
    DialedBack,
    GuestOffer,
    GuestPasses,
    Observe,
    Observed,
    Punch,
    PunchReady,
    RelayAsk,
    RelayGrant,
    RelayOffer,
    RelayTaken,
    check,
    pack_preamble,
    parse_preamble,
)
from shoal.transport.reach.prober import Prober
from shoal.transport.reach.punch import PunchPort, punch
from shoal.transport.reach.punch_guard import PunchGuard
from shoal.transport.reach.relay import Relay
from shoal.transport.reach.self_calls import SelfCalls
from shoal.transport.reach.upgrade_plan import (
    Cancel,
    Effect,
    Ended,
    Input,
    NetworkChanged,
    NotRelayed,
    Relayed,
    SetTimer,
    Timer,
    Try,
    UpgradePlan,
    compute_wait_s,
)
from shoal.transport.session import Session
from shoal.wire.codec import Message
from shoal.wire.limits import MEMBERS
from shoal.wire.registry import ServiceNumber

log = logging.getLogger("shoal.reach")

WAIT_MS = 150  # from PunchReady until both begin; more than half of most round trips over a relay
ASK_TIMEOUT_S = 6.0  # of a relay: its own offer to the peer takes up to 4 s
PUNCH_TIMEOUT_S = 10.0  # looking, agreeing, punching, and the handshake
DIRECT_TIMEOUT_S = 2.5  # of an address while there is a relayed session; nobody waits
DIRECT_TRIED = 4
TOKENS = 256  # given out for one look or one dial back, not used yet
TOKEN_VALID_S = 10.0
PUNCHES_S = 1.0  # asked by one peer: a session and its lanes
PUNCHES_BURST = 12.0
DIAL_BACK_S = 1 / 30  # asked by one peer
DIAL_BACK_BURST = 4.0
DIAL_BACK_TIMEOUT_S = 3.0
OFFERS = 64  # of relays that are being followed at once
OFFERS_A_RELAY = 24  # of one of them: a relay that floods leaves room for the others


class ReachHost(Protocol):
    """What reach needs of its transport."""

    def find_session(self, peer_id: bytes) -> Session | None: ...

    @property
    def listen_addresses(self) -> list[Address]: ...

    def sessions(self) -> list[Session]: ...

    async def replace(self, peer_id: bytes, address: Address, timeout_s: float = 8.0) -> Session: ...

    def take_socket(self, sock: socket.socket, address: Address) -> None: ...


class ReachService(BaseService):
    """One a node. Expects to be registered with the transport and attached to it."""

    number = ServiceNumber.REACH
    table = REACH_TABLE
    budget = ServiceBudget(requests_in_flight=16, messages_per_s=20.0, burst=100.0, message_bytes=2048)
    preamble_first_byte = REACH_MAGIC[0]
    preamble_bytes = PREAMBLE_BYTES

    def __init__(
        self,
        host: ReachHost,
        *,
        own_id: bytes,
        relay: Relay | None,
        is_member: Callable[[bytes], bool],
        addresses_of: Callable[[bytes], list[Address]],
        relays_of: Callable[[bytes], list[bytes]],
        own_addresses: Callable[[], list[str]],
        on_standing: Callable[[], None],
        supervisor: Supervisor,
        monotonic: Callable[[], float],
        observe: Observer,
        rng: Random,
        guests: GuestPort = NO_GUESTS,
    ) -> None:
        """`addresses_of`: what of a peer may be dialled; `relays_of`: over whom it can be reached;
        `on_standing`: how this node can be reached is known better now.
        """
        self.relay = relay
        self._own_id = own_id
        self._self_calls = SelfCalls(observe)
        self._host = host
        self._is_member = is_member
        self._addresses_of = addresses_of
        self._relays_of = relays_of
        self._supervisor = supervisor
        self._monotonic = monotonic
        self._observe = observe
        self._plan = UpgradePlan(own_id, rng)
        self._timers = Timers[bytes](monotonic, lambda peer: self._step(Timer(peer)), MEMBERS)
        self._tokens: BoundedMap[bytes, tuple[float, bytes]] = BoundedMap(TOKENS)  # until when, and the proof
        self._punches: BoundedMap[bytes, TokenBucket] = BoundedMap(MEMBERS)
        self._guard = PunchGuard()
        self._dial_backs: BoundedMap[bytes, TokenBucket] = BoundedMap(MEMBERS)
        self._offers: Counter[bytes] = Counter()  # by relay, that are being followed
        self._closed = False
        self.guests = Guests(
            host,
            guests,
            own_id=own_id,
            relay=relay,
            supervisor=supervisor,
            monotonic=monotonic,
            observe=observe,
        )
        self.prober = Prober(
            host,
            own_addresses=own_addresses,
            add_token=self._add_token,
            is_spent=lambda token: token not in self._tokens,
            on_changed=on_standing,
            monotonic=monotonic,
            rng=rng,
        )

    def start(self) -> None:
        """Find out how this node can be reached, and tell relays of guests, from now on."""
        self._supervisor.start("reachability", self.prober.run)
        self._supervisor.start("guest passes", self.guests.run)

    def close(self) -> None:
        """Stop trying and relaying; idempotent."""
        self._closed = True
        self._timers.close()
        if self.relay is not None:
            self.relay.close()

    def check_relay(self, relay: bytes, on_done: Callable[[bytes, bool], None]) -> None:
        """Call ourselves over a relay; tell whether that came back, if the session lasted so long."""
        session = self._find_direct(relay)
        if session is None:
            return
        ask = partial(self._ask_relay, session, self._own_id)
        connect = partial(self._connect_relay, session, timeout_s=ASK_TIMEOUT_S)
        try:
            self._supervisor.spawn("relay check", self._self_calls.check(session, ask, connect, on_done))
        except Unavailable as error:
            log.debug("the relay %s was not checked: %s", session.subject, error)

    # -- ways (ports.ReachPort) ------------------------------------------------------------------------

    def accept(self, sock: socket.socket, preamble: bytes, address: Address) -> bool:
        """Take a connection that brings a token of ours; the token is spent by it."""
        try:
            token = parse_preamble(preamble)
        except MalformedMessage:
            return False
        if self.relay is not None and self.relay.accept(sock, token):
            return True
        found = self._tokens.pop(token)
        if found is None or found[0] < self._monotonic():
            return False
        answer = found[1] or _pack_text(str(address))
        try:
            self._supervisor.spawn("reach answer", _say(sock, answer), for_peer=True)
        except Unavailable:
            return False
        return True

    def match_guest_knock(self, nonce: bytes, mac: bytes) -> bytes | None:
        """See `ports.ReachPort.match_guest_knock`."""
        return self.guests.match_knock(nonce, mac)

    def take_guest(self, channel: JoinChannel, guest_pass: bytes) -> bool:
        """See `ports.ReachPort.take_guest`."""
        return self.guests.take(channel, guest_pass)

    async def open_socket(
        self, way: Address, peer_id: bytes, timeout_s: float, fall_back: bool
    ) -> socket.socket:
        """See `ports.ReachPort.open_socket`."""
        if way.relay is not None:
            return await self._open_relayed(way.relay, peer_id, timeout_s)
        try:
            return await self._open_punched(peer_id)
        except (Unavailable, Refused, RemoteFault) as error:
            relays = [relay for relay in self._relays_of(peer_id) if self._find_direct(relay) is not None]
            if not fall_back or not relays:
                raise
            self._observe(Observation("not_punched", short_peer_id(peer_id), str(error)))
            return await self._open_relayed(relays[0], peer_id, timeout_s)

    async def _open_relayed(self, relay: bytes, peer_id: bytes, timeout_s: float) -> socket.socket:
        session = self._find_direct(relay)
        if session is None:
            raise Unavailable(
                "The peer cannot be reached over that relay",
                cause=f"there is no session to the relay {short_peer_id(relay)}",
                code="no_relay",
            )
        return await self._connect_relay(session, await self._ask_relay(session, peer_id), timeout_s)

    async def _ask_relay(self, session: Session, peer_id: bytes) -> bytes:
        answer = await session.request(ServiceNumber.REACH, RelayAsk(peer_id), ASK_TIMEOUT_S)
        if not isinstance(answer, RelayGrant):
            raise MalformedMessage("a relay answered something else", peer=session.peer_id)
        check(answer)
        return answer.token

    async def _connect_relay(self, session: Session, token: bytes, timeout_s: float) -> socket.socket:
        """Connect to a relay with a token, where its session goes, or to what its record says."""
        address = session.dial_address
        choices = [address] if address is not None and not address.is_way else []
        if not choices:
            choices = self._addresses_of(session.peer_id)[:2]
        error: ShoalError | None = None
        for choice in choices:
            try:
                sock = await open_socket(choice, min(timeout_s, 4.0))
            except (Unavailable, Refused) as failed:
                error = failed
                continue
            try:
                with undone_on_failure(sock.close):
                    await asyncio.get_running_loop().sock_sendall(sock, pack_preamble(token))
            except OSError as failed:
                error = Unavailable("The relay hung up", cause=str(failed), code="relay_gone")
                continue
            return sock
        raise error or Unavailable("The relay cannot be reached", cause="it has no address", code="no_relay")

    async def _open_punched(self, peer_id: bytes) -> socket.socket:
        session = self._host.find_session(peer_id)
        if session is None:
            raise Unavailable(
                "The peer was not reached directly", cause="there is no session to agree on it", code="no_way"
            )
        ports, own = await self._prepare(peer_id)
        try:
            token = secrets.token_bytes(TOKEN_BYTES)
            answer = await session.request(ServiceNumber.REACH, Punch(own, token, WAIT_MS), ASK_TIMEOUT_S)
            if not isinstance(answer, PunchReady):
                raise MalformedMessage("a punch was answered by something else", peer=peer_id)
            check(answer)
            candidates = self._guard.admit(self._monotonic(), _choose(answer.addresses))
            await asyncio.sleep(compute_wait_s(WAIT_MS, session.rtt_ms))
            sock = await punch(ports, candidates, token, asks=True)
            with suppress(OSError):
                self._guard.on_success(Address.from_socket(sock.getpeername()))
            return sock
        finally:
            for port in ports:
                port.close()

    async def _prepare(self, peer_id: bytes) -> tuple[list[PunchPort], list[str]]:
        """Take a port of each family that others can be asked over, and find out under which addresses they
        see it. Returns at most CANDIDATES of these. Raises: Unavailable.
        """
        families = (socket.AF_INET6, socket.AF_INET)
        tries = await asyncio.gather(*(self._prepare_one(peer_id, family) for family in families))
        ports = [port for port, _, _ in tries if port is not None]
        if not ports:
            failed = next((why for _, _, why in tries if why), "")
            failed = failed or "no peer that both ends can reach could say how this port is seen"
            raise Unavailable("The peer was not reached directly", cause=failed, code="no_reflector")
        return ports, [text for _, texts, _ in tries for text in texts][:CANDIDATES]

    async def _prepare_one(
        self, peer_id: bytes, family: socket.AddressFamily
    ) -> tuple[PunchPort | None, list[str], str]:
        """Return a port, two addresses of it, and without one why there is none."""
        failed = ""
        for relay in self._reflectors(peer_id):
            address = self._find_reflector(relay, family)
            if address is None:
                continue
            try:
                answer = await relay.request(ServiceNumber.REACH, Observe(True), ASK_TIMEOUT_S)
                if not isinstance(answer, Observed):
                    raise MalformedMessage("not an observation", peer=relay.peer_id)
                check(answer)
                port = PunchPort(family)
                with undone_on_failure(port.close):
                    seen, own = await port.reflect(address, answer.token)
                return port, list(dict.fromkeys((str(seen), str(Address(own, port.port))))), ""
            except (ShoalError, OSError, TimeoutError, ValueError) as error:
                failed = str(error) or type(error).__name__
        return None, [], failed

    def _find_reflector(self, relay: Session, family: socket.AddressFamily) -> Address | None:
        """Return where a peer can look at a port of ours: the session's address, or one that is known."""
        version = 4 if family == socket.AF_INET else 6
        used = [relay.dial_address] if relay.dial_address is not None else []
        found = [a for a in (*used, *self._addresses_of(relay.peer_id)) if not a.is_way and a.ip is not None]
        return next((a for a in found if a.ip is not None and a.ip.version == version), None)

    def _reflectors(self, peer_id: bytes) -> list[Session]:
        """Return sessions over which a port can be looked at: relays first, they are known to be outside."""
        mine = self._relays_of(peer_id)
        found = [s for s in self._host.sessions() if s.path == "direct" and s.peer_id != peer_id]
        return sorted(found, key=lambda s: (s.peer_id not in mine, s.peer_id))[:2]

    def _find_direct(self, peer_id: bytes) -> Session | None:
        session = self._host.find_session(peer_id)
        return session if session is not None and session.relay is None else None

    # -- told by transport -----------------------------------------------------------------------------

    def on_session_up(self, session: Session) -> None:
        """A session is up: perhaps one that should become direct."""
        relayed = session.relay is not None
        self._step(Relayed(session.peer_id) if relayed else NotRelayed(session.peer_id))
        if not relayed:
            self.prober.session_changed()
            self.guests.invites_changed()

    def on_session_down(self, session: Session, reason: str) -> None:
        """A session ended; for a replaced one the new one is told of right after."""
        self._step(NotRelayed(session.peer_id))
        self.guests.session_ended(session.peer_id)
        if self.relay is not None and not self._is_member(session.peer_id):
            self.relay.drop(session.peer_id)

    def drop(self, peer_id: bytes) -> None:
        """A device is no member any more: what is relayed for it ends, whether it has a session or not."""
        if self.relay is not None:
            self.relay.drop(peer_id)

    def network_changed(self) -> None:
        """Our addresses changed."""
        self._step(NetworkChanged())
        self.prober.network_changed()

    async def on_request(self, session: Session, message: Message) -> Message:
        """Answer a member. Raises: Refused, Unavailable, MalformedMessage, LimitExceeded."""
        check(message)
        match message:
            case RelayAsk(peer):
                if self.relay is None:
                    raise Refused(
                        "Nothing was relayed", cause="this device does not relay", code="not_a_relay"
                    )
                return await self.relay.grant(session, peer)
            case RelayOffer(peer, token):
                return self._on_offer(session, peer, token)
            case GuestPasses(passes):
                return self.guests.take_passes(session, passes)
            case GuestOffer(_, token):
                self.guests.take_offer(session, message)
                return self._follow_offer(session, token)
            case Observe(reflect):
                seen = "" if session.relay is not None else str(session.address)
                return Observed(seen, self._add_token() if reflect else b"")
            case DialBack(addresses, token, proof):
                return await self._on_dial_back(session, addresses, token, proof)
            case Punch(addresses, token, wait_ms):
                return await self._on_punch(session, addresses, token, wait_ms)
            case _:
                raise MalformedMessage("not a request", cause=type(message).__name__)

    def on_notice(self, session: Session, message: Message) -> None:
        """No message of reach is a notice. Raises: MalformedMessage."""
        raise MalformedMessage("not a notice", cause=type(message).__name__)

    # -- answers ---------------------------------------------------------------------------------------

    def _add_token(self, proof: bytes = b"") -> bytes:
        token = secrets.token_bytes(TOKEN_BYTES)
        self._tokens.put(token, (self._monotonic() + TOKEN_VALID_S, proof))
        return token

    def _on_offer(self, session: Session, peer: bytes, token: bytes) -> RelayTaken:
        if peer == self._own_id:
            if not self._self_calls.take_offer(session.peer_id, token):
                raise Refused("The offer was not taken", cause="we did not call ourselves", code="unasked")
            return RelayTaken()
        if not self._is_member(peer):
            raise Refused("The offer was not taken", cause="that peer is no member", code="stranger")
        return self._follow_offer(session, token)

    def _follow_offer(self, session: Session, token: bytes) -> RelayTaken:
        relay = session.peer_id
        if self._offers[relay] >= OFFERS_A_RELAY or self._offers.total() >= OFFERS:
            raise Unavailable("The offer was not taken", cause="too many at once", retry_after_s=2.0)
        task = self._supervisor.spawn("relay follow", self._follow(session, token), for_peer=True)
        self._offers[relay] += 1  # here: many come before the first task runs
        task.add_done_callback(lambda _: self._on_followed(relay))
        return RelayTaken()

    async def _follow(self, session: Session, token: bytes) -> None:
        try:
            sock = await self._connect_relay(session, token, ASK_TIMEOUT_S)
        except (Unavailable, Refused) as error:
            self._observe(Observation("relay_follow", session.subject, str(error)))
            return
        self._host.take_socket(sock, Address.via(session.peer_id))

    def _on_followed(self, relay: bytes) -> None:
        self._offers -= Counter([relay])  # drops what is 0

    async def _on_dial_back(
        self, session: Session, addresses: list[str], token: bytes, proof: bytes
    ) -> DialedBack:
        """Dial a peer's addresses, only at the IP address that its session comes from."""
        self._take(self._dial_backs, session.peer_id, DIAL_BACK_S, DIAL_BACK_BURST)
        if session.relay is not None:
            raise Refused("Nothing was dialled", cause="the session is relayed", code="relayed")
        tries = [self._dial_back(session, Address.parse(text), token, proof) for text in addresses]
        return DialedBack(list(await asyncio.gather(*tries)))

    async def _dial_back(self, session: Session, address: Address, token: bytes, proof: bytes) -> str:
        is_theirs = address.ip is not None and address.ip == session.address.ip
        if not is_theirs or not may_dial(address, session.over_loopback):
            return "other"
        try:
            async with asyncio.timeout(DIAL_BACK_TIMEOUT_S):
                sock = await open_socket(address, DIAL_BACK_TIMEOUT_S)
                try:
                    loop = asyncio.get_running_loop()
                    await loop.sock_sendall(sock, pack_preamble(token))
                    said = b""
                    while len(said) < len(proof):
                        part = await loop.sock_recv(sock, len(proof) - len(said))
                        if not part:
                            return "wrong"
                        said += part
                    return "ok" if secrets.compare_digest(said, proof) else "wrong"
                finally:
                    sock.close()
        except TimeoutError:
            return "silent"
        except OSError:
            return "wrong"
        except ShoalError as error:
            return "silent" if error.code == "timeout" else "refused"

    async def _on_punch(
        self, session: Session, addresses: list[str], token: bytes, wait_ms: int
    ) -> PunchReady:
        self._take(self._punches, session.peer_id, PUNCHES_S, PUNCHES_BURST)
        candidates = self._guard.admit(self._monotonic(), _choose(addresses))
        ports, own = await self._prepare(session.peer_id)
        try:
            self._supervisor.spawn(
                "punch", self._meet(session, ports, candidates, token, wait_ms), for_peer=True
            )
        except Unavailable:
            for port in ports:
                port.close()
            raise
        return PunchReady(own)

    async def _meet(
        self, session: Session, ports: list[PunchPort], candidates: list[Address], token: bytes, wait_ms: int
    ) -> None:
        try:
            await asyncio.sleep(wait_ms / 1000.0)
            sock = await punch(ports, candidates, token, asks=False)
        except Unavailable as error:
            self._observe(Observation("not_punched", session.subject, str(error)))
            return
        finally:
            for port in ports:
                port.close()
        try:
            address = Address.from_socket(sock.getpeername())
        except OSError:
            sock.close()
            return
        self._guard.on_success(address)
        self._host.take_socket(sock, address)

    def _take(
        self, buckets: BoundedMap[bytes, TokenBucket], peer: bytes, rate_s: float, burst: float
    ) -> None:
        now = self._monotonic()
        bucket = buckets.find(peer)
        if bucket is None:
            bucket = TokenBucket(rate_s, burst, now)
            buckets.put(peer, bucket)
        if not bucket.try_take(now):
            raise Unavailable("Not now", cause="that was asked too often", code="busy", retry_after_s=30.0)

    # -- from relayed to direct ------------------------------------------------------------------------

    def _step(self, event: Input) -> None:
        if self._closed:
            return
        for effect in self._plan.step(self._monotonic(), event):
            self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Try(peer, punch):
                try:
                    self._supervisor.spawn("reach upgrade", self._try(peer, punch))
                except Unavailable:
                    asyncio.get_running_loop().call_soon(self._step, Ended(peer))
            case SetTimer(at, bytes(peer)):
                self._timers.set(at, peer)
            case Cancel(peer):
                self._timers.cancel(peer)

    async def _try(self, peer: bytes, punch: bool) -> None:
        """Dial a peer past its relay, at its addresses and then by punching."""
        ways = [a for a in self._addresses_of(peer) if a.port and not a.is_loopback][:DIRECT_TRIED]
        try:
            for way in (*ways, *([PUNCHED] if punch else [])):
                session = self._host.find_session(peer)
                if session is None or session.relay is None:
                    return
                try:
                    limit_s = PUNCH_TIMEOUT_S if way == PUNCHED else DIRECT_TIMEOUT_S
                    found = await self._host.replace(peer, way, limit_s)
                    log.info("%s is reached without a relay now: %s", short_peer_id(peer), found.path)
                    return
                except (Unavailable, Refused, RemoteFault) as error:
                    log.debug("no way around the relay to %s: %s", short_peer_id(peer), error)
        finally:
            self._step(Ended(peer))


def _choose(addresses: list[str]) -> list[Address]:
    """Return what of a peer's candidates may be connected to. Raises: Refused when nothing is left."""
    found = [Address.parse(text) for text in addresses[:CANDIDATES]]
    kept = [a for a in found if a.ip is not None and may_dial(a)]
    if not kept:
        raise Refused("Nothing was connected", cause="none of the addresses may be dialled", code="address")
    return kept


def _pack_text(text: str) -> bytes:
    data = text.encode("ascii", "replace")[:128]
    return bytes([len(data)]) + data


async def _say(sock: socket.socket, data: bytes) -> None:
    """Send some bytes, and keep the connection until the other end closes it or ten seconds are over."""
    try:
        async with asyncio.timeout(TOKEN_VALID_S):
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, data)
            while await loop.sock_recv(sock, 64):
                pass
    except (OSError, TimeoutError):
        pass
    finally:
        sock.close()
