"""Relays in a network of views: who cannot be dialled keeps one, and who wants it dials that relay first."""

from __future__ import annotations

import random

import pytest
from tests.integration.test_overlay_service import MemoryStore
from tests.integration.test_overlay_substrate import MESH, Members, Network, Node
from tests.support.lying_relay import LyingRelay
from tests.support.transport_nodes import NETWORK, TransportNode, transport_network, wait_until

from shoal.core.clock import SystemClock
from shoal.core.supervisor import Supervisor
from shoal.overlay.service import OverlayService
from shoal.overlay.substrate import service as substrate
from shoal.transport.reach import self_calls
from shoal.transport.reach import service as reach_service
from shoal.transport.reach.relay_machine import RelayLimits
from shoal.transport.reach.service import ReachService

PAIRS = 5  # tried until one is not reached the other way round
NOWHERE = "127.9.9.9:1"  # what the others are told of who cannot be dialled


class Overlay(OverlayService):
    """One that may tell the others nothing of use."""

    hidden = False

    def own_addresses(self) -> list[str]:
        return [NOWHERE] if self.hidden else super().own_addresses()


class ReachedNode(Node):
    """A node with relays: `relays` splices for others, `hidden` cannot be dialled."""

    def __init__(
        self, transport: TransportNode, supervisor: Supervisor, relays: bool, hidden: bool, lie: str = ""
    ) -> None:
        super().__init__(transport, supervisor)
        inner, seen = transport.transport, transport.seen.append
        rng = random.Random(int.from_bytes(transport.peer_id[:4], "big"))
        self.overlay = Overlay(
            inner,
            Members(transport.view.members),
            MemoryStore(),
            keys=transport.keys,
            network_id=NETWORK,
            name=lambda: "device",
            supervisor=supervisor,
            clock=SystemClock(),
            observe=seen,
            rng=rng,
            mesh_members=MESH,
            relays=relays,
            poll_s=0.2,
        )
        self.overlay.hidden = hidden
        inner._services[self.overlay.number] = self.overlay
        relay = LyingRelay(inner, RelayLimits(), supervisor, inner.monotonic, seen)
        relay.lie = lie
        self.reach = ReachService(
            inner,
            own_id=transport.peer_id,
            relay=relay if relays else None,
            is_member=transport.view.is_active,
            addresses_of=self.overlay.direct_addresses,
            relays_of=self.overlay.relays_of,
            own_addresses=self.overlay.own_addresses,
            on_standing=lambda: None,
            supervisor=supervisor,
            monotonic=inner.monotonic,
            observe=seen,
            rng=rng,
        )
        self.overlay.set_needs_relay(lambda: hidden, self.reach.check_relay)
        inner.register(self.reach)
        inner.attach_reach(self.reach)

    @property
    def via(self) -> tuple[bytes, ...]:
        record = self.overlay._machine.own_record
        return () if record is None else record.via


