"""Discovery: finds members on the local network and lets them find us, showing nothing stable.

Follows the interfaces of this machine: a link that appears, goes or gets other addresses is noticed within a
few seconds and gets new random names. What does not work is observed and tried again; it stops no node.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shoal.core.clock import Clock
from shoal.core.errors import Unavailable
from shoal.core.observation import Observation, Observer
from shoal.core.supervisor import Supervisor
from shoal.transport.address import Address
from shoal.transport.announcement import (
    NONCE_BYTES,
    Announcement,
    make_announcement,
    parse_announcement,
)
from shoal.transport.interfaces import list_interface_addresses
from shoal.transport.lan_link import LanLink, believe_addresses, can_bind, find_links
from shoal.transport.multicast import KNOWN_ANSWERS, Heard, LinkVoice
from shoal.transport.sightings import Sighting, Sightings

log = logging.getLogger("shoal.discovery")

LOOK_S = 3.0  # how often interfaces, port, members and door keys are looked at
ASK_FIRST_S = 1.0  # a question is repeated after 1 s, 3 s, 9 s ...: RFC 6762 section 5.2
ASK_FACTOR = 3.0
ASK_LAST_S = 300.0  # RFC: up to an hour; known answers make ours cheap, and a Wi-Fi may lose many packets
RETRY_FIRST_S = 15.0  # a link that cannot be used, unless its addresses change
RETRY_LAST_S = 300.0
CLOSE_TIMEOUT_S = 1.0


@dataclass(slots=True)
class _Open:
    voice: LinkVoice
    ask_at: float
    ask_pause_s: float = ASK_FIRST_S


@dataclass(slots=True)
class _Failed:
    retry_at: float
    pause_s: float


class Discovery:
    """Announces this node on every link and reports each address of a member once.

    Expects to be started after the transport listens. `on_found` is called on the loop thread, at most once
    a second. `interfaces` names those to use; without it all but loopback. The node is announced while `port`
    is not 0 and there is a door key; it listens always. spec/discovery.md has the bytes.
    """

    def __init__(
        self,
        *,
        own_id: bytes,
        port: Callable[[], int],
        door_keys: Callable[[], list[bytes]],
        members: Callable[[], set[bytes]],
        on_found: Callable[[bytes, Address], None],
        supervisor: Supervisor,
        clock: Clock,
        observe: Observer,
        interfaces: Sequence[str] | None = None,
    ) -> None:
        self._own_id = own_id
        self._port = port
        self._door_keys = door_keys
        self._members = members
        self._on_found = on_found
        self._supervisor = supervisor
        self._clock = clock
        self._observe = observe
        self._interfaces = interfaces
        self._sightings = Sightings(own_id, clock.monotonic())
        self._open: dict[LanLink, _Open] = {}
        self._failed: dict[LanLink, _Failed] = {}
        self._announced: tuple[int, bytes] | None = None
        self._closing = asyncio.Event()
        self._offered = asyncio.Event()
        self._silent = asyncio.Event()
        self._silent.set()

    async def start(self) -> None:
        """Begin to announce and to listen, as two supervised services. Returns at once, never fails."""
        self._supervisor.start("LAN discovery", self._follow_links)
        self._supervisor.start("LAN recognition", self._recognise)

    async def close(self) -> None:
        """Say goodbye and stop, within CLOSE_TIMEOUT_S; idempotent. Nothing is reported afterwards."""
        self._closing.set()
        self._offered.set()
        try:
            await asyncio.wait_for(self._silent.wait(), CLOSE_TIMEOUT_S)
        except TimeoutError:
            log.warning("discovery did not say goodbye on every link within %s s", CLOSE_TIMEOUT_S)

    @property
    def links(self) -> list[LanLink]:
        """The links in use now, for people and tests."""
        return list(self._open)

    async def _follow_links(self) -> None:
        self._silent.clear()
        try:
            while not self._closing.is_set():
                self._sightings.update(self._members(), self._door_keys())
                self._offered.set()  # strangers may wait to be tried again
                await self._look()
                await _wait(self._closing, self._ask_all())
        finally:
            await self._close_links(list(self._open))
            self._silent.set()

    async def _look(self) -> None:
        """Open and close what has changed since the last look."""
        keys, port = self._door_keys(), self._port()
        announced = (port, keys[0]) if keys and 0 < port < 65536 else None
        links = find_links(list_interface_addresses(), self._interfaces, can_bind)
        if announced != self._announced:
            await self._close_links(list(self._open))
            self._announced = announced
        await self._close_links([link for link in self._open if link not in links])
        for link in [link for link in self._failed if link not in links]:
            del self._failed[link]
        now = self._clock.monotonic()
        for link in links:
            failed = self._failed.get(link)
            if link not in self._open and (failed is None or failed.retry_at <= now):
                await self._open_link(link)

    async def _open_link(self, link: LanLink) -> None:
        announcement: Announcement | None = None
        if self._announced is not None:
            port, door_key = self._announced
            nonce = secrets.token_bytes(NONCE_BYTES)
            announcement = make_announcement(door_key, nonce, port, self._own_id)
        voice = LinkVoice(link, self._on_heard)
        try:
            await voice.open(announcement)
        except Unavailable as error:
            failed = self._failed.get(link)
            pause_s = min(failed.pause_s * 2, RETRY_LAST_S) if failed is not None else RETRY_FIRST_S
            self._failed[link] = _Failed(self._clock.monotonic() + pause_s, pause_s)
            self._observe(Observation("lan_unusable", link.name, str(error)))
            return
        self._failed.pop(link, None)
        self._open[link] = _Open(voice, self._clock.monotonic() + ASK_FIRST_S)
        log.info("looking for members on %s", link.name)

    async def _close_links(self, links: list[LanLink]) -> None:
        """Close links side by side. The goodbye is worth its 0.3 s also where only addresses have changed."""
        opened = [self._open.pop(link) for link in links]
        for link in links:
            self._sightings.forget_link(link.name)
        await asyncio.gather(*(each.voice.close() for each in opened))

    def _ask_all(self) -> float:
        """Ask on each link where it is time to; return how long to wait."""
        now = self._clock.monotonic()
        wait_s = LOOK_S
        for link, each in self._open.items():
            if each.ask_at <= now:
                each.voice.ask(self._sightings.known_names(link.name, KNOWN_ANSWERS))
                each.ask_pause_s = min(each.ask_pause_s * ASK_FACTOR, ASK_LAST_S)
                each.ask_at = now + each.ask_pause_s
            wait_s = min(wait_s, each.ask_at - now)
        return wait_s

    def _on_heard(self, link: LanLink, heard: Heard) -> None:
        announcement = parse_announcement(heard.text, heard.port)
        if announcement is None or self._closing.is_set():
            return
        addresses = believe_addresses(link, heard.addresses, heard.port, self._port())
        sighting = Sighting(link.name, heard.name, announcement, addresses)
        if self._sightings.offer(self._clock.monotonic(), sighting):
            self._offered.set()
        else:
            self._observe(Observation("lan_flood", link.name, "more announcements than are looked at"))

    async def _recognise(self) -> None:
        """Try what was heard, slice by slice, and report who was found."""
        while not self._closing.is_set():
            self._offered.clear()
            now = self._clock.monotonic()
            found = self._sightings.take_found(now)
            if found is not None:
                log.info("found a member at %s", found.address)
                self._on_found(found.peer_id, found.address)
            waits = (self._sightings.work(now), self._sightings.found_wait_s(now))
            wait_s = min((wait for wait in waits if wait is not None), default=None)
            if wait_s:
                # what is offered meanwhile does not make tries or reports come sooner, but may be the first
                await _wait(self._offered, wait_s)
            elif wait_s is None:
                await self._offered.wait()
            else:
                await asyncio.sleep(0)


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    """Wait for an event, at most so long."""
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except TimeoutError:
        return
