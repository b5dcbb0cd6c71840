"""Removal, leaving, synchronisation and restarts over loopback."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.links import send_broadcast
from tests.support.membership_nodes import Home, MembershipNode, Village, open_village
from tests.support.transport_nodes import wait_until

from shoal.core.errors import LocalMisuse, Refused, ShoalError, StorageFault, Unavailable
from shoal.identity.entry import Domain, EntryFlags, sign_entry
from shoal.identity.operations import Remove, Role, _Payload
from shoal.identity.secrets import DEFAULT_SPACE, SecretKind
from shoal.identity.ticket import Ticket
from shoal.membership.events import Blocked, MembershipChanged, NoLongerMember, SecretsReceived
from shoal.membership.messages import VECTOR_PAGE_ROWS, VECTOR_ROWS, LastWord, VectorPage
from shoal.overlay.topics import OPERATION_TOPIC
from shoal.storage.secrets_store import SecretRow
from shoal.wire.codec import encode
from shoal.wire.registry import ServiceNumber

MEMBERSHIP = ServiceNumber.MEMBERSHIP


@pytest.fixture
async def village(tmp_path: Path) -> AsyncIterator[Village]:
    async with open_village(tmp_path) as opened:
        yield opened


async def three(village: Village) -> tuple[MembershipNode, MembershipNode, MembershipNode]:
    """Start an owner and two members, all connected with each other."""
    owner = await village.founder()
    left = await village.member(owner)
    right = await village.member(owner)
    await right.dial(left)
    return owner, left, right


def same_head(*nodes: MembershipNode) -> bool:
    return len({node.network.head() for node in nodes}) == 1


# --- removal ------------------------------------------------------------------------------------------------


async def test_a_removal_ends_every_session_and_is_confirmed(village: Village) -> None:
    owner, left, right = await three(village)
    session = left.transport.find_session(right.peer_id)
    assert session is not None
    ended: list[bytes] = []
    assert left.network.enforcer is not None
    left.network.enforcer.on_ended(ended.append)
    status = await owner.network.remove(right.peer_id, "lost")
    assert status.confirmed == [left.peer_id]
    assert status.pending == []
    assert session.closed
    assert ended == [right.peer_id]
    for node in (owner, left):
        assert not node.has_session(right)
        assert not node.network.is_active(right.peer_id)
        assert any(isinstance(e, MembershipChanged) and right.peer_id in e.removed for e in node.events)


async def test_a_removed_device_that_does_not_obey_loses_its_sessions_all_the_same(
    village: Village, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, left, right = await three(village)
    monkeypatch.setattr(right.network.enforcer, "end_all", lambda reason: None)
    sessions = [node.transport.find_session(right.peer_id) for node in (owner, left)]
    await owner.network.remove(right.peer_id, "lost")
    for session in sessions:
        assert session is not None
        assert (session.closed, session.close_reason, session.closed_by) == (True, "removed", "us")


async def test_lanes_of_a_removed_device_end_in_the_middle_of_a_transfer(village: Village) -> None:
    owner, left, right = await three(village)
    session = left.transport.find_session(right.peer_id)
    assert session is not None
    lane = await session.open_lane(ServiceNumber.SWARM, b"", send=True)
    await wait_until(lambda: right.lane_service.lanes != [])
    theirs = right.lane_service.lanes[0]

    def send_for_ever() -> None:
        while True:
            lane.send_record(bytes(65536))

    def receive_for_ever() -> None:
        while theirs.receive() is not None:
            pass

    sending = asyncio.ensure_future(asyncio.to_thread(send_for_ever))
    receiving = asyncio.ensure_future(asyncio.to_thread(receive_for_ever))
    await wait_until(lambda: theirs.received_bytes > 2**20)
    started = asyncio.get_running_loop().time()
    status = await owner.network.remove(right.peer_id)
    assert status.confirmed == [left.peer_id]
    for job in (sending, receiving):
        with pytest.raises(ShoalError):
            await asyncio.wait_for(job, 2)
    assert asyncio.get_running_loop().time() - started < 2  # security.md section 2
    assert lane.is_closed


async def test_a_request_in_flight_of_a_removed_device_ends(village: Village) -> None:
    owner, left, right = await three(village)
    session = left.transport.find_session(right.peer_id)
    assert session is not None
    await asyncio.gather(
        owner.network.remove(right.peer_id),
        *[expect_end(session.request(MEMBERSHIP, VectorPage([], True, False))) for _ in range(4)],
    )


async def expect_end(request: object) -> None:
    """Await a request that may still be answered or must end by an error of ours."""
    try:
        await request  # type: ignore[misc]
    except ShoalError:
        pass


async def test_a_removed_device_is_refused_and_knows_it(village: Village) -> None:
    owner = await village.founder()
    left = await village.member(owner)
    right = await village.member(owner, Role.ADMIN)
    await right.dial(left)
    await right.ticket()
    await owner.network.remove(right.peer_id)
    await wait_until(lambda: right.network.is_out)
    assert [e.reason for e in right.events if isinstance(e, NoLongerMember)] == ["removed"]
    assert right.transport.sessions() == []
    assert not right.network.open_invites()
    await wait_until(lambda: right.network.invites.all()[0].state == "revoked")
    with pytest.raises(ShoalError):
        await right.transport.dial(left.peer_id, left.address)
    with pytest.raises(Refused):
        await left.transport.dial(right.peer_id, right.address)
    with pytest.raises(Refused):
        await right.network.author(Remove(left.peer_id))


async def test_a_removed_device_that_was_not_told_is_refused_by_its_key(village: Village) -> None:
    owner, left, right = await three(village)
    for node in (owner, left):
        node.transport.close_peer(right.peer_id, "closed")
    await owner.network.remove(right.peer_id)
    await wait_until(lambda: not left.network.is_active(right.peer_id))
    assert right.network.is_active(left.peer_id)
    with pytest.raises(ShoalError):
        await right.transport.dial(left.peer_id, left.address)
    assert not left.has_session(right)


async def test_a_removed_device_cannot_join_again(village: Village) -> None:
    owner = await village.founder()
    gone = await village.member(owner)
    await owner.network.remove(gone.peer_id)
    ticket = await owner.ticket()
    again = await village.stranger(ticket, gone.home.keys)
    with pytest.raises(Refused) as refused:
        await again.join(ticket)
    assert refused.value.code == "removed"
    assert owner.network.invites.all()[0].used_by is None


async def test_a_removal_reaches_a_peer_that_was_away(village: Village) -> None:
    owner, left, right = await three(village)
    home = await village.stop(left)
    await wait_until(lambda: not owner.has_session(left))
    status = await owner.network.remove(right.peer_id)
    assert (status.confirmed, status.pending) == ([], [left.peer_id])
    left = await village.start(home)
    assert left.network.is_active(right.peer_id)
    await left.dial(owner)
    await wait_until(lambda: not left.network.is_active(right.peer_id))
    await wait_until(lambda: left.peer_id in owner.network.confirmations.confirmed(status.operation))


async def test_a_removal_written_while_apart_meets_a_join_written_meanwhile(village: Village) -> None:
    owner = await village.founder()
    admin = await village.member(owner, Role.ADMIN)
    owner.transport.close_peer(admin.peer_id, "closed")
    await wait_until(lambda: not admin.has_session(owner))
    newcomer = await village.member(admin)
    await owner.network.remove(admin.peer_id)
    assert not owner.network.is_active(newcomer.peer_id)
    with pytest.raises(ShoalError):
        await newcomer.dial(owner)
    assert not owner.network.is_active(newcomer.peer_id)


async def test_what_is_nonsense_is_not_removed(village: Village) -> None:
    owner, left, right = await three(village)
    with pytest.raises(LocalMisuse):
        await owner.network.remove(owner.peer_id)
    with pytest.raises(LocalMisuse):
        await owner.network.remove(b"\1" * 32)
    with pytest.raises(Refused):
        await left.network.remove(right.peer_id)
    assert owner.network.is_active(right.peer_id)
    await owner.network.remove(right.peer_id)
    with pytest.raises(Refused) as refused:
        await owner.network.remove(right.peer_id)
    assert refused.value.code == "already_removed"


async def test_a_device_leaves_and_everybody_knows(village: Village) -> None:
    owner, left, right = await three(village)
    await right.network.leave()
    await wait_until(lambda: not left.network.is_active(right.peer_id))
    await wait_until(lambda: not owner.network.is_active(right.peer_id))
    assert left.network.reason_of(right.peer_id) == "left"
    assert right.network.is_out
    assert [e.reason for e in right.events if isinstance(e, NoLongerMember)] == ["left"]
    assert right.transport.sessions() == []


async def test_who_is_needed_or_alone_does_not_leave(village: Village) -> None:
    owner, left, _ = await three(village)
    with pytest.raises(Refused) as refused:
        await owner.network.leave()
    assert refused.value.code == "last_owner"
    left.transport.close_all("closed")
    await wait_until(lambda: left.transport.sessions() == [])
    with pytest.raises(Unavailable):
        await left.network.leave()
    assert not left.network.is_out


# --- unknown operations -------------------------------------------------------------------------------------


def unknown(node: MembershipNode, flags: EntryFlags) -> bytes:
    """Return an entry with an operation of a later release, signed by a node's device."""
    log = node.network.log
    last = log.vector.get(node.peer_id)
    seq, prev = (last[0] + 1, last[1]) if last else (0, bytes(32))
    payload = encode(_Payload(log.tips, 99, b""))
    keys = node.home.keys
    return sign_entry(
        keys, Domain.MEMBERSHIP, log.network_id, log.network_id, seq, prev, 0, flags, payload
    ).data


