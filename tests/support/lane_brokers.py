"""Two lane brokers joined by a session that is not one: requests are function calls, sockets are real."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from dataclasses import dataclass, field
from typing import Any

from shoal.core.errors import Unavailable
from shoal.core.observation import Observation
from shoal.core.supervisor import Supervisor
from shoal.transport.address import Address
from shoal.transport.lane import Lane
from shoal.transport.lane_broker import LaneBroker
from shoal.transport.ports import BaseService
from shoal.wire.codec import Message
from shoal.wire.registry import ServiceNumber

CLIENT, SERVER = b"C" * 32, b"S" * 32
NETWORK = b"N" * 32


class Taker(BaseService):
    """A service that takes every lane unless told otherwise."""

    number = ServiceNumber.SWARM

    def __init__(self) -> None:
        self.willing = True
        self.lanes: asyncio.Queue[tuple[Lane, bytes]] = asyncio.Queue()

    def may_open_lane(self, session: Any, purpose: bytes) -> bool:
        return self.willing

    def on_lane(self, session: Any, lane: Lane, purpose: bytes) -> None:
        self.lanes.put_nowait((lane, purpose))


@dataclass(eq=False)
class FakeSession:
    """One end of a session."""

    peer_id: bytes
    is_dialler: bool
    dial_address: Address | None
    settled: bool = True
    closed: bool = False
    secret: bytes = b"x" * 32
    other: FakeSession | None = None
    peer_broker: LaneBroker | None = None
    log: list[Message] = field(default_factory=list)

    def exporter(self, label: bytes, context: bytes, length: int) -> bytes:
        assert label == b"EXPORTER-shoal-lane/1"
        assert context == NETWORK
        return self.secret[:length]

    async def request(self, service: ServiceNumber, message: Message, timeout_s: float = 10) -> Message:
        assert service is ServiceNumber.SESSION
        assert self.other is not None
        assert self.peer_broker is not None
        self.log.append(message)
        return await self.peer_broker.on_request(self.other, message)  # type: ignore[arg-type]


class World:
    """A TLS client and a TLS server with a broker each; the server listens on loopback."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.now = time.monotonic
        self.seen: list[Observation] = []
        self.taker = {CLIENT: Taker(), SERVER: Taker()}
        self.client = self._make_broker(CLIENT)
        self.server = self._make_broker(SERVER)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.address = Address(*self._listener.getsockname()[:2])
        self.at_client = FakeSession(SERVER, True, self.address)
        self.at_server = FakeSession(CLIENT, False, None)
        self.at_client.other, self.at_client.peer_broker = self.at_server, self.server
        self.at_server.other, self.at_server.peer_broker = self.at_client, self.client
        self.answers: list[bool] = []
        self._task = supervisor.spawn("listen", self._listen())

    def _make_broker(self, own_id: bytes) -> LaneBroker:
        world = self

        class Host:
            def find_service(self, number: int) -> Any:
                return world.taker[own_id] if number == ServiceNumber.SWARM else None

            async def open_socket(
                self, address: Address, timeout_s: float, peer_id: bytes, fall_back: bool = False
            ) -> socket.socket:
                return await world.open_socket()

        return LaneBroker(
            Host(),
            own_id=own_id,
            network_id=NETWORK,
            supervisor=self.supervisor,
            monotonic=lambda: self.now(),
            observe=self.seen.append,
        )

    async def open_socket(self) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (self.address.host, self.address.port))
        except OSError as error:
            sock.close()
            raise Unavailable("not dialled", cause=str(error)) from error
        return sock

    async def dial_raw(self, data: bytes) -> socket.socket:
        """Connect as an attacker would and send bytes."""
        sock = await self.open_socket()
        await asyncio.get_running_loop().sock_sendall(sock, data)
        return sock

    async def wait_end(self, sock: socket.socket) -> bytes:
        """Return all that the other end sent before it closed."""
        data = b""
        with contextlib.suppress(ConnectionError):
            while part := await asyncio.get_running_loop().sock_recv(sock, 4096):
                data += part
        sock.close()
        return data

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self._listener)
            sock.setblocking(False)
            self.supervisor.spawn("accept", self._accept(sock))

    async def _accept(self, sock: socket.socket) -> None:
        preamble = b""
        while len(preamble) < LaneBroker.preamble_bytes:
            part = await asyncio.get_running_loop().sock_recv(sock, LaneBroker.preamble_bytes - len(preamble))
            if not part:
                break
            preamble += part
        taken = self.server.accept(sock, preamble, Address("127.0.0.1", 1))
        self.answers.append(taken)
        if not taken:
            sock.close()

    def close(self) -> None:
        self.client.close()
        self.server.close()
        self._task.cancel()
        self._listener.close()


@contextlib.asynccontextmanager
async def make_world() -> Any:
    """Yield a World; everything is closed and no slot is left taken at the end."""
    async with Supervisor() as supervisor:
        world = World(supervisor)
        try:
            yield world
        finally:
            world.close()
            for _ in range(3):
                await asyncio.sleep(0)
            world.close()


async def wait_until(condition: Any, timeout_s: float = 3.0) -> None:
    """Wait for a condition that other tasks or threads bring about."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)
