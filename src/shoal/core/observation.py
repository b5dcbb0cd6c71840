"""Observation: something a peer or an address did that a person or a detector may want to know.

Every layer reports what it saw; nobody below `guard` judges it. Until there is a guard the node logs them,
at most one line a second for each (rule, subject), then a counted summary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from shoal.core.budget import BoundedMap

SUBJECT_LIMIT = 4096
LINE_INTERVAL_S = 1.0  # security.md section 3


@dataclass(frozen=True, slots=True)
class Observation:
    """One thing seen. `rule` is a stable word; `subject` a peer id or an address; `detail` is for people."""

    rule: str
    subject: str
    detail: str = ""


class Observer(Protocol):
    """Where observations go."""

    def __call__(self, observation: Observation) -> None: ...


@dataclass
class _Line:
    at: float
    suppressed: int = 0


@dataclass
class ObservationLog:
    """Writes observations to the log, rate-limited; keeps counts by rule for `status`."""

    monotonic: Callable[[], float]
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("shoal.observed"))

    def __post_init__(self) -> None:
        self._lines: BoundedMap[tuple[str, str], _Line] = BoundedMap(SUBJECT_LIMIT)
        self.counts: dict[str, int] = {}  # keyed by our own rule words, so bounded by the source code

    def __call__(self, observation: Observation) -> None:
        now = self.monotonic()
        self.counts[observation.rule] = self.counts.get(observation.rule, 0) + 1
        key = (observation.rule, observation.subject)
        line = self._lines.find(key)
        if line is not None and now - line.at < LINE_INTERVAL_S:
            line.suppressed += 1
            return
        more = f" (+{line.suppressed} like it)" if line is not None and line.suppressed else ""
        self._lines.put(key, _Line(now))
        self.log.warning("%s %s %s%s", observation.rule, observation.subject, observation.detail, more)
