"""Detector machine: the detector alone, over members that are told from outside. Pure (core.machine).

This is the world of the papers, in which everybody watches everybody; the node's substrate composes the same
detector with its views.
"""

from __future__ import annotations

from shoal.core.chance import Chance
from shoal.core.errors import LocalMisuse
from shoal.overlay.substrate.config import DetectorConfig
from shoal.overlay.substrate.detector import Detector, Roster
from shoal.overlay.substrate.messages import Probe, ProbeAnswer, ProbeFor, ProbeSilence
from shoal.overlay.substrate.steps import Effect, Input, Received, Started, Timer
from shoal.wire.codec import Message


def handle_message(detector: Detector, now: float, peer: bytes, message: Message, out: list[Effect]) -> None:
    """Give a message of the detector to it."""
    match message:
        case Probe():
            detector.on_probe(now, peer, message, out)
        case ProbeAnswer():
            detector.on_probe_answer(now, peer, message, out)
        case ProbeFor():
            detector.on_probe_for(now, peer, message, out)
        case ProbeSilence():
            detector.on_probe_silence(peer, message)
        case _:
            raise LocalMisuse(f"{type(message).__name__} is not for the detector")


def handle_timer(detector: Detector, now: float, token: tuple[object, ...], out: list[Effect]) -> None:
    """Give a timer of the detector to it."""
    match token:
        case ("probe",):
            detector.on_period(now, out)
        case ("probe late",):
            detector.on_late(now, out)
        case ("probe silence", int(number)):
            detector.on_silence_timer(number, out)
        case ("probe helped", int(number)):
            detector.on_helped_timer(number)
        case ("suspect", bytes(peer)):
            detector.on_suspect_timer(peer, out)
        case _:
            raise LocalMisuse(f"no timer has the token {token!r}")


class DetectorMachine:
    """A detector and nothing else."""

    __slots__ = ("detector",)

    def __init__(self, own: bytes, config: DetectorConfig, chance: Chance, roster: Roster) -> None:
        self.detector = Detector(own, config, chance, roster)

    def step(self, now: float, event: Input) -> list[Effect]:
        """Take one input, return what the driver must do, in order."""
        out: list[Effect] = []
        match event:
            case Received(peer, message):
                handle_message(self.detector, now, peer, message, out)
            case Timer(token):
                handle_timer(self.detector, now, token, out)
            case Started():
                self.detector.start(now, out)
            case _:
                pass  # it finds out by itself who is gone
        return out
