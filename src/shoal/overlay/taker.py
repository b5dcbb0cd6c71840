"""Taker: gives the broadcasts of one topic to the mesh machine, which judges them too."""

from __future__ import annotations

from collections.abc import Callable

from shoal.overlay.mesh import MeshMachine
from shoal.overlay.steps import Delivered, Input
from shoal.overlay.substrate.plumtree import Verdict


class Taker:
    """Handler of one topic; see `substrate.service.TopicHandler`."""

    def __init__(self, machine: MeshMachine, step: Callable[[Input], None], topic: int) -> None:
        self._machine = machine
        self._step = step
        self._topic = topic

    def judge(self, payload: bytes) -> Verdict:
        """By the item's own signature, and whether something newer of its signer is here."""
        return self._machine.judge(self._topic, payload)

    def find_author(self, payload: bytes) -> bytes | None:
        """Who signed it."""
        return self._machine.find_author(self._topic, payload)

    def deliver(self, payload: bytes, sender: bytes) -> None:
        """Give it to the machine."""
        self._step(Delivered(self._topic, payload, sender))
