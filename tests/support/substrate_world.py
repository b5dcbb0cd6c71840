"""Substrate world: playbooks of the substrate's parts: what goes in, and what comes out."""

from __future__ import annotations

from typing import TypeVar

from shoal.core.chance import Chance
from shoal.overlay.substrate.config import SubstrateConfig
from shoal.overlay.substrate.machine import SubstrateMachine
from shoal.overlay.substrate.steps import Effect, Input, Received, Send, SetTimer, Started
from shoal.wire.codec import Message

T = TypeVar("T")
ME = b"\xff" * 32


def peer(number: int) -> bytes:
    """Return the id of a peer."""
    return number.to_bytes(32, "big")


class Playbook:
    """One machine on a clock of its own."""

    def __init__(self, config: SubstrateConfig | None = None, seed: int = 1) -> None:
        self.now = 100.0
        self.config = config or SubstrateConfig(detects=False, estimates=False)
        self.machine = SubstrateMachine(ME, self.config, Chance(seed))
        self.effects: list[Effect] = self.do(Started())

    def do(self, event: Input, wait_s: float = 0.0) -> list[Effect]:
        """Give an input; return and keep the effects."""
        self.now += wait_s
        self.effects = self.machine.step(self.now, event)
        return self.effects

    def get(self, sender: bytes, message: Message, wait_s: float = 0.0) -> list[Effect]:
        """Give a message."""
        return self.do(Received(sender, message), wait_s)

    def sent(self, receiver: bytes) -> list[Message]:
        """Return what the last effects send to a peer."""
        return [e.message for e in self.effects if isinstance(e, Send) and e.peer == receiver]

    def sent_to(self, kind: type[Message]) -> list[bytes]:
        """Return whom the last effects send a kind of message."""
        return [e.peer for e in self.effects if isinstance(e, Send) and isinstance(e.message, kind)]

    def of(self, kind: type[T]) -> list[T]:
        """Return the last effects of a kind."""
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def timer_in(self, *token: object) -> float | None:
        """Return in how many seconds a timer of the last effects is due."""
        found = [e.at - self.now for e in self.effects if isinstance(e, SetTimer) and e.token == token]
        return found[-1] if found else None
