"""Removal: what ends, who is counted, how long is waited."""

from __future__ import annotations

import asyncio

from shoal.membership.removal import WAITED_REMOVALS, Confirmations, Enforcer

ANN, BOB = b"a" * 32, b"b" * 32


class Closer:
    """Writes down what is closed."""

    def __init__(self) -> None:
        self.closed: list[tuple[bytes | None, str]] = []

    def close_peer(self, peer_id: bytes, reason: str) -> None:
        self.closed.append((peer_id, reason))

    def close_all(self, reason: str) -> None:
        self.closed.append((None, reason))


def test_sessions_end_before_anybody_else_is_told() -> None:
    closer = Closer()
    enforcer = Enforcer(closer)
    seen: list[int] = []
    enforcer.on_ended(lambda peer: seen.append(len(closer.closed)))
    enforcer.end(ANN, "removed")
    enforcer.end_all("blocked")
    assert closer.closed == [(ANN, "removed"), (None, "blocked")]
    assert seen == [1]


async def test_waiting_ends_when_all_who_are_connected_have_confirmed() -> None:
    confirmations = Confirmations()
    confirmations.expect(b"op")
    connected = {ANN, BOB}
    waiting = asyncio.ensure_future(confirmations.wait(b"op", lambda: connected))
    assert confirmations.on_ack(b"op", ANN)
    done, _ = await asyncio.wait([waiting], timeout=0.01)
    assert not done
    connected.discard(BOB)  # its session ended: nothing to wait for
    confirmations.wake()
    assert await waiting == {ANN}
    assert confirmations.on_ack(b"op", BOB)  # later is counted all the same
    assert confirmations.confirmed(b"op") == {ANN, BOB}


async def test_waiting_has_an_end() -> None:
    confirmations = Confirmations()
    confirmations.expect(b"op")
    assert await confirmations.wait(b"op", lambda: {ANN}, timeout_s=0.01) == set()


def test_acknowledgements_of_what_nobody_waits_for_are_not_kept() -> None:
    confirmations = Confirmations()
    assert not confirmations.on_ack(b"?" * 32, ANN)
    for n in range(WAITED_REMOVALS + 1):
        confirmations.expect(n.to_bytes(32, "big"))
    assert not confirmations.on_ack(bytes(32), ANN)  # the oldest was forgotten
    assert len(confirmations._changed) == WAITED_REMOVALS
