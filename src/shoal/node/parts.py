"""Parts: everything a running node is made of, put together by node.py and asked by the answers."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shoal.apps.files.pins import PinKeeper
from shoal.apps.files.service import Files
from shoal.core.clock import Clock
from shoal.core.events import EventBus
from shoal.core.observation import ObservationLog
from shoal.core.supervisor import Supervisor
from shoal.membership.network import Network
from shoal.membership.service import MembershipService
from shoal.node.limiter import Limiter
from shoal.overlay.service import OverlayService
from shoal.storage.store import Store
from shoal.storage.stores import Stores
from shoal.swarm.service import SwarmService
from shoal.transport.lane_broker import LaneBroker
from shoal.transport.reach.mapper import Mapper
from shoal.transport.reach.service import ReachService
from shoal.transport.transport import Transport

if TYPE_CHECKING:
    from shoal.transport.discovery import Discovery


@dataclass(frozen=True)
class Base:
    """What every part is given: time, chance, tasks, events, and where observations go."""

    clock: Clock
    rng: random.Random
    supervisor: Supervisor
    events: EventBus
    observe: ObservationLog


@dataclass(frozen=True)
class Parts:
    """A wired node. Built from the bottom up, closed from the top down."""

    base: Base
    stores: Stores
    store: Store
    network: Network
    transport: Transport
    lanes: LaneBroker
    membership: MembershipService
    overlay: OverlayService
    swarm: SwarmService
    files: Files
    pins: PinKeeper
    limiter: Limiter
    reach: ReachService
    mapper: Mapper | None
    discovery: Discovery | None

    @property
    def clock(self) -> Clock:
        """The node's clock."""
        return self.base.clock

    def own_addresses(self) -> list[str]:
        """Where this node can be reached, best first, as far as it knows: for tickets and its own record."""
        return self.overlay.own_addresses()
