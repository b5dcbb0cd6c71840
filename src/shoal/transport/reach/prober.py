"""Prober: finds out how this node can be reached, by asking peers what they see and to dial back.

At least WITNESSES_WANTED peers are asked where there are as many; again every PROBE_S, soon after sessions
come up, at once when the addresses of this machine change, and who had no answer after RETRY_S, while too
few had one.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable
from random import Random
from typing import Protocol

from shoal.core.errors import LocalMisuse, MalformedMessage, Refused, RemoteFault, Unavailable
from shoal.core.units import count_of
from shoal.transport.address import Address, may_dial
from shoal.transport.reach.messages import (
    DIAL_BACKS,
    TOKEN_BYTES,
    DialBack,
    DialedBack,
    Observe,
    Observed,
    check,
)
from shoal.transport.reach.punch import PunchPort
from shoal.transport.reach.standing import Standing, StandingBook
from shoal.transport.session import Session
from shoal.wire.registry import ServiceNumber

log = logging.getLogger("shoal.reach")

WITNESSES_WANTED = 3
ASKED = 4  # in one round
COMPARED = 4  # likewise, until two of them have looked at one port from outside
PROBE_S = 600.0  # and a random part of it less
RETRY_S = 15.0
SETTLE_S = 3.0  # after a session came up: others may come with it
ANSWER_TIMEOUT_S = 6.0  # four dials of at most 3 s, at once


class ProberHost(Protocol):
    """What the prober needs of its transport."""

    @property
    def listen_addresses(self) -> list[Address]: ...

    def sessions(self) -> list[Session]: ...


class Prober:
    """Keeps a `Standing`. Expects `run` to be started as a service."""

    def __init__(
        self,
        host: ProberHost,
        *,
        own_addresses: Callable[[], list[str]],
        add_token: Callable[[bytes], bytes],
        is_spent: Callable[[bytes], bool],
        on_changed: Callable[[], None],
        monotonic: Callable[[], float],
        rng: Random,
    ) -> None:
        """`add_token`: who connects to us with the token that it returns is sent the given proof.

        `is_spent`: whether somebody has done so with that token.
        """
        self._host = host
        self._own_addresses = own_addresses
        self._add_token = add_token
        self._is_spent = is_spent
        self._on_changed = on_changed
        self._monotonic = monotonic
        self._random = rng
        self._book = StandingBook()
        self._asked: set[bytes] = set()  # in this round; peers with a session only
        self._look = asyncio.Event()

    def standing(self) -> Standing:
        """Return what is known now."""
        return self._book.judge(self._monotonic(), self._own_hosts())

    def reached_addresses(self) -> list[str]:
        """Return the addresses at which a peer got through lately."""
        return list(self._book.judge(self._monotonic(), ()).addresses)

    def session_changed(self) -> None:
        """A session came up: who is new may know more."""
        if self._book.judge(self._monotonic(), ()).witnesses < WITNESSES_WANTED:
            self._look.set()

    def network_changed(self) -> None:
        """Our addresses changed: what was said no longer counts."""
        self._book.forget()
        self._asked.clear()
        self._look.set()

    async def run(self) -> None:
        """Ask now and then, for ever. Cancelling is safe."""
        again_at = self._begin_round()
        while True:
            left = max(0.0, again_at - self._monotonic())
            try:
                async with asyncio.timeout(min(left, RETRY_S) if self._lacks_answers() else left):
                    await self._look.wait()
            except TimeoutError:
                if self._monotonic() >= again_at:
                    again_at = self._begin_round()
            await asyncio.sleep(SETTLE_S)
            self._look.clear()
            await self.probe()

    async def probe(self) -> Standing:
        """Ask now; return what follows. Takes at most ten seconds."""
        before = self.standing()
        sessions = self._sessions()
        here = {session.peer_id for session in sessions}
        self._asked &= here
        waiting = [session for session in sessions if session.peer_id not in self._asked]
        self._random.shuffle(waiting)
        chosen = waiting[:ASKED]
        self._asked.update(session.peer_id for session in chosen)
        await asyncio.gather(*(self._ask(session) for session in chosen))
        if chosen:
            await self._compare(sessions)
        found = self.standing()
        if found.state != before.state:
            log.info("reachability: %s, by what %s saw", found.state, count_of(found.witnesses, "peer"))
        if found.addresses != before.addresses:
            self._on_changed()
        return found

    def _begin_round(self) -> float:
        """Let everybody be asked again; return when to do so next."""
        self._asked.clear()
        return self._monotonic() + PROBE_S * self._random.uniform(0.75, 1.0)

    def _lacks_answers(self) -> bool:
        """Whether too few have answered, and somebody with a session is not asked yet."""
        if self._book.judge(self._monotonic(), ()).witnesses >= WITNESSES_WANTED:
            return False
        return any(session.peer_id not in self._asked for session in self._sessions())

    def _sessions(self) -> list[Session]:
        """Return the sessions with peers that may know more than this machine."""
        return [s for s in self._host.sessions() if s.relay is None and not s.over_loopback]

    async def _ask(self, session: Session) -> None:
        """Ask one peer what it sees and to dial that, and our own addresses of the same host."""
        try:
            seen = await self._observe(session)
            addresses = self._choose(seen)
            if not addresses:
                return
            async with asyncio.TaskGroup() as group:  # the others end with the first that fails
                asked = {a: group.create_task(self._ask_dial_back(session, a)) for a in addresses}
            results = {address: task.result() for address, task in asked.items()}
            self._book.on_answers(self._monotonic(), session.peer_id, seen, results)
        except* (Unavailable, Refused, RemoteFault, LocalMisuse) as errors:
            log.debug("%s says nothing of our reachability: %r", session.subject, errors.exceptions)
            self._asked.discard(session.peer_id)

    async def _ask_dial_back(self, session: Session, address: str) -> str:
        """Let a peer dial one address: a token is good for one connection, and shows that there was one."""
        proof = secrets.token_bytes(TOKEN_BYTES)
        token = self._add_token(proof)
        ask = DialBack([address], token, proof)
        answer = await session.request(ServiceNumber.REACH, ask, ANSWER_TIMEOUT_S)
        if not isinstance(answer, DialedBack) or len(answer.results) != 1:
            raise MalformedMessage("not the results of a dial back", peer=session.peer_id)
        if answer.results[0] == "ok" and not self._is_spent(token):
            raise MalformedMessage("a dial back that never came is said to have worked", peer=session.peer_id)
        return answer.results[0]

    async def _observe(self, session: Session) -> Address:
        answer = await session.request(ServiceNumber.REACH, Observe(), ANSWER_TIMEOUT_S)
        if not isinstance(answer, Observed):
            raise MalformedMessage("not an observation", peer=session.peer_id)
        check(answer)
        return Address.parse(answer.address)

    def _choose(self, seen: Address) -> list[str]:
        """Return what can be dialled back by who sees us so: that host, with the ports that we listen on."""
        own = [Address.parse(text) for text in self._own_addresses()]
        ports = [a.port for a in own if a.ip is not None and a.ip == seen.ip]
        ports += [a.port for a in self._host.listen_addresses]
        wanted = [Address(seen.host, port) for port in dict.fromkeys(ports)]
        return [str(a) for a in wanted if may_dial(a)][: DIAL_BACKS // 2]

    async def _compare(self, sessions: list[Session]) -> None:
        """Let two peers look at one port: a NAT that shows them two has no mapping to punch through.

        Who sees an address of this very machine is on our side of the NAT, and knows nothing of it.
        """
        dialled = [(s, s.dial_address) for s in sessions if s.dial_address is not None]
        plain = [(s, a) for s, a in dialled if a.ip is not None and a.ip.version == 4]
        by_host = {a.host: (s, a) for s, a in plain}
        if len(by_host) < 2:
            return
        port: PunchPort | None = None
        try:
            port = PunchPort(socket.AF_INET)
            seen: list[Address] = []
            own = self._own_hosts()
            for session, address in list(by_host.values())[:COMPARED]:
                answer = await session.request(ServiceNumber.REACH, Observe(True), ANSWER_TIMEOUT_S)
                if isinstance(answer, Observed):
                    check(answer)
                    found = (await port.reflect(address, answer.token))[0]
                    if found.host not in own:
                        seen.append(found)
                if len(seen) == 2:
                    break
            self._book.on_mapping(seen)
        except (Unavailable, Refused, RemoteFault, LocalMisuse, OSError, TimeoutError, ValueError) as error:
            log.debug("no two peers could look at one port: %s", error)
        finally:
            if port is not None:
                port.close()

    def _own_hosts(self) -> list[str]:
        return [Address.parse(text).host for text in self._own_addresses()]
