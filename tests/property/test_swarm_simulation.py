"""Seeded simulations of whole swarms behind limited uplinks, against the bound that no method can beat."""

from __future__ import annotations

import pytest
from tests.support.swarm_world import SOURCE, World

RATE_BYTES_S = 9.56e6


@pytest.mark.parametrize("seed", range(3))
def test_a_provider_sends_about_one_copy_and_all_are_done_soon(seed: int) -> None:
    world = World(seed, total=400, getters=8, rate_bytes_s=RATE_BYTES_S)
    took_s = world.run(limit_s=80)
    sent = world.source.sent_bytes / world.size_bytes
    print(f"seed {seed}: ratio {took_s / world.bound_s:.3f}, the provider sent {sent:.2f} x the share")
    assert all(getter.done_at is not None for getter in world.getters)
    assert took_s <= 1.12 * world.bound_s
    assert sent <= 1.12


def test_without_claims_it_would_send_half_of_it_again() -> None:
    """The control of the test above."""
    world = World(0, total=400, getters=8, rate_bytes_s=RATE_BYTES_S, claims=False)
    assert world.run(limit_s=80) > 1.3 * world.bound_s


@pytest.mark.parametrize("getters", [2, 4])
def test_small_swarms_are_done_soon_too(getters: int) -> None:
    world = World(7, total=120, getters=getters, rate_bytes_s=RATE_BYTES_S)
    assert world.run(limit_s=60) <= 1.25 * world.bound_s


def test_getters_have_the_same_of_their_provider() -> None:
    world = World(5, total=2000, getters=3, rate_bytes_s=RATE_BYTES_S)
    world.run(limit_s=10.0)
    parts = [getter.received_bytes[SOURCE] for getter in world.getters]
    print(f"from the provider in 10 s: {parts}")
    assert max(parts) - min(parts) <= 0.1 * sum(parts) / len(parts)
