"""Lines: the uplink and the downlink of each node, first come, first served."""

from __future__ import annotations

from array import array

from shoal.sim.kernel import SECOND_US


class Lines:
    """All nodes have the same rates; what does not pass at once waits."""

    def __init__(self, count: int, up_bytes_s: float, down_bytes_s: float) -> None:
        self._up_us = SECOND_US / up_bytes_s  # of a byte
        self._down_us = SECOND_US / down_bytes_s
        self._up_free_us = array("Q", bytes(8 * count))
        self._down_free_us = array("Q", bytes(8 * count))

    def leave(self, index: int, at_us: int, size: int) -> int:
        """Return when a message is on its way that a node sends at a time."""
        self._up_free_us[index] = free = max(at_us, self._up_free_us[index]) + int(size * self._up_us)
        return free

    def enter(self, index: int, at_us: int, size: int) -> int:
        """Return when a message is there that reaches a node's downlink at a time."""
        self._down_free_us[index] = free = max(at_us, self._down_free_us[index]) + int(size * self._down_us)
        return free