async def test_an_unknown_critical_operation_stops_a_node(village: Village) -> None:
    owner, left, right = await three(village)
    entry = unknown(owner, EntryFlags.CRITICAL)
    session = owner.transport.find_session(left.peer_id)
    assert session is not None
    send_broadcast(session, OPERATION_TOPIC, entry)
    await wait_until(lambda: left.network.is_blocked)
    assert left.transport.sessions() == []
    assert any(isinstance(event, Blocked) for event in left.events)
    assert not left.network.is_active(owner.peer_id)
    with pytest.raises(ShoalError):
        await left.transport.dial(right.peer_id, right.address)
    with pytest.raises(ShoalError):
        await owner.transport.dial(left.peer_id, left.address)
    with pytest.raises(Refused, match="not"):
        await left.network.author(Remove(right.peer_id))
    left = await village.start(await village.stop(left))
    assert left.network.is_blocked


async def test_unknown_operations_that_do_not_bind_stop_nobody(village: Village) -> None:
    owner, left, right = await three(village)
    for author, flags in ((owner, EntryFlags.NONE), (right, EntryFlags.CRITICAL)):
        entry = unknown(author, flags)
        session = author.transport.find_session(left.peer_id)
        assert session is not None
        before = len(left.network.log)
        send_broadcast(session, OPERATION_TOPIC, entry)
        await wait_until(lambda before=before: len(left.network.log) > before)  # type: ignore[misc]
        await wait_until(lambda: same_head(owner, left, right))
    assert not left.network.is_blocked
    assert left.has_session(owner)


