"""Stores: entries, secrets, invites, peers, objects, shares and named values."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.stores import open_stores

from shoal.core.errors import LocalMisuse, Refused
from shoal.storage import invites as invites_module
from shoal.storage.entries import EntryRow
from shoal.storage.invites import InviteRow
from shoal.storage.objects import OBJECT_BYTES
from shoal.storage.peers import PeerRow
from shoal.storage.secrets_store import SecretRow
from shoal.storage.shares import Origin, ShareRow, ShareState
from shoal.wire.limits import ENTRY_BYTES

LOG, OTHER_LOG = b"l" * 32, b"o" * 32
ANN, BOB = b"a" * 32, b"b" * 32


def _entry(author: bytes, seq: int, log: bytes = LOG, mark: int = 0) -> EntryRow:
    return EntryRow(bytes([mark, seq]) + author[:1] * 30, log, author, seq, b"data%d" % seq + bytes([mark]))


async def test_entries_come_back_in_the_order_they_arrived(tmp_path: Path) -> None:
    rows = [_entry(BOB, 0), _entry(ANN, 0), _entry(BOB, 1), _entry(ANN, 1)]
    async with open_stores(tmp_path) as stores:
        await stores.entries.append(rows[:2])
        await stores.entries.append(rows)  # known ones change nothing
        await stores.entries.append([EntryRow(b"x" * 32, OTHER_LOG, ANN, 0, b"other")])
    async with open_stores(tmp_path) as stores:
        assert await stores.entries.load(LOG) == [row.data for row in rows]
        assert await stores.entries.find(rows[2].id) == rows[2].data
        assert await stores.entries.find(b"?" * 32) is None
        assert await stores.entries.find_tip(LOG, ANN) == (1, rows[3].id)
        assert await stores.entries.find_tip(LOG, b"?" * 32) is None
        assert await stores.entries.drop_log(LOG) == 4
        assert await stores.entries.load(LOG) == []
        assert await stores.entries.load(OTHER_LOG) == [b"other"]


async def test_feed_entries_come_in_pages(tmp_path: Path) -> None:
    async with open_stores(tmp_path) as stores:
        await stores.entries.append(
            [EntryRow(bytes([i]) * 32, LOG, ANN, i, bytes([i]) * 100) for i in range(10)]
        )
        page = await stores.entries.load_page(LOG, ANN, first_seq=3, limit_bytes=250)
        assert [data[0] for data in page] == [3, 4]
        assert len(await stores.entries.load_page(LOG, ANN, limit_bytes=1)) == 1
        assert await stores.entries.load_page(LOG, ANN, first_seq=10) == []
        assert await stores.entries.load_page(LOG, BOB) == []


async def test_own_equivocation_is_refused_and_that_of_others_kept(tmp_path: Path) -> None:
    async with open_stores(tmp_path) as stores:
        await stores.entries.append([_entry(ANN, 0)], own=True)
        await stores.entries.append([_entry(ANN, 0)], own=True)  # the same one again is no equivocation
        with pytest.raises(LocalMisuse) as caught:
            await stores.entries.append([_entry(ANN, 1), _entry(ANN, 0, mark=1)], own=True)
        assert caught.value.code == "own_equivocation"
        assert len(await stores.entries.load(LOG)) == 1  # all or none
        await stores.entries.append([_entry(BOB, 0), _entry(BOB, 0, mark=1)])
        assert len(await stores.entries.load(LOG)) == 3


async def test_an_entry_over_the_limit_is_refused(tmp_path: Path) -> None:
    async with open_stores(tmp_path) as stores:
        with pytest.raises(LocalMisuse):
            await stores.entries.append([EntryRow(b"i" * 32, LOG, ANN, 0, bytes(ENTRY_BYTES + 1))])


async def test_secrets_are_sealed_and_never_replaced(tmp_path: Path) -> None:
    value, space = b"very secret value 0123456789abcd", bytes(32)
    async with open_stores(tmp_path) as stores:
        await stores.secrets.put(SecretRow(1, space, 0, value), SecretRow(1, space, 1, b"v1"))
        await stores.secrets.put(SecretRow(1, space, 0, value))
        with pytest.raises(LocalMisuse):
            await stores.secrets.put(SecretRow(2, space, 0, b"new"), SecretRow(1, space, 0, b"another"))
        with pytest.raises(LocalMisuse):
            await stores.secrets.put(SecretRow(2, space, 0, b""))
        assert await stores.secrets.find(1, space, 0) == value
        assert await stores.secrets.find(2, space, 0) is None
        assert [(s.generation, s.value) for s in await stores.secrets.load()] == [(1, b"v1"), (0, value)]
        await stores.secrets.clear()
        await stores.secrets.put(SecretRow(1, space, 0, b"another"))
        assert len(await stores.secrets.load()) == 1
    for path in tmp_path.iterdir():
        assert value not in path.read_bytes()


def _invite(number: int, expires_at: float = 100.0) -> InviteRow:
    return InviteRow(bytes([number]) * 16, b"ticket secret %d" % number, 3, "ann", 1.0 + number, expires_at)


async def test_an_invite_is_used_once_and_its_joiner_may_ask_again(tmp_path: Path) -> None:
    async with open_stores(tmp_path) as stores:
        await stores.invites.add(_invite(1))
        used = await stores.invites.use(_invite(1).id, ANN, now=50.0)
        assert used == _invite(1)._replace(state="used", used_by=ANN)
    async with open_stores(tmp_path) as stores:  # a crash does not open it again
        assert await stores.invites.use(_invite(1).id, ANN, now=5000.0) == used
        with pytest.raises(Refused) as caught:
            await stores.invites.use(_invite(1).id, BOB, now=50.0)
        assert caught.value.code == "invite_used"
        await stores.invites.release(_invite(1).id, BOB)  # not its user
        assert (await stores.invites.load())[0].state == "used"
        await stores.invites.release(_invite(1).id, ANN)
        assert (await stores.invites.use(_invite(1).id, BOB, now=50.0)).used_by == BOB
    for path in tmp_path.iterdir():
        assert b"ticket secret" not in path.read_bytes()


async def test_invites_that_are_over_are_refused_by_name(tmp_path: Path) -> None:
    async with open_stores(tmp_path) as stores:
        for number in (1, 2):
            await stores.invites.add(_invite(number))
        assert await stores.invites.revoke(_invite(2).id)
        assert not await stores.invites.revoke(_invite(2).id)
        for invite_id, now, code in (
            (_invite(1).id, 100.0, "invite_expired"),
            (_invite(2).id, 50.0, "invite_revoked"),
            (b"?" * 16, 50.0, "invite_unknown"),
        ):
            with pytest.raises(Refused) as caught:
                await stores.invites.use(invite_id, ANN, now)
            assert caught.value.code == code
        assert _invite(1).is_open(99.0)
        assert not _invite(1).is_open(100.0)
        assert [row.id[0] for row in await stores.invites.load()] == [2, 1]
        await stores.invites.add(_invite(3)._replace(created_at=101.0 + invites_module.KEEP_S))
        assert await stores.invites.find(_invite(1).id) is None


async def test_open_invites_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invites_module, "OPEN_LIMIT", 2)
    async with open_stores(tmp_path) as stores:
        await stores.invites.add(_invite(1))
        await stores.invites.add(_invite(2, expires_at=3.5))
        with pytest.raises(Refused, match="No invite was made"):
            await stores.invites.add(_invite(1)._replace(id=b"3" * 16))
        await stores.invites.add(_invite(4))  # the second has expired by then


async def test_the_peer_book_comes_back(tmp_path: Path) -> None:
    rows = [
        PeerRow(ANN, b"record", ("10.0.0.1:1", "[::1]:2"), "10.0.0.1:1", 5.0, 2),
        PeerRow(BOB, None, ("x:1",)),
    ]
    async with open_stores(tmp_path) as stores:
        await stores.peers.save(rows)
        await stores.peers.save([rows[0]._replace(failures=0)])
        with pytest.raises(LocalMisuse):
            await stores.peers.save([PeerRow(ANN, bytes(5000))])
    async with open_stores(tmp_path) as stores:
        assert await stores.peers.load() == [rows[0]._replace(failures=0), rows[1]]
        await stores.peers.drop([ANN])
        assert await stores.peers.load() == [rows[1]]


async def test_objects_live_as_long_as_a_share_holds_them(tmp_path: Path) -> None:
    one, two, three = ((bytes([i]) * 32, b"object %d" % i) for i in range(3))
    async with open_stores(tmp_path) as stores:
        await stores.objects.put(b"s" * 32, [one, two])
        await stores.objects.put(b"t" * 32, [two, three])
        await stores.objects.hold(b"s" * 32, [three[0], b"?" * 32])
        assert await stores.objects.find(two[0]) == two[1]
        assert stores.objects.find_blocking(three[0]) == three[1]
        assert await stores.objects.find_missing([b"?" * 32, one[0]]) == [b"?" * 32]
        assert stores.objects.find_missing_blocking([b"?" * 32, one[0]]) == [b"?" * 32]
        assert await stores.objects.holds(b"t" * 32, two[0])
        assert not await stores.objects.holds(b"t" * 32, one[0])
        assert await stores.objects.drop_share(b"s" * 32, keep=[three[0]]) == 1
        assert await stores.objects.find_missing([one[0], two[0], three[0]]) == [one[0]]
        assert await stores.objects.drop_share(b"t" * 32) == 1
        assert await stores.objects.drop_share(b"s" * 32) == 1
        with pytest.raises(LocalMisuse):
            await stores.objects.put(b"s" * 32, [(b"x" * 32, bytes(OBJECT_BYTES + 1))])


def _share(number: int, *roots: bytes, origin: Origin = Origin.OWN) -> ShareRow:
    return ShareRow(
        bytes([number]) * 32, origin, f"link{number}", roots, "photos", ShareState.HASHING, 1.0 + number, 1.0
    )


async def test_shares_are_found_by_their_paths(tmp_path: Path) -> None:
    async with open_stores(tmp_path) as stores:
        await stores.shares.add(_share(1, b"/home/a", b"/home/b\xff"))
        await stores.shares.add(_share(2, b"/home/a"))
        for again in (_share(1, b"/x"), _share(3, b"/home/a")):
            with pytest.raises(Refused) as caught:
                await stores.shares.add(again)
            assert caught.value.code == "share_exists"
        await stores.shares.add(_share(4, b"/home/a", origin=Origin.FETCHED))
        found = await stores.shares.find_own([b"/home/b\xff", b"/home/a"])
        assert found == _share(1, b"/home/a", b"/home/b\xff")
        assert await stores.shares.find_own([b"/home"]) is None
        assert [share.share_id[0] for share in await stores.shares.load()] == [1, 2, 4]
    for path in tmp_path.iterdir():
        assert b"link1" not in path.read_bytes()


async def test_a_share_changes_and_goes(tmp_path: Path) -> None:
    async with open_stores(tmp_path) as stores:
        await stores.shares.add(_share(1, b"/a"))
        share_id = _share(1).share_id
        assert await stores.shares.update(
            share_id, state=ShareState.COMPLETE, version=1, content_id=b"c" * 32, files=3, total_bytes=1 << 40
        )
        assert await stores.shares.update(share_id, roots=(b"/b",), details=b"\x80")
        found = await stores.shares.find_own([b"/b"])
        assert found is not None
        assert (found.state, found.total_bytes, found.details) == (ShareState.COMPLETE, 1 << 40, b"\x80")
        assert not await stores.shares.update(b"?" * 32, version=2)
        with pytest.raises(LocalMisuse):
            await stores.shares.update(share_id)
        with pytest.raises(LocalMisuse):
            await stores.shares.update(share_id, link="x")  # type: ignore[call-arg]
        assert await stores.shares.drop(share_id)
        assert not await stores.shares.drop(share_id)
        assert await stores.shares.find(share_id) is None


async def test_a_share_takes_the_place_of_its_row_in_one_transaction(tmp_path: Path) -> None:
    """What is killed in between goes on serving one of the two."""
    async with open_stores(tmp_path) as stores:
        first = _share(1, b"/a", origin=Origin.FETCHED)
        await stores.shares.replace(first)
        assert await stores.shares.load() == [first]
        second = first._replace(roots=(b"/b",), name="elsewhere")
        begun = stores.database.commits
        await stores.shares.replace(second)
        assert stores.database.commits == begun + 1
        assert await stores.shares.load() == [second]


async def test_named_values(tmp_path: Path) -> None:
    async with open_stores(tmp_path) as stores:
        assert await stores.values.find_value("a") is None
        await stores.values.put_value("a", b"1")
        await stores.values.put_value("a", b"2")
        with pytest.raises(LocalMisuse):
            await stores.values.put_value("b", bytes(100_000))
    async with open_stores(tmp_path) as stores:
        assert await stores.values.find_value("a") == b"2"
