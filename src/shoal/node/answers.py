"""Answers: what a running node replies to every operation of the API."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import msgspec

from shoal.api import schema as s
from shoal.identity.ids import format_network_id, format_peer_id
from shoal.node.answer_content import ContentAnswers
from shoal.node.answer_files import FileAnswers
from shoal.node.answer_follows import FollowAnswers
from shoal.node.answer_invites import InviteAnswers
from shoal.node.answer_limits import LimitAnswers
from shoal.node.answer_people import PeopleAnswers
from shoal.node.answer_pins import PinAnswers
from shoal.node.answer_store import StoreAnswers
from shoal.node.config import NodeConfig
from shoal.node.diagnosis import describe_denial, describe_reach, diagnose
from shoal.node.parts import Parts
from shoal.version import __version__

STOP_DELAY_S = 0.05  # after `down` is answered, so that the answer leaves first


class Answers(
    LimitAnswers,
    InviteAnswers,
    PeopleAnswers,
    FileAnswers,
    ContentAnswers,
    PinAnswers,
    StoreAnswers,
    FollowAnswers,
):
    """Implements `NodeApi`. Raises only `ShoalError`, apart from mistakes."""

    def __init__(
        self,
        parts: Parts,
        config: NodeConfig,
        recovery_key: str | None,
        request_stop: Callable[[], None],
    ) -> None:
        super().__init__(parts)
        FileAnswers.__init__(self, parts)
        PinAnswers.__init__(self, parts)
        StoreAnswers.__init__(self, parts)
        self._config = config
        self._recovery_key = recovery_key
        self._request_stop = request_stop

    async def status(self, request: s.Nothing) -> s.Status:
        """Say who this node is."""
        parts = self._parts
        network = parts.network
        own = network.state.members.get(network.own_id)
        return s.Status(
            peer_id=format_peer_id(network.own_id),
            network_id=format_network_id(network.network_id),
            name=own.name if own is not None else self._config.name,
            pid=os.getpid(),
            listen=[str(address) for address in parts.transport.listen_addresses],
            peers=len(parts.transport.sessions()),
            version=__version__,
            overlay=self._describe_overlay(),
            reach=self._find_reach() or msgspec.UNSET,
            relay=self._find_relay_use() or msgspec.UNSET,
            notice=self._find_notice() or msgspec.UNSET,
        )

    def _describe_overlay(self) -> s.Overlay:
        found = self._parts.overlay.substrate_status()
        return s.Overlay(
            mode="mesh" if found.mode == "mesh" else "views",
            neighbours=found.neighbours,
            active=found.active,
            passive=found.passive,
            size=found.size,
        )

    async def first_status(self) -> s.Status:
        """Return the status with the recovery key, if this start made the network. For the launcher only."""
        status = await self.status(s.Nothing())
        if self._recovery_key is None:
            return status
        return msgspec.structs.replace(status, recovery_key=self._recovery_key)

    async def settings(self, request: s.Nothing) -> s.NodeSettings:
        """Say what this node was started with."""
        config = self._config
        rows = [s.Setting(key, value, config.origins[key]) for key, value in config.settings().items()]
        return s.NodeSettings(rows)

    async def diagnose(self, request: s.Nothing) -> s.Report:
        """Say what only the running node knows."""
        return await diagnose(self._parts)

    async def down(self, request: s.Nothing) -> s.Stopping:
        """Stop the node as soon as this is answered."""
        asyncio.get_running_loop().call_later(STOP_DELAY_S, self._request_stop)
        return s.Stopping(os.getpid())

    def _find_reach(self) -> s.Reach | None:
        reach = describe_reach(self._parts)
        return None if reach.state == "unknown" and reach.mapped is None else reach

    def _find_relay_use(self) -> s.RelayUse | None:
        relay = self._parts.reach.relay
        if relay is None:
            return None
        status = relay.status()
        return s.RelayUse(
            streams=status.streams,
            streams_limit=status.limits.streams,
            day_bytes=status.day_bytes,
            day_limit_bytes=status.limits.day_bytes,
            rate_limit_bytes_s=status.limits.rate_bytes_s,
            refused=status.refused,
            guests=status.guests,
            guests_limit=status.limits.guests,
        )

    def _find_notice(self) -> str | None:
        network = self._parts.network
        if network.is_out:
            word = network.reason_of(network.own_id)
            return {
                "left": "this device has left the network; its home can be deleted",
                "removed": "this device was removed from the network; to come back: new home, new ticket",
            }.get(word, f"this device is no member any more: {word}")
        if network.is_blocked:
            return f"no sessions until shoal is upgraded: {network.state.blocked}"
        return describe_denial(self._parts) or self.find_code_notice()