# --- restarts and backups -----------------------------------------------------------------------------------


async def test_a_restart_reads_everything_again(village: Village) -> None:
    owner, left, right = await three(village)
    ticket = await owner.ticket()
    await owner.network.remove(right.peer_id)
    head, doors = owner.network.head(), owner.network.door_keys()
    owner = await village.start(await village.stop(owner))
    assert owner.network.head() == head
    assert owner.network.door_keys() == doors
    assert owner.network.content_secret(0) == left.network.content_secret(0)
    assert owner.network.role_of(owner.peer_id) is Role.OWNER
    assert [row.state for row in owner.network.invites.all()].count("open") == 1
    assert ticket.invite_id in [row.id for row in owner.network.invites.all()]
    assert not owner.network.is_active(right.peer_id)
    await owner.dial(left)


async def test_a_restored_backup_asks_before_it_writes(village: Village) -> None:
    owner, left, right = await three(village)
    home = await village.stop(owner)
    old = Home(village.path / "old", home.keys, home.network_id)
    shutil.copytree(home.path, old.path)
    owner = await village.start(home)
    await owner.dial(left)
    await owner.network.remove(right.peer_id)
    await village.stop(owner)
    await wait_until(lambda: not left.has_session(owner))
    restored = await village.start(old)
    assert restored.network.is_active(right.peer_id)
    await restored.dial(left)
    ticket = await restored.ticket()
    newcomer = await village.stranger(ticket)
    await newcomer.join(ticket)
    await wait_until(lambda: same_head(restored, left))
    assert left.network.log.equivocations == {}
    assert not restored.network.is_active(right.peer_id)
    assert "own_chain_behind" in restored.rules


