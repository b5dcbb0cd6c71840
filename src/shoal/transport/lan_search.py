"""LAN search: the addresses of all Shoal nodes on this network, for a joiner to ask one after the other.

A joiner has no door key, so it cannot recognise anybody; it asks everybody who announces, and only who has an
invite with its nameplate answers. It announces nothing itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Sequence

from shoal.core.errors import Unavailable
from shoal.transport.address import Address
from shoal.transport.announcement import parse_announcement
from shoal.transport.interfaces import list_interface_addresses
from shoal.transport.lan_link import LanLink, believe_addresses, can_bind, find_links
from shoal.transport.multicast import Heard, LinkVoice

log = logging.getLogger("shoal.discovery")

INSTANCES = 64  # of which addresses are taken
ADDRESSES_TAKEN = 2  # of one instance: usually IPv4 and IPv6 of the same device
DIALS_S = 1.0  # security.md section 2: 1 dial a second
LISTEN_S = 15.0  # for more after the start; a question is asked again meanwhile
ASK_AGAIN_S = (1.0, 3.0, 8.0)  # after the start; answers of a busy Wi-Fi may be lost
SEARCH_LIMIT_S = 90.0


class LanSearch:
    """What is heard while one join looks for its inviter. Bounded: INSTANCES, SEARCH_LIMIT_S."""

    def __init__(self, interfaces: Sequence[str] | None) -> None:
        self._interfaces = interfaces
        self._heard: set[tuple[str, str]] = set()  # link and name of an instance
        self._first: deque[Address] = deque()
        self._second: deque[Address] = deque()  # asked when no first one is left
        self._known: set[Address] = set()
        self._news = asyncio.Event()

    async def find(self) -> AsyncGenerator[Address, None]:
        """Yield each address once, at most one a second; end when nothing new has come for LISTEN_S.

        Close the generator to stop. Links that cannot be used are left out.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        voices = await self._open()
        asks = [started + after for after in ASK_AGAIN_S]
        last_dial = started - DIALS_S
        listen_until = started + LISTEN_S
        try:
            while (now := loop.time()) < started + SEARCH_LIMIT_S:
                while asks and asks[0] <= now:
                    asks.pop(0)
                    for voice in voices:
                        voice.ask()
                queue = self._first or self._second
                if queue and now >= last_dial + DIALS_S:
                    last_dial = now
                    yield queue.popleft()
                    listen_until = max(listen_until, loop.time() + DIALS_S)
                    continue
                if not queue and now >= listen_until:
                    return
                wake = min([last_dial + DIALS_S if queue else listen_until, *asks[:1]])
                await self._wait(max(0.0, wake - now))
        finally:
            await asyncio.gather(*(voice.close(goodbye=False) for voice in voices))

    async def _wait(self, timeout_s: float) -> None:
        self._news.clear()
        try:
            await asyncio.wait_for(self._news.wait(), timeout_s)
        except TimeoutError:
            return

    async def _open(self) -> list[LinkVoice]:
        voices: list[LinkVoice] = []
        for link in find_links(list_interface_addresses(), self._interfaces, can_bind):
            voice = LinkVoice(link, self._on_heard)
            try:
                await voice.open(None)
            except Unavailable as error:
                log.warning("%s", error)
                continue
            voices.append(voice)
        return voices

    def _on_heard(self, link: LanLink, heard: Heard) -> None:
        instance = (link.name, heard.name)
        if parse_announcement(heard.text, heard.port) is None:
            return
        if instance in self._heard or len(self._heard) >= INSTANCES:
            return
        found = [a for a in believe_addresses(link, heard.addresses, heard.port, 0) if a not in self._known]
        if not found:
            return
        self._heard.add(instance)
        self._known.update(found[:ADDRESSES_TAKEN])
        self._first.append(found[0])
        self._second.extend(found[1:ADDRESSES_TAKEN])
        self._news.set()
