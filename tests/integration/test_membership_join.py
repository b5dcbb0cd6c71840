"""Join over loopback: with a ticket, again after a lost reply, and all the ways in which it must fail."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.membership_nodes import MembershipNode, Village, open_village
from tests.support.transport_nodes import wait_until

from shoal.core.clock import SystemClock
from shoal.core.errors import LocalMisuse, Refused, RemoteFault, Unavailable
from shoal.identity.entry import parse_entry
from shoal.identity.keys import DeviceKeys
from shoal.identity.operations import Remove, Role, sign_joiner
from shoal.identity.secrets import DEFAULT_SPACE, SecretKind
from shoal.identity.ticket import Ticket
from shoal.membership import network
from shoal.membership.events import InviteUsed, JoinFailed, MembershipChanged
from shoal.membership.inviter import find_free_name
from shoal.membership.invites import join_knock
from shoal.membership.join_messages import JOIN_TABLE, JoinAccepted, JoinRefused, JoinRequest
from shoal.membership.join_proof import export_for_join, make_join_proof
from shoal.membership.sync_events import Offered, PeerHead
from shoal.transport.address import Address


class ShiftedClock(SystemClock):
    """A wall clock that a test sets wrong."""

    def __init__(self) -> None:
        self.shift_s = 0.0

    def wall(self) -> float:
        return super().wall() + self.shift_s


@pytest.fixture
async def village(tmp_path: Path) -> AsyncIterator[Village]:
    async with open_village(tmp_path) as opened:
        yield opened


async def test_a_device_joins_with_a_ticket_and_gets_log_and_secrets(village: Village) -> None:
    owner = await village.founder()
    node = await village.stranger(ticket := await owner.ticket())
    joined = await node.join(Ticket.parse(ticket.to_text()), "laptop")
    assert joined.inviter == owner.peer_id
    assert node.network.head() == owner.network.head()
    assert node.network.role_of(node.peer_id) is Role.MEMBER
    assert node.network.door_keys() == owner.network.door_keys()
    assert node.network.content_secret(0) == owner.network.content_secret(0)
    assert node.network.state.members[node.peer_id].name == "laptop"
    used = [event for event in owner.events if isinstance(event, InviteUsed)]
    assert [(event.peer_id, event.name) for event in used] == [(node.peer_id, "laptop")]
    assert any(isinstance(e, MembershipChanged) and node.peer_id in e.added for e in owner.events)
    await node.dial(owner)


async def test_the_others_learn_of_a_new_device_at_once(village: Village) -> None:
    owner = await village.founder()
    first = await village.member(owner)
    second = await village.member(owner)
    await wait_until(lambda: first.network.is_active(second.peer_id))
    await second.dial(first)


async def test_who_was_admitted_a_second_ago_by_another_gets_in(village: Village) -> None:
    owner = await village.founder()
    first = await village.member(owner)
    owner.transport.close_peer(first.peer_id, "closed")
    second = await village.member(owner)
    assert not first.network.is_active(second.peer_id)
    await second.dial(first)  # the hello brings the admission
    assert first.network.is_active(second.peer_id)


async def test_a_storage_only_device_gets_the_door_key_and_no_content_secret(village: Village) -> None:
    owner = await village.founder()
    store = await village.member(owner, Role.STORAGE)
    assert store.network.door_keys() == owner.network.door_keys()
    assert store.network.secrets.find(SecretKind.CONTENT, DEFAULT_SPACE, 0) is None
    assert store.network.secrets.find(SecretKind.EPOCH, DEFAULT_SPACE, 0) is None
    with pytest.raises(Unavailable):
        store.network.content_secret(0)
    assert store.network.secrets.missing(store.network.state) == []


async def test_a_lost_reply_is_asked_for_again_by_the_same_device_only(village: Village) -> None:
    owner = await village.founder()
    node = await village.stranger(ticket := await owner.ticket())
    assert isinstance(await ask(node, ticket), JoinAccepted)  # and the channel is cut there
    assert owner.network.is_active(node.peer_id)
    entries = len(owner.network.log)
    await node.join(ticket)
    assert len(owner.network.log) == entries
    assert node.network.is_active(owner.peer_id)
    other = await village.stranger(ticket)
    with pytest.raises(Refused) as refused:
        await other.join(ticket)
    assert refused.value.code == "invite_used"
    assert len(owner.network.log) == entries
    assert any(isinstance(event, JoinFailed) for event in owner.events)


async def test_joining_again_works_after_both_ends_restarted(village: Village) -> None:
    owner = await village.founder()
    node = await village.stranger(ticket := await owner.ticket())
    assert isinstance(await ask(node, ticket), JoinAccepted)
    home = await village.stop(node)
    owner = await village.start(await village.stop(owner))
    ticket = Ticket(
        ticket.network_id, ticket.inviter, ticket.secret, ticket.expires_at, (str(owner.address),)
    )
    node = await village.start(home)
    await node.join(ticket)
    assert node.network.head() == owner.network.head()


@pytest.mark.parametrize("is_complete", [False, True], ids=["log only", "all but the mark"])
async def test_a_join_that_was_cut_after_the_log_was_written_is_finished(
    village: Village, is_complete: bool
) -> None:
    """A crash between the journal and the mark of the home must not leave a home that never joins."""
    owner = await village.founder()
    node = await village.stranger(ticket := await owner.ticket())
    await node.join(ticket)
    if not is_complete:
        await node.stores.secrets.clear()
    node = await village.start(await village.stop(node))
    await node.join(ticket)
    assert node.network.door_keys() == owner.network.door_keys()
    assert len(owner.network.log) == 2
    await node.dial(owner)


async def test_a_device_removed_while_it_joins_gets_no_secrets(village: Village) -> None:
    owner = await village.founder()
    node = await village.stranger(ticket := await owner.ticket())

    def remove(event: InviteUsed) -> None:  # as if it came from another admin while the disk is slow
        entry = owner.network.log.make_entry(owner.home.keys, Remove(event.peer_id), 0)
        owner.network.step(Offered((entry.data,), None))

    owner.network.events.on(InviteUsed, remove)
    with pytest.raises(Refused) as refused:
        await node.join(ticket)
    assert refused.value.code == "removed"
    assert not node.network.door_keys()


async def test_a_device_that_was_admitted_anew_shows_its_new_admission(village: Village) -> None:
    owner = await village.founder()
    admin = await village.member(owner, Role.ADMIN)
    node = await village.stranger(await admin.ticket())
    ticket = await admin.ticket()
    admin.transport.close_peer(owner.peer_id, "closed")
    node = await village.stranger(ticket, node.home.keys)
    await node.join(ticket)
    assert node.network.show_admission(owner.peer_id, b"")
    await owner.network.remove(admin.peer_id)  # did not know of the admission: it falls
    state = owner.network.state
    assert node.peer_id not in state.members
    again = await owner.ticket()
    await ask(node, again)  # admits it anew
    for entry in owner.network.log.entries():
        node.network.step(Offered((entry.data,), None))
    admitted = node.network.state.members[node.peer_id].admitted_by_op
    assert node.network.is_active(node.peer_id)
    shown = [parse_entry(data).id for data in node.network.show_admission(owner.peer_id, b"")]
    assert shown[-1] == admitted


async def test_an_admission_is_shown_to_who_may_lack_it(village: Village) -> None:
    owner = await village.founder()
    node = await village.member(owner)
    show = node.network.show_admission
    await wait_until(lambda: owner.network.log.head == node.network.log.head)
    node.network.step(PeerHead(owner.peer_id, owner.network.log.head[:8]))
    assert show(owner.peer_id, b"") == []  # it had our log when it was last heard
    assert show(owner.peer_id, b"")  # it refused us: it has lost it since
    assert show(bytes(32), b"")
    assert show(bytes(32), node.network.log.head) == []
    assert show(bytes(32), bytes(32))


async def test_a_node_that_is_here_for_a_while_shows_its_admission_to_who_refused_it(
    village: Village, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "NEWCOMER_S", 0.0)
    owner = await village.founder()
    node = await village.member(owner)
    show = node.network.show_admission
    assert show(bytes(32), b"") == []  # it has heard of us, like everybody
    assert show(bytes(32), b"")  # it has not
    assert show(bytes(32), b"") == []
    assert show(bytes(32), bytes(32))  # it has said that its log is another one


async def test_an_expired_ticket_says_so(tmp_path: Path) -> None:
    clock = ShiftedClock()
    async with open_village(tmp_path, clock) as village:
        owner = await village.founder()
        node = await village.stranger(ticket := await owner.ticket(expires_s=60))
        clock.shift_s = 61
        with pytest.raises(Refused) as refused:
            await node.join(ticket)
        assert refused.value.code == "invite_expired"
        assert not owner.network.is_active(node.peer_id)
        home = await village.stop(owner)
        with pytest.raises(Refused, match="expired"):
            await node.join(ticket)
        await village.start(home)


async def test_the_inviters_clock_decides_not_the_joiners(village: Village) -> None:
    owner = await village.founder()
    ticket = await owner.ticket()
    wrong = ShiftedClock()
    wrong.shift_s = 2 * 86400
    village.clock = wrong
    node = await village.stranger(ticket)
    await node.join(ticket)


async def test_a_ticket_that_the_inviter_never_made_is_refused(village: Village) -> None:
    owner = await village.founder()
    ticket = await owner.ticket()
    guess = Ticket(ticket.network_id, ticket.inviter, os.urandom(16), ticket.expires_at, ticket.addresses)
    node = await village.stranger(guess)
    with pytest.raises(Refused) as refused:
        await node.join(guess)
    assert refused.value.code == "invite_unknown"
    assert len(owner.network.log) == 1


async def test_a_ticket_of_another_network_is_refused(village: Village) -> None:
    owner = await village.founder()
    ticket = await owner.ticket()
    foreign = Ticket(b"\7" * 32, ticket.inviter, ticket.secret, ticket.expires_at, ticket.addresses)
    node = await village.stranger(foreign)
    with pytest.raises(Refused) as refused:
        await node.join(foreign)
    assert refused.value.code == "wrong_network"
    home_of_another = await village.founder()
    with pytest.raises(LocalMisuse):
        await home_of_another.join(ticket)


async def test_another_device_at_the_inviters_address_gets_nothing(village: Village) -> None:
    owner, other = await village.founder(), await village.founder()
    ticket = await owner.ticket()
    moved = Ticket(ticket.network_id, ticket.inviter, ticket.secret, ticket.expires_at, (str(other.address),))
    node = await village.stranger(moved)
    with pytest.raises((Refused, RemoteFault, Unavailable)):
        await node.join(moved)


async def test_an_inviter_that_is_down_is_named_with_its_addresses(village: Village) -> None:
    owner = await village.founder()
    node = await village.stranger(ticket := await owner.ticket())
    await village.stop(owner)
    with pytest.raises(Unavailable) as unavailable:
        await node.join(ticket)
    assert ticket.addresses[0] in unavailable.value.cause


async def test_a_home_that_has_a_network_does_not_join(village: Village) -> None:
    owner = await village.founder()
    node = await village.member(owner)
    with pytest.raises(Refused) as refused:
        await node.join(await owner.ticket())
    assert refused.value.code == "has_network"


async def test_an_admin_invites_members_but_no_owners(village: Village) -> None:
    owner = await village.founder()
    admin = await village.member(owner, Role.ADMIN)
    await village.member(admin)
    with pytest.raises(Refused):
        await admin.ticket(Role.OWNER)
    admin.network.check_may_admit = lambda role: None  # type: ignore[method-assign]
    admin.network.invites._check_right = lambda role: None
    node = await village.stranger(ticket := await admin.ticket(Role.OWNER))
    with pytest.raises(Refused) as refused:  # the log says no, and the invite is not used up by that
        await node.join(ticket)
    assert refused.value.code == "not_permitted"
    assert [row.used_by for row in admin.network.invites.all() if row.role == Role.OWNER] == [None]


async def test_a_plain_member_admits_nobody(village: Village) -> None:
    owner = await village.founder()
    member = await village.member(owner)
    with pytest.raises(Refused) as refused:
        await member.ticket()
    assert refused.value.code == "not_allowed"
    assert not member.network.open_invites()


# --- a joiner that lies -------------------------------------------------------------------------------------


async def ask(node: MembershipNode, ticket: Ticket, **changes: object) -> object:
    """Send one join request with some fields changed; return the first answer and cut the channel."""
    keys = node.home.keys
    nonce = os.urandom(16)
    channel = await node.transport.dial_join(
        ticket.inviter,
        Address.parse(ticket.addresses[0]),
        nonce,
        join_knock(ticket.secret, nonce, ticket.inviter),
    )
    async with channel:
        exported = export_for_join(channel, ticket.network_id)
        fields: dict[str, object] = {
            "network": ticket.network_id,
            "invite_id": ticket.invite_id,
            "peer_id": keys.peer_id,
            "name": "device",
            "user": "",
            "hpke_suite": int(keys.hpke_suite),
            "hpke_public": keys.hpke_public,
            "proof": make_join_proof(ticket.secret, exported, keys.peer_id, ticket.inviter, ticket.invite_id),
            "signature": sign_joiner(keys, ticket.network_id, ticket.invite_id, "device"),
        }
        await channel.send(JOIN_TABLE, JoinRequest(**(fields | changes)))  # type: ignore[arg-type]
        return await channel.receive(JOIN_TABLE, 5)


async def test_wrong_proofs_never_burn_the_ticket(village: Village) -> None:
    owner = await village.founder()
    node = await village.stranger(ticket := await owner.ticket())
    for n in range(9):
        answer = await ask(node, ticket, proof=bytes([n]) * 32)
        assert isinstance(answer, JoinRefused)
        assert answer.code == "wrong_proof"
    assert owner.rules.count("join_refused") == 9
    await node.join(ticket)


async def test_a_ticket_is_not_tried_without_end(village: Village) -> None:
    owner = await village.founder()
    node = await village.stranger(ticket := await owner.ticket())
    codes = [(await ask(node, ticket, proof=bytes(32))).code for _ in range(12)]  # type: ignore[attr-defined]
    assert codes[-1] == "too_often"
    assert owner.network.invites.all()[0].used_by is None


async def test_whatever_port_it_comes_from_a_flood_of_tries_is_one_subject(village: Village) -> None:
    """The log writes a line a second for each subject: a port is new for every connection."""
    owner = await village.founder()
    node = await village.stranger(ticket := await owner.ticket())
    for _ in range(3):
        assert isinstance(await ask(node, ticket, proof=bytes(32)), JoinRefused)
    assert len({o.subject for o in owner.seen if o.rule == "join_refused"}) == 1


async def test_a_proof_for_one_key_does_not_admit_another(village: Village) -> None:
    owner = await village.founder()
    node = await village.stranger(ticket := await owner.ticket())
    other = DeviceKeys.generate()
    answer = await ask(node, ticket, peer_id=other.peer_id)
    assert isinstance(answer, JoinRefused)
    assert answer.code == "wrong_key"
    answer = await ask(
        node, ticket, signature=sign_joiner(other, ticket.network_id, ticket.invite_id, "device")
    )
    assert isinstance(answer, JoinRefused)
    assert answer.code == "wrong_signature"
    answer = await ask(node, ticket, hpke_public=b"\xff" * len(other.hpke_public))
    assert isinstance(answer, JoinRefused)
    assert answer.code == "unknown_suite"
    answer = await ask(node, ticket, hpke_public=other.hpke_public)  # a key the joiner did not sign
    assert isinstance(answer, JoinRefused)
    assert answer.code == "wrong_signature"
    assert len(owner.network.log) == 1
    await node.join(ticket)


async def test_a_malformed_request_is_closed_without_an_answer(village: Village) -> None:
    owner = await village.founder()
    node = await village.stranger(ticket := await owner.ticket())
    for changes in ({"proof": b""}, {"network": b"x"}, {"name": "a\nb"}, {"hpke_public": bytes(5000)}):
        with pytest.raises(Unavailable):
            await ask(node, ticket, **changes)
    assert len(owner.network.log) == 1


async def test_two_devices_of_one_name_can_be_told_apart(village: Village) -> None:
    owner = await village.founder()
    names = []
    for _ in range(3):
        node = await village.stranger(ticket := await owner.ticket())
        await node.join(Ticket.parse(ticket.to_text()), "vm")
        names.append(node.network.state.members[node.peer_id].name)
    assert names == ["vm", "vm-2", "vm-3"]
    assert len({m.name for m in owner.network.state.members.values()}) == 4


def test_a_free_name_fits_the_limit_also_of_wide_characters() -> None:
    long = "ü" * 32
    assert find_free_name(long, {long}) == "ü" * 31 + "-2"
    assert find_free_name("vm", {"vm", "vm-2", "vm-3"}) == "vm-4"