async def test_an_invite_used_after_the_backup_was_made_is_not_used_again(village: Village) -> None:
    owner = await village.founder()
    left = await village.member(owner)
    ticket = await owner.ticket()
    home = await village.stop(owner)
    old = Home(village.path / "old", home.keys, home.network_id)
    shutil.copytree(home.path, old.path)
    owner = await village.start(home)
    await owner.dial(left)
    first = await village.stranger(moved(ticket, owner))
    await first.join(moved(ticket, owner))
    await wait_until(lambda: left.network.is_active(first.peer_id))
    await village.stop(owner)
    restored = await village.start(old)
    await restored.dial(left)
    second = await village.stranger(moved(ticket, restored))
    with pytest.raises(Refused) as refused:
        await second.join(moved(ticket, restored))
    assert refused.value.code == "invite_used"


def moved(ticket: Ticket, inviter: MembershipNode) -> Ticket:
    """Return a ticket with the address that its inviter has now."""
    return Ticket(
        ticket.network_id, ticket.inviter, ticket.secret, ticket.expires_at, (str(inviter.address),)
    )


async def test_without_a_peer_that_answers_nothing_is_written(village: Village) -> None:
    owner, left, _ = await three(village)
    owner = await village.start(await village.stop(owner))
    left.network.head = lambda: b"\1" * 32  # type: ignore[method-assign]
    left.service.on_request = hang  # type: ignore[method-assign, assignment]
    await owner.dial(left)
    with pytest.raises(Unavailable) as unavailable:
        await owner.network.wait_current(timeout_s=0.3)
    assert unavailable.value.code == "not_current"


async def hang(*_: object) -> None:
    await asyncio.Event().wait()


async def test_lost_secrets_are_asked_for_again(village: Village) -> None:
    owner = await village.founder()
    left = await village.member(owner)
    door = left.network.door_keys()[0]
    await left.stores.secrets.clear()
    await left.stores.secrets.put(SecretRow(int(SecretKind.DOOR), DEFAULT_SPACE, 0, door))
    left = await village.start(await village.stop(left))
    with pytest.raises(Unavailable):
        left.network.content_secret(0)
    await owner.dial(left)
    await wait_until(lambda: any(isinstance(event, SecretsReceived) for event in left.events))
    assert left.network.content_secret(0) == owner.network.content_secret(0)


# --- disks that fail ----------------------------------------------------------------------------------------


async def test_on_a_full_disk_a_removal_takes_effect_and_is_confirmed_when_it_is_durable(
    village: Village,
) -> None:
    owner, left, right = await three(village)
    left.home.disk.fault = "full"
    removing = asyncio.ensure_future(owner.network.remove(right.peer_id))
    await wait_until(lambda: not left.network.is_active(right.peer_id))
    assert not left.has_session(right)
    await wait_until(lambda: "membership_not_saved" in left.rules)
    assert not removing.done()
    with pytest.raises(StorageFault):
        await left.network.flush()
    left.home.disk.fault = None
    assert (await removing).confirmed == [left.peer_id]
    left = await village.start(await village.stop(left))
    assert not left.network.is_active(right.peer_id)


