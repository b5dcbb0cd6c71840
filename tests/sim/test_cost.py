"""Cost: the simulator charges what the codec writes."""

from __future__ import annotations

import pytest
from tests.support.substrate_vectors import GOOD

from shoal.overlay.messages import OVERLAY_TABLE
from shoal.overlay.substrate.messages import NUMBERS
from shoal.sim.cost import OVERHEAD_BYTES, size_bytes
from shoal.wire.codec import Message

SENT = [
    message for message in GOOD if type(message) in NUMBERS.values()
]  # by the machines that are simulated
SLACK_BYTES = 12  # numbers take 1 to 5 bytes, and so do the headers of lists


def test_every_message_has_a_size() -> None:
    assert {type(message) for message in SENT} == set(NUMBERS.values())


@pytest.mark.parametrize("message", SENT, ids=lambda message: type(message).__name__)
def test_a_size_is_the_codecs_within_some_bytes(message: Message) -> None:
    _, payload = OVERLAY_TABLE.encode(message)
    guessed = size_bytes(message) - OVERHEAD_BYTES
    assert abs(guessed - len(payload)) <= max(SLACK_BYTES, len(payload) // 10)
