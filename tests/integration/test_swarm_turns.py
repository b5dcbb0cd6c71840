"""Upload turns as the lanes' threads take them: what a lane does not need it does not keep."""

from __future__ import annotations

import asyncio
import threading

from shoal.swarm.serve import LaneSender
from shoal.swarm.turns import MANY
from shoal.swarm.upload_turns import LaneTurn, UploadTurns
from shoal.testing.lanes import make_lane_pair

A, B = b"a" * 32, b"b" * 32


def take_all(places: list[LaneTurn]) -> int:
    """Let every place take its turn, return how many had one within 5 s."""
    threads = [threading.Thread(target=place.take, daemon=True) for place in places]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5.0)
    had = sum(not thread.is_alive() for thread in threads)
    for place in places:
        place.close()
    return had


class Source:
    """Chunks of 1 KiB. While one is read an object is wanted; looking for that takes the other one back."""

    def __init__(self) -> None:
        self.sender: LaneSender | None = None

    def read_into(self, ordinal: int, buffer: memoryview) -> int:
        assert self.sender is not None
        self.sender.want_objects(0, [bytes(32)], self.find_object)
        buffer[:1024] = bytes(1024)
        return 1024

    def find_object(self, object_id: bytes) -> bytes | None:
        assert self.sender is not None
        self.sender.unwant(1, [1])
        return None

    def rest(self) -> None:
        pass


async def test_a_lane_whose_wants_were_taken_back_gives_its_turn_back() -> None:
    turns = UploadTurns(lambda: 0.0)  # no turn gets late
    place = turns.join(A)
    others = [turns.join(B) for _ in range(MANY)]
    ours, theirs = make_lane_pair()
    source = Source()
    sender = LaneSender(ours, asyncio.get_running_loop(), lambda _: None, lambda *_: None, turn=place)
    source.sender = sender
    sender.want(1, [0, 1], source)
    sender.start()
    try:
        await asyncio.to_thread(theirs.receive)  # chunk 0: the lane asks for its next turn, and has it
        await asyncio.to_thread(theirs.receive)  # the object, which is not there: now nothing is wanted
        assert await asyncio.to_thread(take_all, others) == MANY
    finally:
        sender.close()
        theirs.close()
        assert await asyncio.to_thread(sender.join, 5.0)