async def test_a_removal_that_is_not_durable_is_not_confirmed_on_a_new_session_either(
    village: Village,
) -> None:
    owner, left, right = await three(village)
    left.home.disk.fault = "full"
    removing = asyncio.ensure_future(owner.network.remove(right.peer_id))
    await wait_until(lambda: "membership_not_saved" in left.rules)
    left.transport.close_peer(owner.peer_id, "closed")
    await left.dial(owner)
    session = owner.transport.find_session(left.peer_id)
    assert session is not None
    await session.ping()  # what was sent at the start of the session has arrived
    (operation,) = owner.network.state.removals
    assert owner.network.confirmations.confirmed(operation) == set()
    left.home.disk.fault = None
    await wait_until(lambda: owner.network.confirmations.confirmed(operation) == {left.peer_id})
    await removing


async def test_a_refused_operation_is_no_failure_of_a_task(
    village: Village, caplog: pytest.LogCaptureFixture
) -> None:
    owner = await village.founder()
    member = await village.member(owner)
    with pytest.raises(Refused):
        await member.network.remove(owner.peer_id)
    assert not caplog.records


async def test_on_a_full_disk_nothing_of_our_own_is_written_or_told(village: Village) -> None:
    owner, left, right = await three(village)
    head = owner.network.head()
    owner.home.disk.fault = "full"
    with pytest.raises(StorageFault):
        await owner.network.remove(right.peer_id)
    assert same_head(owner, left, right)
    owner.home.disk.fault = None
    await owner.network.remove(right.peer_id)
    assert owner.network.log.equivocations == {}
    assert owner.network.head() != head


async def test_on_a_full_disk_a_joiner_is_told_to_come_later(village: Village) -> None:
    owner = await village.founder()
    node = await village.stranger(ticket := await owner.ticket())
    owner.home.disk.fault = "full"
    with pytest.raises(Unavailable) as unavailable:
        await node.join(ticket)
    assert unavailable.value.code == "try_later"
    owner.home.disk.fault = None
    node.home.disk.fault = "full"
    with pytest.raises(StorageFault):
        await node.join(ticket)
    node.home.disk.fault = None
    await node.join(ticket)
    assert len(owner.network.log) == 2


# --- hostile members ----------------------------------------------------------------------------------------


async def test_a_member_that_floods_nonsense_is_dropped_and_others_are_served(village: Village) -> None:
    owner, left, right = await three(village)
    entry = owner.network.log.entries()[1].data
    forged = [entry[:200] + n.to_bytes(2, "big") + entry[202:] for n in range(200)]
    session = left.transport.find_session(owner.peer_id)
    assert session is not None
    for data in forged:
        send_broadcast(session, OPERATION_TOPIC, data)
    await wait_until(lambda: session.closed)
    assert right.has_session(owner)
    head = owner.network.head()
    assert head == right.network.head()
    await owner.network.remove(left.peer_id)
    await wait_until(lambda: same_head(owner, right))


async def test_messages_over_their_limits_are_refused(village: Village) -> None:
    owner, left, _ = await three(village)
    session = left.transport.find_session(owner.peer_id)
    assert session is not None
    rows = [(n.to_bytes(32, "big"), 0, bytes(32)) for n in range(600)]
    with pytest.raises(ShoalError):
        await session.request(MEMBERSHIP, VectorPage(rows, True, True))
    session.notify(MEMBERSHIP, LastWord(bytes(61 * 1024)))
    await wait_until(lambda: {"membership_malformed", "malformed_message"} <= set(owner.rules))
    assert len(owner.network.log) == 3


async def test_a_vector_without_end_is_refused_at_its_limit(village: Village) -> None:
    owner, left, right = await three(village)
    session = left.transport.find_session(owner.peer_id)
    assert session is not None
    sent = 0

    async def send_pages() -> None:
        nonlocal sent
        for start in range(1, 100_000, VECTOR_PAGE_ROWS):
            rows = [((start + n).to_bytes(32, "big"), 0, bytes(32)) for n in range(VECTOR_PAGE_ROWS)]
            await session.request(MEMBERSHIP, VectorPage(rows, start == 1, False))
            sent += len(rows)

    with pytest.raises(ShoalError):
        await send_pages()
    assert sent == VECTOR_ROWS
    assert "membership_malformed" in owner.rules
    assert right.has_session(owner)
