"""Multicast: multicast DNS on one link, so that nothing of one network is shown on another.

One zeroconf instance a link: it has sockets of its own there, announces only that link's addresses, under
names that are random each time. What it hears goes up as raw fields; nothing heard is trusted here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from zeroconf import (  # type: ignore[attr-defined]  # the DNS classes are there, outside of __all__
    DNSAddress,
    DNSOutgoing,
    DNSPointer,
    DNSQuestion,
    DNSService,
    DNSText,
    Error,
    IPVersion,
    RecordUpdate,
    RecordUpdateListener,
    ServiceInfo,
    Zeroconf,
    current_time_millis,
)
from zeroconf.asyncio import AsyncZeroconf

from shoal.core.errors import Unavailable
from shoal.core.undo import async_undone_on_failure
from shoal.transport.announcement import NAME_BYTES, SERVICE_TYPE, Announcement, is_instance_name
from shoal.transport.lan_link import LanLink

OPEN_TIMEOUT_S = 5.0  # local sockets only: it takes milliseconds
GOODBYE_TIMEOUT_S = 0.6  # three packets, 0.125 s apart
TTL_S = 4500  # of the records that are not about a host; RFC 6762, section 10
HOST_TTL_S = 120
KNOWN_ANSWERS = 32  # names in a question; they keep it in one packet
RECORDS = 256  # looked at in one packet, which has at most 9,000 bytes
_TYPE_PTR = 12
_CLASS_IN = 1
_FLAGS_QUERY = 0


class Heard(NamedTuple):
    """The fields of one answer of our service type, all out of one packet."""

    name: str
    text: bytes
    port: int
    addresses: tuple[bytes, ...]


class LinkVoice(RecordUpdateListener):
    """Speaks and listens on one link between `open` and `close`. `on_heard` is called on the loop thread."""

    def __init__(self, link: LanLink, on_heard: Callable[[LanLink, Heard], None]) -> None:
        super().__init__()
        self.link = link
        self._on_heard = on_heard
        self._name = f"{secrets.token_hex(NAME_BYTES)}.{SERVICE_TYPE}"
        self._zeroconf: AsyncZeroconf | None = None

    async def open(self, announcement: Announcement | None) -> None:
        """Begin to listen, and to announce if there is something to announce; ask who is there.

        Cancelling is safe: nothing stays open. Raises: Unavailable when the link cannot be used.
        """
        try:
            async with (
                async_undone_on_failure(partial(self.close, goodbye=False)),
                asyncio.timeout(OPEN_TIMEOUT_S),
            ):
                await self._open(announcement)
        except (OSError, RuntimeError, Error) as error:  # TimeoutError is an OSError
            raise Unavailable(
                f"{self.link.name} cannot be used to find members", cause=f"{type(error).__name__}: {error}"
            ) from error

    def ask(self, known: Iterable[str] = ()) -> None:
        """Ask who is there; instances named in `known` (at most KNOWN_ANSWERS) need not answer."""
        if self._zeroconf is None:
            return
        question = DNSOutgoing(_FLAGS_QUERY)
        question.add_question(DNSQuestion(SERVICE_TYPE, _TYPE_PTR, _CLASS_IN))
        for _, name in zip(range(KNOWN_ANSWERS), known, strict=False):
            pointer = DNSPointer(SERVICE_TYPE, _TYPE_PTR, _CLASS_IN, TTL_S, name)
            question.add_answer_at_time(pointer, current_time_millis())
        self._zeroconf.zeroconf.async_send(question)

    async def close(self, goodbye: bool = True) -> None:
        """Stop; with `goodbye` (about 0.3 s) others are told. Idempotent, bounded by GOODBYE_TIMEOUT_S."""
        opened, self._zeroconf = self._zeroconf, None
        if opened is None:
            return
        try:
            if goodbye:
                async with asyncio.timeout(GOODBYE_TIMEOUT_S):
                    await opened.async_unregister_all_services()
        except TimeoutError:
            pass
        finally:
            registry = opened.zeroconf.registry
            registry.async_remove(registry.async_get_service_infos())
            await opened.async_close()

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        """Collect the answers in one packet. Called by zeroconf; most packets are not about us."""
        texts: dict[str, bytes] = {}
        services: dict[str, DNSService] = {}
        hosts: dict[str, list[bytes]] = {}
        for update in records[:RECORDS]:
            record = update.new
            if record.ttl == 0:
                continue  # a goodbye
            if isinstance(record, DNSText):
                texts[record.name.lower()] = record.text
            elif isinstance(record, DNSService):
                services[record.name.lower()] = record
            elif isinstance(record, DNSAddress):
                hosts.setdefault(record.name.lower(), []).append(record.address)
        for name, text in texts.items():
            service = services.get(name)
            if service is None or not is_instance_name(name) or name == self._name:
                continue
            addresses = hosts.get(service.server.lower(), [])
            self._on_heard(self.link, Heard(name, text, service.port, tuple(addresses)))

    async def _open(self, announcement: Announcement | None) -> None:
        versions = {6 if isinstance(name, int) or ":" in name else 4 for name in self.link.multicast}
        chosen = {frozenset({4}): IPVersion.V4Only, frozenset({6}): IPVersion.V6Only}
        opened = AsyncZeroconf(
            interfaces=list(self.link.multicast), ip_version=chosen.get(frozenset(versions), IPVersion.All)
        )
        self._zeroconf = opened
        await opened.zeroconf.async_wait_for_start()
        engine = opened.zeroconf.engine
        if not engine.senders:
            raise OSError("no group could be joined")
        for reader in engine.readers:
            _keep_to_link(reader.fileno, self.link.name)
        opened.zeroconf.async_add_listener(self, None)
        if announcement is not None:
            # names are random: there is nothing to probe for
            await opened.async_register_service(self._describe(announcement), cooperating_responders=True)
        self.ask()

    def _describe(self, announcement: Announcement) -> ServiceInfo:
        return ServiceInfo(
            SERVICE_TYPE,
            self._name,
            addresses=self.link.packed,
            port=announcement.port,
            properties=announcement.text,
            server=f"{secrets.token_hex(NAME_BYTES)}.local.",
            host_ttl=HOST_TTL_S,
            other_ttl=TTL_S,
        )


def _keep_to_link(fileno: int, interface: str) -> None:
    """Let a socket hear and speak on one interface only.

    Linux gives packets for a group to sockets that joined it on any interface (IPv6), or did not join at all
    (IPv4). And of sockets with SO_REUSEPORT, which zeroconf sets and which matters only for binding, Linux
    6.18 picks any for a multicast packet that is right for exactly one: half of them would be lost (tried).
    """
    if sys.platform != "linux":
        return
    with socket.socket(fileno=os.dup(fileno)) as copy:
        copy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
        with contextlib.suppress(PermissionError):  # before Linux 5.7 it needs root
            copy.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
