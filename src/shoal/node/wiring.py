"""Wiring: makes the parts of a node and ties them together; nothing runs yet.

What must be dispatched upwards is registered here: services with the transport, who drops what when a device
is out, where addresses that were found go.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from shoal.apps.files.pins import PinKeeper
from shoal.apps.files.ports import FileStores
from shoal.apps.files.service import Files
from shoal.identity.keys import DeviceKeys
from shoal.identity.operations import Role
from shoal.membership.code_door import CodeDoor, answer_joins
from shoal.membership.events import InviteUsed, MembershipChanged
from shoal.membership.inviter import Inviter
from shoal.membership.network import Network
from shoal.membership.network import Stores as MembershipStores
from shoal.membership.service import MembershipService
from shoal.node.config import NodeConfig
from shoal.node.limit_rules import LimitRules
from shoal.node.limiter import Limiter
from shoal.node.parts import Base, Parts
from shoal.overlay.service import OverlayService
from shoal.storage.home import Home
from shoal.storage.store import Store
from shoal.storage.stores import Stores
from shoal.swarm.service import SwarmService
from shoal.transport.address import Address
from shoal.transport.config import TransportConfig
from shoal.transport.lane_broker import LaneBroker
from shoal.transport.reach.guests import GuestPort
from shoal.transport.reach.mapper import Mapper
from shoal.transport.reach.relay import Relay
from shoal.transport.reach.service import ReachService
from shoal.transport.reach.standing import UNDIALLED
from shoal.transport.transport import Transport

if TYPE_CHECKING:
    from shoal.transport.discovery import Discovery


def wire(
    base: Base,
    config: NodeConfig,
    home: Home,
    keys: DeviceKeys,
    stores: Stores,
    network_id: bytes,
    listen: list[Address],
) -> Parts:
    """Make all parts of a node for one network."""
    clock, supervisor, observe = base.clock, base.supervisor, base.observe
    network = Network(
        network_id,
        keys,
        MembershipStores(stores.entries, stores.secrets, stores.invites),
        clock=clock,
        supervisor=supervisor,
        observe=observe,
        events=base.events,
    )
    transport = Transport(
        TransportConfig(keys=keys, network_id=network_id, listen=listen),
        network,
        supervisor,
        clock,
        observe,
        base.rng,
    )
    lanes = LaneBroker(
        transport,
        own_id=keys.peer_id,
        network_id=network_id,
        supervisor=supervisor,
        monotonic=clock.monotonic,
        observe=observe,
        memory_bytes=config.limits.memory_bytes,
    )
    transport.attach_lanes(lanes)
    overlay = OverlayService(
        transport,
        network,
        stores.peers,
        keys=keys,
        network_id=network_id,
        name=lambda: _own_name(network, config),
        supervisor=supervisor,
        clock=clock,
        observe=observe,
        rng=base.rng,
        mesh_members=config.mesh_members,
        is_busy=lanes.has_lanes,
        relays=config.relay,
    )
    membership = MembershipService(network, transport, overlay, supervisor, clock, observe)
    reach = ReachService(
        transport,
        own_id=keys.peer_id,
        relay=Relay(transport, config.relay_limits, supervisor, clock.monotonic, observe)
        if config.relay
        else None,
        is_member=network.is_active,
        addresses_of=overlay.direct_addresses,
        relays_of=overlay.relays_of,
        own_addresses=overlay.own_addresses,
        on_standing=overlay.outer_changed,
        supervisor=supervisor,
        monotonic=clock.monotonic,
        observe=observe,
        rng=base.rng,
        guests=GuestPort(
            may_invite=lambda peer: network.role_of(peer) in (Role.OWNER, Role.ADMIN),
            log_bytes=lambda: sum(len(entry.data) for entry in network.log.entries()),
            passes_for=lambda relay: network.invites.guest_passes(network_id, relay),
            find_relays=overlay.find_relays,
        ),
    )
    base.events.on(InviteUsed, lambda event: reach.guests.invites_changed())
    transport.attach_reach(reach)
    mapper = Mapper(lambda: _find_port(transport), overlay.outer_changed) if config.upnp else None
    _tell_outer(overlay, reach, mapper)
    base.events.on(MembershipChanged, lambda event: overlay.members_changed())
    assert network.enforcer is not None  # MembershipService has set it
    network.enforcer.on_ended(overlay.drop)
    network.enforcer.on_ended(reach.drop)
    swarm = SwarmService(
        own_id=keys.peer_id,
        network_id=network_id,
        find_session=overlay.find_session,
        role_of=network.role_of,
        supervisor=supervisor,
        clock=clock,
        observe=observe,
        rng=base.rng,
    )
    for service in (membership, overlay, swarm, reach):
        transport.register(service)
    transport.on_join = answer_joins(Inviter(network, clock, observe), CodeDoor(network, clock, observe))
    store = Store(stores.database, home.store_path, quota_bytes=config.store_quota_bytes)
    files = Files(
        network=network,
        swarm=swarm,
        overlay=overlay,
        stores=FileStores(stores.entries, stores.objects, stores.shares, stores.transfers),
        home=os.fsencode(home.path),
        supervisor=supervisor,
        clock=clock,
    )
    rules = LimitRules(config.limits, config.schedule)
    limiter = Limiter(rules, swarm, stores.values, lambda: network.state.members, clock, supervisor)
    discovery = _make_discovery(base, config, network, transport, overlay) if config.lan else None
    return Parts(
        base=base,
        stores=stores,
        store=store,
        network=network,
        transport=transport,
        lanes=lanes,
        membership=membership,
        overlay=overlay,
        swarm=swarm,
        files=files,
        pins=PinKeeper(files.context, store, stores.pins, files.share_turn),
        limiter=limiter,
        reach=reach,
        mapper=mapper,
        discovery=discovery,
    )


def _own_name(network: Network, config: NodeConfig) -> str:
    """Return the name under which this device was admitted; before that the one it wants."""
    member = network.state.members.get(network.own_id)
    return member.name if member is not None else config.name


def _find_port(transport: Transport) -> int:
    """Return the port that others can dial; 0 where only loopback listens, which nobody else can reach."""
    return next((a.port for a in transport.listen_addresses if not a.is_loopback), 0)


def _tell_outer(overlay: OverlayService, reach: ReachService, mapper: Mapper | None) -> None:
    """Put what a router leads here into our record, and look for it anew when the network changed."""

    def find_outer() -> list[str]:
        mapped = [str(mapper.address)] if mapper is not None and mapper.address is not None else []
        return [*mapped, *reach.prober.reached_addresses()]

    def on_network_changed() -> None:
        reach.network_changed()
        if mapper is not None:
            mapper.network_changed()

    overlay.outer_addresses = find_outer
    overlay.set_needs_relay(lambda: reach.prober.standing().state in UNDIALLED, reach.check_relay)
    overlay.on_network_changed = on_network_changed


def _make_discovery(
    base: Base, config: NodeConfig, network: Network, transport: Transport, overlay: OverlayService
) -> Discovery:
    from shoal.transport.discovery import Discovery  # zeroconf takes a while to import: only where it is used

    return Discovery(
        own_id=network.own_id,
        port=lambda: _find_port(transport),
        door_keys=network.door_keys,
        members=network.active_members,
        on_found=lambda peer, address: overlay.add_contact(peer, [str(address)]),
        supervisor=base.supervisor,
        clock=base.clock,
        observe=base.observe,
        interfaces=config.interfaces or None,
    )
