"""Node: as a library, with a clock of its own, and its start and end when something is wrong."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from pathlib import Path

import pytest

import shoal
from shoal import Node, NodeConfig
from shoal.api import schema as s
from shoal.core.clock import SystemClock
from shoal.core.errors import ConfigFault, LocalMisuse, Refused, StorageFault
from shoal.core.units import MIB
from shoal.node.diagnosis import diagnose

DAY_S = 86400.0


class OffClock(SystemClock):
    """A clock whose date is wrong."""

    def __init__(self, offset_s: float) -> None:
        self.offset_s = offset_s

    def wall(self) -> float:
        return super().wall() + self.offset_s


def make_config(home: Path, name: str) -> NodeConfig:
    return NodeConfig(
        home=str(home), listen=["127.0.0.1:0"], name=name, lan=False, origins={"listen": "flag"}
    )


async def run_for(node: Node, seconds: float) -> None:
    async with asyncio.timeout(seconds), node:
        await node.wait_stopped()


async def get(node: Node, link: str, dest: Path) -> s.GetResult:
    detail = await node.api.get(s.GetRequest(link=link, dest=str(dest)))
    while detail.state not in ("done", "failed"):
        request = s.TransferRequest(id=detail.id, revision=detail.revision, wait_s=5.0)
        detail = await node.api.transfer(request)
    assert detail.error is None
    assert detail.result is not None
    return detail.result


async def share(node: Node, path: Path) -> str:
    link = (await node.api.share(s.ShareRequest(paths=[str(path)]))).link
    state = (await node.api.shares(s.Nothing())).shares[0]
    while not state.complete:
        request = s.ShareWaitRequest(share_id=state.share_id, done_bytes=state.done_bytes, wait_s=5.0)
        state = await node.api.share_state(request)
    return link


@pytest.mark.parametrize("days", [2.0, -2.0])
async def test_a_clock_two_days_off_joins_shares_and_gets(tmp_path: Path, days: float) -> None:
    (tmp_path / "file").write_bytes(os.urandom(MIB))
    async with Node(make_config(tmp_path / "a", "anna")) as anna:
        ticket = (await anna.api.invite(s.InviteRequest())).ticket  # 24 h: over, by bert's clock ahead
        off = OffClock(days * DAY_S)
        async with Node(make_config(tmp_path / "b", "bert"), ticket=ticket, clock=off) as bert:
            assert (await bert.status()).peers == 1
            link = await share(anna, tmp_path / "file")
            assert (await get(bert, link, tmp_path / "in")).bytes == MIB
            members = (await bert.api.members(s.Nothing())).members
            assert [m.state for m in members] == ["active", "active"]
            await bert.api.ping(s.PeerRequest(peer="anna"))
            clocks = [c for c in (await bert.api.diagnose(s.Nothing())).checks if c.name == "clocks"]
            assert [c.state for c in clocks] == ["warn"]
            assert "anna" in clocks[0].detail


def count_own_threads() -> int:
    """Threads that are not the loop's own idle workers, of which it makes more when it likes."""
    return sum(not thread.name.startswith("asyncio_") for thread in threading.enumerate())


async def test_a_node_leaves_nothing_running(tmp_path: Path) -> None:
    async with Node(make_config(tmp_path / "warm", "warm")):
        pass
    gc.collect()
    files, threads = len(os.listdir("/proc/self/fd")), count_own_threads()
    for _ in range(3):
        async with Node(make_config(tmp_path / "a", "anna")) as node:
            assert node.recovery_key is None or node.recovery_key.startswith("shr1")
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= files
    assert count_own_threads() <= threads
    assert len(asyncio.all_tasks()) == 1


async def test_a_start_that_fails_gives_everything_back(tmp_path: Path) -> None:
    async with Node(make_config(tmp_path / "a", "anna")) as anna:
        taken = (await anna.status()).listen
        bad = NodeConfig(
            home=str(tmp_path / "b"), listen=taken, name="bert", lan=False, origins={"listen": "flag"}
        )
        with pytest.raises(ConfigFault):
            async with Node(bad):
                pass
        with pytest.raises(Refused):
            async with Node(make_config(tmp_path / "a", "anna")):
                pass
        with pytest.raises(LocalMisuse):
            async with Node(make_config(tmp_path / "c", "carl"), ticket="garbage"):
                pass
    async with Node(make_config(tmp_path / "b", "bert")) as bert:
        assert (await bert.status()).name == "bert"


async def test_the_recovery_key_is_shown_by_the_first_start_that_succeeds(tmp_path: Path) -> None:
    """A first start that fails late must not leave a network whose recovery key nobody ever saw."""
    taken = NodeConfig(
        home=str(tmp_path / "home"),
        listen=["203.0.113.1:4711"],  # nobody's address (RFC 5737): binding it fails
        name="ada",
        lan=False,
        origins={"listen": "flag"},
    )
    with pytest.raises(ConfigFault):
        await run_for(Node(taken), 10)
    async with Node(make_config(tmp_path / "home", "ada")) as node:
        assert (await node.status()).recovery_key == node.recovery_key
        assert node.recovery_key is not None
    async with Node(make_config(tmp_path / "home", "ada")) as node:
        assert node.recovery_key is None


async def test_a_start_that_is_cancelled_gives_everything_back(tmp_path: Path) -> None:
    for pause in (0.0, 0.005, 0.02, 0.05):
        with pytest.raises(TimeoutError):
            await run_for(Node(make_config(tmp_path / "a", "anna")), pause)
        assert len(asyncio.all_tasks()) == 1
    async with Node(make_config(tmp_path / "a", "anna")) as node:
        assert (await node.status()).peers == 0


async def test_a_damaged_database_is_said(tmp_path: Path) -> None:
    async with Node(make_config(tmp_path / "a", "anna")):
        pass
    for name in ("shoal.db-wal", "shoal.db-shm"):
        (tmp_path / "a" / name).unlink(missing_ok=True)  # a log that is whole would repair the damage
    (tmp_path / "a" / "shoal.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StorageFault) as caught:
        async with Node(make_config(tmp_path / "a", "anna")):
            pass
    assert caught.value.next_step


def test_importing_shoal_is_cheap() -> None:
    assert shoal.connect.__module__ == "shoal.api.client"
    assert "Node" in dir(shoal)
    with pytest.raises(AttributeError):
        _ = shoal.nonsense
    assert diagnose is not None


async def test_what_a_get_has_just_filled_can_be_unshared_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "one.bin").write_bytes(os.urandom(MIB))
    async with Node(make_config(tmp_path / "a", "anna")) as anna:
        link = await share(anna, tmp_path / "one.bin")
        ticket = (await anna.api.invite(s.InviteRequest())).ticket
        async with Node(make_config(tmp_path / "b", "bert"), ticket=ticket) as bert:
            for number in range(5):
                dest = tmp_path / f"in {number}"
                dest.mkdir()
                await get(bert, link, dest)
                gone = await bert.api.unshare(s.UnshareRequest(path=str(dest / "one.bin")))
                assert gone.name == "one.bin"
