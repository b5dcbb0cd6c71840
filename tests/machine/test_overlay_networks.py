"""Mesh machines as whole networks on a virtual clock: they meet, move, crash, tell and find."""

from __future__ import annotations

import pytest
from tests.support.mesh_world import MeshWorld, make_record

from shoal.overlay.steps import ContactFound, OwnRecord, Publish
from shoal.storage.peers import PeerRow

KEY, OTHER_KEY = b"k" * 32, b"o" * 32


def start_chain(world: MeshWorld) -> None:
    """Start all nodes; each knows only the address of the one before it, as after a row of joins."""
    for node in world.nodes:
        world.start(node)
    for before, node in zip(world.nodes, world.nodes[1:], strict=False):
        world.step(node, ContactFound(before.peer_id, (before.address,)))


@pytest.mark.parametrize("seed", range(5))
def test_a_chain_of_joins_becomes_a_full_mesh(seed: int) -> None:
    world = MeshWorld(12, seed)
    start_chain(world)
    assert world.run_until(world.is_full, 30.0) < 10.0


@pytest.mark.parametrize("seed", range(5))
def test_all_restart_elsewhere_except_one_and_find_each_other_through_it(seed: int) -> None:
    world = MeshWorld(8, seed)
    start_chain(world)
    world.run_until(world.is_full, 30.0)
    world.run(5.0)
    for node in world.nodes[1:]:
        world.stop(node)
    for number, node in enumerate(world.nodes[1:]):
        world.restart(node, f"198.51.100.{number + 1}:999")
    assert world.run_until(world.is_full, 60.0) < 20.0


@pytest.mark.parametrize("seed", range(5))
def test_all_move_at_once_but_not_at_the_same_moment(seed: int) -> None:
    world = MeshWorld(6, seed)
    start_chain(world)
    world.run_until(world.is_full, 30.0)
    for number, node in enumerate(world.nodes):
        world.move(node, f"198.51.100.{number + 1}:999")
        world.run(3.0)
    assert world.run_until(world.is_full, 60.0) < 20.0


def test_an_address_where_nothing_answers_delays_but_does_not_stop() -> None:
    world = MeshWorld(3)
    start_chain(world)
    world.run_until(world.is_full, 30.0)
    dead = world.nodes[2]
    world.stop(dead)
    world.unreachable.add(dead.address)
    world.run(200.0)
    world.restart(dead, "198.51.100.3:999")
    assert world.run_until(world.is_full, 60.0) < 10.0  # it dials the others itself


def test_a_dead_member_is_dialled_about_once_a_minute() -> None:
    world = MeshWorld(2)
    start_chain(world)
    world.run_until(world.is_full, 30.0)
    world.run(1.0)
    world.stop(world.nodes[1])
    world.run(120.0)
    world.nodes[0].dialled.clear()
    world.run(3600.0)
    assert 60 <= len(world.nodes[0].dialled) <= 125


def test_a_crash_that_lost_the_count_of_records_heals() -> None:
    world = MeshWorld(3)
    start_chain(world)
    world.run_until(world.is_full, 30.0)
    node = world.nodes[0]
    for _ in range(5):
        node.seq += 1
        world.step(node, OwnRecord(make_record(node.keys, node.seq, node.address)))
    world.run(3.0)
    world.stop(node)
    node.seq, node.rows = 0, {node.peer_id: PeerRow(node.peer_id)}  # the book was lost
    world.restart(node, "198.51.100.1:999")
    helper = world.nodes[1]
    world.step(node, ContactFound(helper.peer_id, (helper.address,)))  # LAN discovery
    world.run_until(world.is_full, 90.0)
    world.run(3.0)
    for other in world.nodes[1:]:
        assert "198.51.100.1:999" in other.machine.addresses(node.peer_id)


def test_published_keys_are_found_from_everywhere() -> None:
    world = MeshWorld(6)
    start_chain(world)
    world.run_until(world.is_full, 30.0)
    for node in world.nodes[:2]:
        world.step(node, Publish(KEY))
    world.run(1.0)
    expected = {node.peer_id for node in world.nodes[:2]}
    for node in world.nodes[2:]:
        assert set(world.locate(node, KEY).hits) == expected
        assert world.locate(node, OTHER_KEY).hits == []
    assert set(world.locate(world.nodes[0], KEY).hits) == expected - {world.nodes[0].peer_id}


def test_a_quiet_network_is_quiet() -> None:
    world = MeshWorld(10)
    start_chain(world)
    world.run_until(world.is_full, 30.0)
    world.run(10.0)
    before, heard = sum(node.sent for node in world.nodes), world.heard
    world.run(600.0)
    assert sum(node.sent for node in world.nodes) - before <= 10 * 600 / 45  # a digest a minute each
    assert world.heard == heard
    assert not [seen for node in world.nodes for seen in node.observed]
