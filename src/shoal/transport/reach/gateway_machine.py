"""Gateway machine: one order to a router, by PCP, or by NAT-PMP where it knows no PCP. Pure (core.machine).

A request is sent again after 0.25, 0.5 and 1 s: the router is one hop away. What does not fit the request
(source, opcode, nonce, port) is as if it had not come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shoal.core.errors import MalformedMessage
from shoal.transport.reach.pcp import (
    IpAddress,
    PcpAnswer,
    PmpAddress,
    PmpMapped,
    pack_pcp,
    pack_pmp_address,
    pack_pmp_map,
    parse_pcp,
    parse_pmp_address,
    parse_pmp_map,
)

AGAIN_S = (
    0.25,
    0.5,
    1.0,
)  # RFC 6886, 3.1 begins so; it goes on for a minute, and whoever waits has UPnP left
LEASE_MIN_S = 120.0  # less would only be traffic; RFC 6887 section 15 wants at least that
EPOCH_SLACK_S = 2.0  # RFC 6887 section 8.5

Protocol = Literal["PCP", "NAT-PMP"]


@dataclass(frozen=True, slots=True)
class Order:
    """Open our TCP `port`, or close it. `own` is our address towards the router."""

    port: int
    own: IpAddress
    nonce: bytes  # 12; the same for renewing and closing
    lease_s: int
    wished: int = 0  # outer port; 0: the same as ours
    protocol: Protocol = "PCP"  # to begin with
    close: bool = False


@dataclass(frozen=True, slots=True)
class Begin:
    """First input, once."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A datagram of the router."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Unheard:
    """The router's system says that nobody listens there (ICMP)."""


@dataclass(frozen=True, slots=True)
class Timer:
    """The time that was set is over."""


Input = Begin | Heard | Unheard | Timer


@dataclass(frozen=True, slots=True)
class Say:
    """Send a datagram to the router, and answer with Timer after `wait_s`; a timer that waits is moved."""

    data: bytes
    wait_s: float


@dataclass(frozen=True, slots=True)
class Opened:
    """The router leads `ip` and `port` here, for so long. Last effect."""

    ip: IpAddress
    port: int
    lease_s: float
    epoch: int
    protocol: Protocol


@dataclass(frozen=True, slots=True)
class Closed:
    """The router was told, and agreed. Last effect."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Nothing was opened. `heard`: the router speaks one of the protocols. Last effect."""

    why: str
    heard: bool


Effect = Say | Opened | Closed | Failed


class GatewayMachine:
    """One order from its beginning to its last effect; after that it answers nothing."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._protocol: Protocol = order.protocol
        self._outer: IpAddress | None = None  # NAT-PMP's first answer
        self._sent = 0
        self._ended = False

    def step(self, now: float, event: Input) -> list[Effect]:
        """Take one input, return what the driver must do, in order."""
        if self._ended:
            return []
        match event:
            case Begin():
                return self._say()
            case Timer():
                return self._say() if self._sent <= len(AGAIN_S) - 1 else self._on_silence()
            case Unheard():
                return self._end(Failed("the router speaks neither PCP nor NAT-PMP", False))
            case Heard(data):
                try:
                    return self._on_answer(data)
                except MalformedMessage:
                    return []

    def _on_silence(self) -> list[Effect]:
        if self._protocol == "PCP" and self._order.protocol == "PCP" and not self._order.close:
            return self._fall_back()
        return self._end(Failed("the router answered neither PCP nor NAT-PMP", False))

    def _fall_back(self) -> list[Effect]:
        self._protocol, self._sent = "NAT-PMP", 0
        return self._say()

    def _say(self) -> list[Effect]:
        order = self._order
        wished = order.wished or order.port
        lease_s = 0 if order.close else order.lease_s
        if self._protocol == "PCP":
            data = pack_pcp(order.own, order.nonce, order.port, wished, lease_s)
        elif self._outer is None and not order.close:
            data = pack_pmp_address()
        else:
            data = pack_pmp_map(order.port, 0 if order.close else wished, lease_s)
        wait_s = AGAIN_S[self._sent]
        self._sent += 1
        return [Say(data, wait_s)]

    def _on_answer(self, data: bytes) -> list[Effect]:
        order = self._order
        answer: PcpAnswer | PmpAddress | PmpMapped | None
        if self._protocol == "PCP":
            answer = parse_pcp(data, order.nonce, order.port)
            if answer is None:
                return self._fall_back()
        elif self._outer is None and not order.close:
            answer = parse_pmp_address(data)
        else:
            answer = parse_pmp_map(data, order.port)
        if answer.result:
            return self._end(Failed(f"the router refused: {answer.words}", True))
        if isinstance(answer, PmpAddress):
            self._outer, self._sent = answer.ip, 0
            return self._say()
        if order.close:
            return self._end(Closed())
        ip = answer.ip if isinstance(answer, PcpAnswer) else self._outer
        if ip is None or not answer.port or not answer.lifetime_s:
            return self._end(Failed("the router's answer opens nothing", True))
        lease_s = min(max(float(answer.lifetime_s), LEASE_MIN_S), float(order.lease_s))
        return self._end(Opened(ip, answer.port, lease_s, answer.epoch, self._protocol))

    def _end(self, effect: Effect) -> list[Effect]:
        self._ended = True
        return [effect]


def has_restarted(before: tuple[float, int], now: tuple[float, int]) -> bool:
    """Whether a router lost its mappings between two answers, each (our time, its epoch): RFC 6887, 8.5."""
    passed_s, counted = now[0] - before[0], now[1] - before[1]
    if counted < -1:
        return True
    return (
        counted + EPOCH_SLACK_S < passed_s - passed_s / 16
        or passed_s + EPOCH_SLACK_S < counted - counted / 16
    )
