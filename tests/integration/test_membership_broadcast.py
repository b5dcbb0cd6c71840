"""Operations as broadcasts over real sessions: spread, missed, forged, refused, too long."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.links import send_broadcast
from tests.support.membership_nodes import MembershipNode, Village, open_village
from tests.support.transport_nodes import wait_until

from shoal.core.errors import ShoalError
from shoal.identity.entry import Entry
from shoal.identity.operations import Commitment, Epoch, Operation, Remove, Role
from shoal.membership.sync_events import Heard
from shoal.overlay.substrate.messages import PAYLOAD_BYTES
from shoal.overlay.topics import OPERATION_TOPIC, OPERATION_WORD_TOPIC
from shoal.wire.codec import Message


@pytest.fixture
async def village(tmp_path: Path) -> AsyncIterator[Village]:
    async with open_village(tmp_path) as opened:
        yield opened


async def line(village: Village) -> tuple[MembershipNode, MembershipNode, MembershipNode]:
    """Start three owners of whom the first and the last have no session with each other."""
    first = await village.founder()
    middle = await village.member(first, Role.OWNER)
    last = await village.member(middle, Role.OWNER)
    await wait_until(lambda: same_head(first, middle, last))
    assert not first.has_session(last)
    return first, middle, last


def same_head(*nodes: MembershipNode) -> bool:
    return len({node.network.head() for node in nodes}) == 1


def make_entry(node: MembershipNode, operation: Operation) -> Entry:
    """Sign an operation that the node itself does not take into its log."""
    return node.network.log.make_entry(node.home.keys, operation, 0)


def count_heard(node: MembershipNode) -> list[bytes]:
    """Return a list to which every entry is added that is delivered here."""
    heard: list[bytes] = []
    step = node.network.step

    def listen(event: object) -> object:
        if isinstance(event, Heard):
            heard.append(event.entry)
        return step(event)  # type: ignore[arg-type]

    node.network.step = listen  # type: ignore[method-assign, assignment]
    return heard


async def test_an_operation_reaches_who_has_no_session_with_its_author_once(village: Village) -> None:
    first, middle, last = await line(village)
    heard = count_heard(middle), count_heard(last)
    entry = await first.network.author(Epoch(1, ()))
    await wait_until(lambda: entry.id in last.network.log)
    for session in middle.transport.sessions():  # everybody sends it to everybody once more
        send_broadcast(session, OPERATION_TOPIC, entry.data)
        await session.ping()
    assert heard == ([entry.data], [entry.data])
    assert not any("forged_broadcast" in node.rules for node in (first, middle, last))


async def test_a_broadcast_that_was_missed_comes_with_the_next_heartbeat(village: Village) -> None:
    first, middle, last = await line(village)
    take = middle.links.on_notice

    def lose(session: object, message: Message) -> None:
        pass

    middle.links.on_notice = lose  # type: ignore[method-assign, assignment]
    entry = await first.network.author(Epoch(1, ()))
    await wait_until(lambda: entry.id in middle.network.log, 20.0)  # its head differs: it pulls
    middle.links.on_notice = take  # type: ignore[method-assign]
    await wait_until(lambda: entry.id in last.network.log, 20.0)


async def test_an_operation_too_long_for_a_broadcast_is_pulled_hop_by_hop(village: Village) -> None:
    first, _, last = await line(village)
    commitments = tuple(Commitment(2, os.urandom(32), n, bytes(32)) for n in range(250))
    entry = await first.network.author(Epoch(1, commitments))
    assert len(entry.data) > PAYLOAD_BYTES
    await wait_until(lambda: entry.id in last.network.log)


async def test_an_entry_without_what_it_follows_is_pulled_from_who_sent_it(village: Village) -> None:
    _, middle, last = await line(village)
    middle.links.substrate.broadcast = lambda topic, payload: None  # type: ignore[method-assign]
    before = await middle.network.author(Epoch(1, ()))
    assert before.id not in last.network.log
    entry = await middle.network.author(Epoch(2, ()))
    session = middle.transport.find_session(last.peer_id)
    assert session is not None
    send_broadcast(session, OPERATION_TOPIC, entry.data)
    await wait_until(lambda: entry.id in last.network.log)
    assert before.id in last.network.log
    assert not session.closed


async def test_forged_operations_are_not_taken_not_passed_on_and_end_the_session(village: Village) -> None:
    first, middle, last = await line(village)
    heard = count_heard(middle), count_heard(last)
    session = first.transport.find_session(middle.peer_id)
    assert session is not None
    member = await village.member(middle, Role.MEMBER)
    await wait_until(lambda: same_head(first, middle, last, member))
    head = middle.network.head()
    heard[0].clear()
    heard[1].clear()
    true = make_entry(first, Epoch(1, ())).data
    payloads = [true[:-1] + bytes([true[-1] ^ 1]), true[:100], b"", bytes(PAYLOAD_BYTES), true + b"x"]
    for payload in [*payloads, *payloads]:
        send_broadcast(session, OPERATION_TOPIC, payload)
    send_broadcast(session, OPERATION_WORD_TOPIC, b"short")
    await wait_until(lambda: session.closed)
    assert "forged_broadcast" in middle.rules
    assert heard == ([], [])
    assert middle.network.head() == last.network.head() == head


async def test_what_its_author_may_not_write_costs_who_sends_it(village: Village) -> None:
    first, middle, last = await line(village)
    member = await village.member(middle, Role.MEMBER)
    session = member.transport.find_session(middle.peer_id)
    assert session is not None
    log = member.network.log
    judge = log._judge
    log._judge = lambda *_: Role.OWNER  # type: ignore[method-assign, assignment]
    entry = make_entry(member, Remove(first.peer_id))
    log._judge = judge  # type: ignore[method-assign]
    for _ in range(8):
        send_broadcast(session, OPERATION_TOPIC, entry.data)
    await wait_until(lambda: session.closed)
    assert entry.id not in middle.network.log
    assert middle.network.is_active(first.peer_id)
    assert not last.has_session(member)


async def test_a_removed_member_s_operation_is_refused_whoever_passes_it_on(village: Village) -> None:
    first, middle, last = await line(village)
    gone = await village.member(middle, Role.ADMIN)
    await wait_until(lambda: same_head(first, middle, last, gone))
    late = make_entry(gone, Epoch(9, ()))
    await first.network.remove(gone.peer_id)
    await wait_until(lambda: not last.network.is_active(gone.peer_id))
    heard = count_heard(last)
    session = middle.transport.find_session(last.peer_id)
    assert session is not None
    for _ in range(8):
        send_broadcast(session, OPERATION_TOPIC, late.data)
    await session.ping()
    assert heard == []
    assert late.id not in last.network.log
    assert not session.closed  # it may have heard of the removal later than we
    with pytest.raises(ShoalError):
        await gone.dial(last)


async def test_a_last_word_is_an_entry_like_any_other(village: Village) -> None:
    first, middle, _ = await line(village)
    await first.network.remove(middle.peer_id)
    await wait_until(lambda: middle.network.is_out)
    assert middle.network.state.removals