async def test_hidden_members_are_reached_over_relays_that_they_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fourteen members: two relays, three that cannot be dialled."""
    monkeypatch.setattr(substrate, "SWEEP_S", 0.1)
    async with transport_network() as transports:
        supervisor = transports.supervisor
        network = Network(transports, supervisor)
        kinds = ["relay", "relay", *["plain"] * 9, *["hidden"] * 3]
        try:
            for kind in kinds:
                node = ReachedNode(await transports.add(), supervisor, kind == "relay", kind == "hidden")
                await node.overlay.start()
                for known in network.nodes[:1]:
                    node.overlay.add_contact(known.peer_id, known.overlay.own_addresses())
                network.nodes.append(node)
                for other in network.nodes:
                    other.overlay.members_changed()
            nodes = [node for node in network.nodes if isinstance(node, ReachedNode)]
            relays, plain, hidden = nodes[:2], nodes[2:11], nodes[11:]
            both = {relay.peer_id for relay in relays}
            await wait_until(lambda: all(set(node.via) == both for node in hidden), 40.0)
            assert all(node.via == () for node in plain + relays)
            monkeypatch.setattr(substrate, "IDLE_S", 0.5)
            for node in nodes:  # everybody knows what the hidden say of themselves
                book = node.overlay._machine._book
                await wait_until(
                    lambda b=book: all(set(b.relays_of(h.peer_id)) == both for h in hidden), 30.0
                )

            # somebody who has a session neither with a hidden member nor with its relays
            def find_pair() -> tuple[ReachedNode, ReachedNode] | None:
                pairs = ((one, other) for one in plain for other in hidden)
                return next((p for p in pairs if not p[0].sessions & {p[1].peer_id, *both}), None)

            session = None
            for _ in range(PAIRS):  # the hidden one may dial it first, for a reason of its own
                await wait_until(lambda: find_pair() is not None, 30.0)
                pair = find_pair()
                assert pair is not None
                one, other = pair
                assert one.overlay.find_session(other.peer_id) is None  # this dials
                await wait_until(lambda a=one, b=other: b.peer_id in a.sessions, 20.0)
                session = one.transport.transport.find_session(other.peer_id)
                if session is not None and session.relay is not None:
                    break
            assert session is not None
            assert session.relay in both
            # the relay stays while it carries a session, also when nobody else needs it
            assert session.relay in one.overlay._kept_relays.find_kept()
            # and every relay that a hidden member keeps, long after it was last used
            await wait_until(lambda: all(node.sessions >= both for node in hidden), 10.0)
            monkeypatch.setattr(substrate, "IDLE_S", 0.0)
            relay = max(relays, key=lambda node: len(node.sessions))
            for node in hidden:
                node.overlay._substrate._swept_at = relay.overlay._substrate._swept_at = 0.0
                node.overlay._substrate._sweep()
                relay.overlay._substrate._sweep()
                assert node.sessions >= both
        finally:
            for node in network.nodes:
                node.reach.close()  # type: ignore[attr-defined]
                await node.overlay.close()


@pytest.mark.parametrize("lie", ["mute", "full"])
async def test_hidden_members_leave_a_relay_that_lies_and_are_reached_all_the_while(
    lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve members: one relay that lies, two that do not, two that cannot be dialled."""
    monkeypatch.setattr(reach_service, "ASK_TIMEOUT_S", 3.0)
    monkeypatch.setattr(self_calls, "CALL_S", 4.0)
    async with transport_network() as transports:
        supervisor = transports.supervisor
        network = Network(transports, supervisor)
        kinds = ["relay", "relay", "relay", *["plain"] * 7, *["hidden"] * 2]
        try:
            for place, kind in enumerate(kinds):
                node = ReachedNode(
                    await transports.add(),
                    supervisor,
                    kind == "relay",
                    kind == "hidden",
                    lie if place == 0 else "",
                )
                await node.overlay.start()
                for known in network.nodes[:1]:
                    node.overlay.add_contact(known.peer_id, known.overlay.own_addresses())
                network.nodes.append(node)
                for other in network.nodes:
                    other.overlay.members_changed()
            nodes = [node for node in network.nodes if isinstance(node, ReachedNode)]
            honest, plain, hidden = nodes[1:3], nodes[3:10], nodes[10:]
            good = {relay.peer_id for relay in honest}
            # one is enough: where the other was quicker and dialled over the first, that stays on loopback
            await wait_until(lambda: all(node.via and set(node.via) <= good for node in hidden), 60.0)

            def all_reached() -> bool:  # whoever is not is dialled, again if need be: records take a while
                found = [one.overlay.find_session(other.peer_id) for one in plain for other in hidden]
                return None not in found

            await wait_until(all_reached, 60.0)
        finally:
            for node in network.nodes:
                node.reach.close()  # type: ignore[attr-defined]
                await node.overlay.close()
