"""Code dial: the joiner's way to who may be the inviter of a typed code; no key is known yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from OpenSSL import SSL

from shoal.core.errors import Unavailable
from shoal.identity.keys import DeviceKeys
from shoal.transport.address import Address
from shoal.transport.channel import TlsChannel
from shoal.transport.channels import open_channel
from shoal.transport.config import AdmissionLimits
from shoal.transport.dialler import open_socket
from shoal.transport.frame_pipe import FramePipe
from shoal.transport.join_channel import JoinChannel
from shoal.transport.knock import KnockRefused, make_code_name
from shoal.transport.tls import TlsContexts


class CodeDialler:
    """Dials before there is a network, hence without a transport. Takes whatever Ed25519 key answers."""

    def __init__(self, keys: DeviceKeys, monotonic: Callable[[], float]) -> None:
        self._own_id = keys.peer_id
        self._tls = TlsContexts(keys, _refuse_knock)
        self._monotonic = monotonic
        self._limits = AdmissionLimits()

    async def dial_code(self, nameplate: int, address: Address, timeout_s: float) -> JoinChannel:
        """Return a channel to who answers for a nameplate there. Cancelling closes it.

        Raises: Unavailable, Refused (code `knock`: nobody answers for it there), RemoteFault.
        """
        alpn = make_code_name(nameplate)

        def make() -> TlsChannel:
            return TlsChannel(lambda _: self._tls.dial(None, alpn), False, self._monotonic, self._limits)

        try:
            async with asyncio.timeout(timeout_s):
                sock = await open_socket(address, timeout_s)
                channel = await open_channel(sock, make, None, alpn)
        except TimeoutError as error:
            raise Unavailable(
                f"{address} did not answer", cause=f"it had {timeout_s:g} s", code="timeout"
            ) from error
        return JoinChannel(FramePipe(channel), self._own_id, address, True, None)


def _refuse_knock(connection: SSL.Connection, names: list[bytes]) -> bytes:
    raise KnockRefused("this context only dials")
