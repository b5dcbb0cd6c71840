"""Prober: who could not answer is asked again soon."""

from __future__ import annotations

import asyncio
import time
from random import Random
from typing import Any

import pytest

from shoal.core.errors import Unavailable
from shoal.transport.address import Address
from shoal.transport.reach import prober as module
from shoal.transport.reach.messages import DialBack, DialedBack, Observe, Observed
from shoal.transport.reach.prober import Prober

SEEN = "203.0.113.7:7411"


class Witness:
    """A session whose peer is busy at first."""

    relay = None
    over_loopback = False
    dial_address: Address | None = None

    def __init__(self, number: int, busy: int, mute: int = 0) -> None:
        self.peer_id = bytes([number]) * 32
        self.subject = f"peer {number}"
        self.busy = busy
        self.mute = mute  # so many dials back have no answer

    async def request(self, service: int, message: object, timeout_s: float) -> object:
        if self.busy:
            self.busy -= 1
            raise Unavailable("no answer", code="timeout")
        if isinstance(message, Observe):
            return Observed(SEEN, b"")
        assert isinstance(message, DialBack)
        if self.mute:
            self.mute -= 1
            raise Unavailable("no answer", code="timeout")
        return DialedBack(["timeout"])


class Host:
    """A transport with three sessions."""

    listen_addresses = [Address.parse("0.0.0.0:7411")]  # noqa: RUF012

    def __init__(self) -> None:
        self.witnesses = [Witness(1, 0), Witness(2, 1), Witness(3, 1, mute=1)]

    def sessions(self) -> list[Any]:
        return self.witnesses


async def test_who_had_no_answer_is_asked_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.05)
    monkeypatch.setattr(module, "SETTLE_S", 0.0)
    prober = Prober(
        Host(),
        own_addresses=list,
        add_token=lambda proof: bytes(16),
        is_spent=lambda token: True,
        on_changed=lambda: None,
        monotonic=time.monotonic,
        rng=Random(1),
    )
    running = asyncio.create_task(prober.run())
    prober.session_changed()
    async with asyncio.timeout(20):
        while prober.standing().witnesses < 3:
            await asyncio.sleep(0.02)
    running.cancel()
    assert prober.standing().state == "nat"


class Port:
    """A punch port whose NAT shows each peer outside another port; who is inside sees this machine."""

    def __init__(self, family: int) -> None:
        pass

    async def reflect(self, address: Address, token: bytes) -> tuple[Address, None]:
        if address.host.startswith("192.168."):
            return Address("192.168.1.2", 40000), None
        return Address("203.0.113.7", 50000 + address.port), None

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("dialled", "state"),
    [
        (["192.168.1.3:1", "198.51.100.1:1"], "nat"),  # only one of them is outside
        (["192.168.1.3:1", "198.51.100.1:1", "198.51.100.2:1"], "nat"),
        (["192.168.1.3:1", "198.51.100.1:1", "198.51.100.2:2"], "symmetric"),
    ],
)
async def test_who_is_on_our_side_of_the_nat_says_nothing_of_its_ports(
    monkeypatch: pytest.MonkeyPatch, dialled: list[str], state: str
) -> None:
    monkeypatch.setattr(module, "PunchPort", Port)
    host = Host()
    host.witnesses = [Witness(n, 0) for n in range(len(dialled))]
    for witness, text in zip(host.witnesses, dialled, strict=True):
        witness.dial_address = Address.parse(text)
    prober = Prober(
        host,
        own_addresses=lambda: ["192.168.1.2:7411"],
        add_token=lambda proof: proof,
        is_spent=lambda token: True,
        on_changed=lambda: None,
        monotonic=time.monotonic,
        rng=Random(1),
    )
    assert (await prober.probe()).state == state


async def test_who_says_that_it_got_through_and_never_came_is_not_believed() -> None:
    """A token that nobody spent shows it."""

    class Liar(Witness):
        async def request(self, service: int, message: object, timeout_s: float) -> object:
            return DialedBack(["ok"]) if isinstance(message, DialBack) else Observed(SEEN, b"")

    host = Host()
    host.witnesses = [Liar(1, 0), Witness(2, 0)]
    prober = Prober(
        host,
        own_addresses=list,
        add_token=lambda proof: proof,
        is_spent=lambda token: False,
        on_changed=lambda: None,
        monotonic=time.monotonic,
        rng=Random(1),
    )
    found = await prober.probe()
    assert (found.state, found.witnesses, found.reached_by) == ("nat", 1, 0)
    assert prober.reached_addresses() == []
