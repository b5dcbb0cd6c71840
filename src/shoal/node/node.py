"""Node: one device of one network, from its home up to its API. The composition root.

async with Node(load_config(home)) as node:
    await node.wait_stopped()
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from types import TracebackType

from shoal.api.http import ApiServer
from shoal.api.schema import Status
from shoal.core.clock import Clock, SystemClock
from shoal.core.errors import Unavailable
from shoal.core.events import EventBus
from shoal.core.observation import ObservationLog
from shoal.core.supervisor import Restart, Supervisor
from shoal.identity import keystore
from shoal.identity.code import TypedCode
from shoal.identity.keystore import Keystore
from shoal.identity.ticket import Ticket
from shoal.membership import network as membership_network
from shoal.membership.founding import found_network
from shoal.node.answers import Answers
from shoal.node.config import NodeConfig
from shoal.node.journal import Journal
from shoal.node.listen import choose_listen, pack_addresses, unpack_addresses
from shoal.node.order import refuse_second_network
from shoal.node.parts import Base
from shoal.node.start import find_inviter, run_parts
from shoal.node.wiring import wire
from shoal.storage.database import Database
from shoal.storage.home import Home, find_network
from shoal.storage.stores import Stores, make_stores
from shoal.transport.address import Address

log = logging.getLogger("shoal.node")

NOTICE_S = 2.0  # how soon a terminal hears what its node has to say
LISTEN_VALUE = "listen"  # where this node listened last


class Node:
    """Runs one device. `async with` starts it and stops it; leaving takes at most 5 s.

    In a home without a network it makes one, or joins the one of `ticket`, or of the typed `code`, whose
    inviter it looks for on the LAN unless it is told `at` which address. `recovery_key` is set by the
    start that made a network, and kept nowhere. A home that the caller has opened is the caller's to close.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        home: Home | None = None,
        ticket: str | None = None,
        code: str | None = None,
        at: str | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.config = config
        self.recovery_key: str | None = None
        self._home = home
        self._ticket_text = ticket
        self._code_text = code
        self._at_text = at
        self._clock = clock or SystemClock()
        self._random = rng or random.Random(os.urandom(16))  # noqa: S311 - jitter and ties, not secrecy
        self._stack = AsyncExitStack()
        self._stopping = asyncio.Event()
        self._answers: Answers | None = None
        self._supervisor: Supervisor | None = None

    async def __aenter__(self) -> Node:
        """Start. Cancelling undoes what was started.

        Raises: ConfigFault, Refused (the home is in use, or has a network and there is a ticket),
        StorageFault, and for a ticket or code LocalMisuse, Refused, Unavailable, RemoteFault.
        """
        async with AsyncExitStack() as stack:
            await self._start(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        await self._stack.aclose()
        log.info("stopped")

    @property
    def api(self) -> Answers:
        """What can be asked, as the API asks it. Raises: Unavailable before the node is up."""
        if self._answers is None:
            raise Unavailable("The node cannot be asked", cause="it is not up", code="not_up")
        return self._answers

    async def status(self) -> Status:
        """Return the status; by the start that made a network, with its recovery key."""
        return await self.api.first_status()

    def request_stop(self) -> None:
        """Let `wait_stopped` return."""
        self._stopping.set()

    def watch_notices(self, tell: Callable[[str], None], said: str | None) -> None:
        """From now on tell each notice of the status that is another than the last one, which was `said`."""
        assert self._supervisor is not None
        self._supervisor.spawn("watch notices", self._watch_notices(tell, said))

    async def _watch_notices(self, tell: Callable[[str], None], last: str | None) -> None:
        while True:
            await asyncio.sleep(NOTICE_S)
            notice = (await self.status()).notice or None
            if notice is not None and notice != last:
                with suppress(OSError):  # the terminal may be gone
                    tell(notice)
            last = notice

    async def wait_stopped(self) -> None:
        """Wait until somebody wants the node to stop. Raises: the error of a part it cannot do without."""
        assert self._supervisor is not None
        failed = self._supervisor.failed
        assert failed is not None
        stopping = self._supervisor.spawn("wait for stop", self._stopping.wait())
        await asyncio.wait({stopping, failed}, return_when=asyncio.FIRST_COMPLETED)
        if failed.done():
            raise failed.result()

    async def _start(self, stack: AsyncExitStack) -> None:
        ticket = Ticket.parse(self._ticket_text) if self._ticket_text is not None else None
        code = TypedCode.parse(self._code_text) if self._code_text is not None else None
        at = Address.parse(self._at_text) if self._at_text is not None else None
        home = self._home or stack.enter_context(Home.open(self.config.home, create=True))
        network_id = find_network(home.path)
        if (ticket is not None or code is not None) and network_id is not None:
            raise refuse_second_network(home.path)
        keys = _open_keys(home.path, may_create=network_id is None)
        if code is not None:
            ticket = await find_inviter(keys.device, code, at, self.config, self._clock)
        database = Database(home.database_path)
        stack.push_async_callback(database.close)
        await _open(database)
        stores = make_stores(database, keys)
        supervisor = await stack.enter_async_context(Supervisor(self._random))
        self._supervisor = supervisor
        base = Base(self._clock, self._random, supervisor, EventBus(), ObservationLog(self._clock.monotonic))
        Journal(base.events).start()
        founds = network_id is None and ticket is None
        if founds:
            network_id = await self._found(keys, stores)
        if ticket is not None:
            network_id = ticket.network_id
        assert network_id is not None
        listened = await stores.values.find_value(LISTEN_VALUE)
        last = unpack_addresses(listened)
        is_default = self.config.origins.get("listen", "default") == "default"
        listen = choose_listen(self.config.listen_addresses, is_default, last)
        parts = wire(base, self.config, home, keys.device, stores, network_id, listen)
        await run_parts(stack, parts, self.config, home, ticket)
        listening = pack_addresses(parts.transport.listen_addresses)
        if listening != listened:
            await stores.values.put_value(LISTEN_VALUE, listening)
        answers = Answers(parts, self.config, self.recovery_key, self.request_stop)
        server = ApiServer(answers, home.prepare_socket())
        supervisor.start("api", server.run, Restart.FATAL)
        stack.callback(server.stop)
        await server.wait_started()
        if founds:
            # last of all: a start that fails before has no network, or its recovery key was never shown
            home.mark_network(network_id)
        self._answers = answers

    async def _found(self, keys: Keystore, stores: Stores) -> bytes:
        await stores.secrets.clear()  # of a start that failed before it marked the home
        network_id, self.recovery_key = await found_network(
            keys.device,
            membership_network.Stores(stores.entries, stores.secrets, stores.invites),
            self._clock,
            network_name=self.config.name,
            name=self.config.name,
            user=self.config.user,
        )
        return network_id


def _open_keys(home: str, may_create: bool) -> Keystore:
    if keystore.exists(home) or not may_create:
        return Keystore.load(home)
    return Keystore.create(home)


async def _open(database: Database) -> None:
    """Open a database; a cancelled start waits for its thread first, or the next start would meet it."""
    opening = asyncio.get_running_loop().run_in_executor(None, database.open_blocking)
    try:
        await asyncio.shield(opening)
    except asyncio.CancelledError:
        await asyncio.wait({opening})
        raise
