"""Fake node: answers the API from memory, so that HTTP, client and commands are tested without a network."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager

from shoal.api import content_schema as c
from shoal.api import pin_schema as p
from shoal.api import schema as s
from shoal.api import store_schema as st
from shoal.api.http import ApiServer
from shoal.core.errors import Refused, RemoteFault, ShoalError, StorageFault, Unavailable
from shoal.core.supervisor import Supervisor

PEER = "shp1" + "a" * 58
OTHER = "shp1" + "b" * 58
LINK = "shl1" + "c" * 60
SHARE = "shs1" + "d" * 58


class FakeStream:
    """A stream of given pieces; a failure among them is raised, and None stands for waiting without end."""

    note = "looking for somebody"

    def __init__(self, *items: bytes | Exception | None) -> None:
        self.items = items
        self.closed = threading.Event()

    async def read(self) -> AsyncGenerator[bytes | c.StreamResult, None]:
        try:
            for item in self.items:
                if item is None:
                    await asyncio.Event().wait()
                elif isinstance(item, bytes):
                    yield item
                else:
                    raise item
            size = sum(len(item) for item in self.items if isinstance(item, bytes))
            yield c.StreamResult(
                name="dump", bytes=size, fetched_bytes=size, seconds=0.5, providers={OTHER: size}
            )
        finally:
            self.closed.set()


class FakeNode:
    """A `NodeApi` whose transfers advance by one step each time they are asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, object]] = []
        self.fail: ShoalError | Exception | None = None
        self.steps = 3
        self.skipped: list[str] = []
        self.error: s.ErrorBody | None = None
        self.hold = asyncio.Event()
        self.piped = b""
        self.stream = FakeStream(b"abc", b"def")

    def _note(self, name: str, request: object) -> None:
        self.asked.append((name, request))
        if self.fail is not None:
            raise self.fail

    def _pin(self) -> p.Pin:
        return p.Pin(
            number=1,
            share_id=SHARE,
            name="photos",
            state="complete",
            version=1,
            chunks=2,
            done=2,
            bytes=100,
            done_bytes=100,
            lease=None,
            revision=3,
            note="",
            error=None,
            fault=None,
        )

    async def pin(self, request: p.PinRequest) -> p.Pin:
        self._note("pin", request)
        return self._pin()

    async def pin_state(self, request: p.PinWaitRequest) -> p.Pin:
        self._note("pin_state", request)
        return self._pin()

    async def pins(self, request: s.Nothing) -> p.Pins:
        self._note("pins", request)
        return p.Pins([self._pin()])

    async def unpin(self, request: p.UnpinRequest) -> p.Pins:
        self._note("unpin", request)
        return p.Pins([self._pin()])

    async def store(self, request: s.Nothing) -> st.StoreState:
        self._note("store", request)
        return st.StoreState(
            path="/home/store",
            segments=2,
            file_bytes=300,
            live_bytes=200,
            chunks=7,
            lost=0,
            quota_bytes=None,
            free_bytes=10**9,
            scrubs=1,
        )

    async def store_work(self, request: st.StoreWorkRequest) -> st.StoreWork:
        self._note("store_work", request)
        return st.StoreWork(verb=request.verb, running=request.start, chunks=7, total_bytes=200)

    async def status(self, request: s.Nothing) -> s.Status:
        self._note("status", request)
        return s.Status(
            peer_id=PEER,
            network_id="shn1" + "e" * 58,
            name="anna",
            pid=os.getpid(),
            listen=["127.0.0.1:4000"],
            peers=2,
            version="0.1.0",
        )

    async def invite(self, request: s.InviteRequest) -> s.Invite:
        self._note("invite", request)
        return s.Invite("sht1" + "f" * 200, "7-olive-tango-magnet", "2026-11-23T10:00:00Z")

    async def invite_state(self, request: s.InviteWaitRequest) -> s.InviteState:
        self._note("invite_state", request)
        failed = request.failures < 1
        return s.InviteState(
            state="open" if failed else "used",
            failures=1,
            tries_left=4,
            last_from="192.0.2.9",
            name=None if failed else "carl\x1b[2J",
        )

    async def peers(self, request: s.Nothing) -> s.Peers:
        self._note("peers", request)
        return s.Peers(
            [
                s.Peer(OTHER, "bert\x1b[2J", "connected", ["127.0.0.1:4001"], 0.42),
                s.Peer("shp1" + "g" * 58, "carl", "offline", [], None),
            ]
        )

    async def members(self, request: s.Nothing) -> s.Members:
        self._note("members", request)
        return s.Members(
            [s.Member(OTHER, "bert", "u", "member", "active", "2026-11-22T10:00:00Z")], "00" * 32
        )

    async def remove(self, request: s.PeerRequest) -> s.Removal:
        self._note("remove", request)
        return s.Removal("sho1x", [OTHER], [])

    async def leave(self, request: s.Nothing) -> s.Left:
        self._note("leave", request)
        return s.Left("sho1y")

    async def ping(self, request: s.PeerRequest) -> s.Ping:
        self._note("ping", request)
        return s.Ping(
            peer_id=OTHER,
            name="bert",
            state="connected",
            path="direct",
            address="127.0.0.1:4001",
            rtt_ms=0.4,
            why="it was dialled",
        )

    async def share(self, request: s.ShareRequest) -> s.Share:
        self._note("share", request)
        return s.Share(LINK, SHARE, False, None, None, None)

    async def share_state(self, request: s.ShareWaitRequest) -> s.ShareDetail:
        self._note("share_state", request)
        self.steps -= 1
        complete = self.steps <= 0
        return self._detail(complete)

    def _detail(self, complete: bool) -> s.ShareDetail:
        return s.ShareDetail(
            link=LINK,
            share_id=SHARE,
            complete=complete,
            content_id="shc1x" if complete else None,
            files=2 if complete else None,
            bytes=100 if complete else None,
            name="photos",
            paths=["/home/anna/photos"],
            state="complete" if complete else "hashing",
            version=1,
            own=True,
            done_bytes=100 - self.steps,
            skipped=self.skipped,
            error=self.error,
        )

    async def shares(self, request: s.Nothing) -> s.Shares:
        self._note("shares", request)
        return s.Shares([self._detail(True)])

    async def unshare(self, request: s.UnshareRequest) -> s.Unshared:
        self._note("unshare", request)
        return s.Unshared(SHARE, "photos")

    def _transfer(self, dest: str, error: s.ErrorBody | None = None) -> s.TransferDetail:
        done = self.steps <= 0
        result = s.GetResult(2, 100, 1.5, 90, 0, 10, False, self.skipped, {OTHER: 90}) if done else None
        return s.TransferDetail(
            id="t1",
            share_id=SHARE,
            state="done" if done else "fetching",
            bytes=100,
            done_bytes=100 - self.steps,
            rate_bytes_s=60.0,
            providers={OTHER: 90},
            name="photos",
            dest=dest,
            revision=10 - self.steps,
            note="",
            error=error,
            fault=None,
            result=result,
        )

    async def get(self, request: s.GetRequest) -> s.TransferDetail:
        self._note("get", request)
        return self._transfer(str(request.dest))

    async def ls(self, request: c.ListRequest) -> c.ListPage:
        self._note("ls", request)
        entries = [
            c.ListedEntry(
                path="photos", kind="folder", bytes=None, mtime="2026-11-22T10:58:00Z", mode="drwxr-xr-x"
            ),
            c.ListedEntry(
                path="photos/a\\x1b[2J",
                kind="file",
                bytes=2048,
                mtime="2026-11-22T10:58:00Z",
                mode="-rw-r--r--",
            ),
        ]
        return c.ListPage(
            share_id=SHARE,
            name="photos",
            version=1,
            content_id="shc1x",
            files=3,
            bytes=9,
            entries=entries,
            more=2,
        )

    async def share_stream(self, request: c.ShareStreamRequest, body: AsyncIterator[bytes]) -> s.Share:
        self._note("share_stream", request)
        async for piece in body:
            self.piped += piece
        return s.Share(LINK, SHARE, False, None, None, None)

    async def get_stream(self, request: c.GetStreamRequest) -> FakeStream:
        self._note("get_stream", request)
        return self.stream

    async def transfer(self, request: s.TransferRequest) -> s.TransferDetail:
        self._note("transfer", request)
        self.steps -= 1
        return self._transfer("/tmp", self.error)

    async def transfers(self, request: s.Nothing) -> s.Transfers:
        self._note("transfers", request)
        return s.Transfers([s.Transfer("t1", SHARE, "fetching", 100, 50, 10.0, {OTHER: 50})])

    async def control_transfer(self, request: s.TransferControlRequest) -> s.TransferDetail:
        self._note("control_transfer", request)
        return self._transfer("/tmp")

    async def limits(self, request: s.LimitsRequest) -> s.Limits:
        self._note("limits", request)
        unset = s.Limit(None, "default", "nothing is set")
        return s.Limits(
            upload=s.Limit(1_000_000, "schedule", "mon-fri 08:00-18:00"),
            download=unset,
            peers=[s.PeerLimits(OTHER, "bert\x1b[2J", s.Limit(500_000, "command", "by hand"), unset)],
            changes_at="mon 18:00",
            sent_bytes=1,
            received_bytes=2,
        )

    async def settings(self, request: s.Nothing) -> s.NodeSettings:
        self._note("settings", request)
        return s.NodeSettings(
            [s.Setting("listen", ["127.0.0.1:7000"], "flag"), s.Setting("lan", True, "file")]
        )

    async def diagnose(self, request: s.Nothing) -> s.Report:
        self._note("diagnose", request)
        return s.Report(checks=[s.Check("sessions", "ok", "2 of 2 peers")])

    async def down(self, request: s.Nothing) -> s.Stopping:
        self._note("down", request)
        return s.Stopping(2**22 + 1)  # beyond the highest pid: gone already


@contextmanager
def serve(home: str) -> Iterator[FakeNode]:
    """Serve a fake node at a home's socket, on a thread of its own; the home is made."""
    from shoal.storage.home import Home, find_socket_path

    Home.open(home, create=True).close()
    ready = threading.Event()
    stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
    node: list[FakeNode] = []

    async def run() -> None:
        stopping = asyncio.Event()
        stop.append((asyncio.get_running_loop(), stopping))
        node.append(FakeNode())
        async with Supervisor() as supervisor:
            server = ApiServer(node[0], find_socket_path(home))
            supervisor.start("api", server.run)
            await server.wait_started()
            ready.set()
            await stopping.wait()
            server.stop()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    if not ready.wait(10):
        raise AssertionError("the fake node did not start")
    try:
        yield node[0]
    finally:
        loop, stopping = stop[0]
        loop.call_soon_threadsafe(stopping.set)
        thread.join(10)


FAULTS: tuple[tuple[ShoalError, int], ...] = (
    (Refused("r", cause="c", next_step="n"), 4),
    (Unavailable("u", cause="c", next_step="n"), 5),
    (StorageFault("s", cause="c", next_step="n"), 6),
    (RemoteFault("f", cause="c", next_step="n"), 7),
)
