"""Progress: what a person sees while a share is read, or something is fetched.

On a terminal a bar with size, rate, time left and bytes by provider; elsewhere a plain line now and then;
with --json nothing at all. It goes to stderr: stdout is for results.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from shoal.api import pin_schema as p
from shoal.api import schema as s
from shoal.cli.face import Face, printable
from shoal.core.units import format_duration, format_size

LINE_INTERVAL_S = 5.0  # between plain lines
STATE_INTERVAL_S = 1.0  # between plain lines that tell of another state
PROVIDERS_SHOWN = 4
NAMES_INTERVAL_S = 5.0  # names are asked for again for a provider that is not known yet
RATE_WINDOW_S = 5.0  # a rate that is measured here is that of so long
RATE_SAMPLES = 256
LEFT_LIMIT_S = 100 * 3600.0  # more is no forecast

Names = Callable[[], dict[str, str]]


@dataclass(frozen=True)
class Step:
    """How far something is. `below`: what it waits for, or who gave how much."""

    word: str
    done_bytes: int
    total_bytes: int | None
    rate_bytes_s: float = 0.0
    below: str = ""

    @property
    def left(self) -> str:
        """Return the time left as text; empty where nothing can be said."""
        if self.total_bytes is None or self.rate_bytes_s <= 0:
            return ""
        left_s = (self.total_bytes - self.done_bytes) / self.rate_bytes_s
        return f"{format_duration(left_s)} left" if 0 < left_s <= LEFT_LIMIT_S else ""

    @property
    def size(self) -> str:
        """Return what is done, of how much."""
        total = f" of {format_size(self.total_bytes)}" if self.total_bytes else ""
        return f"{format_size(self.done_bytes)}{total}" if self.done_bytes or total else ""

    @property
    def rate(self) -> str:
        """Return the rate as text; empty while nothing moves."""
        return f"{format_size(self.rate_bytes_s)}/s" if self.rate_bytes_s >= 1 else ""

    def line(self) -> str:
        """Return it as a line."""
        facts = ", ".join(filter(None, (self.size, self.rate, self.left)))
        return "  ".join(filter(None, (f"{self.word} {facts}".rstrip(), self.below)))


class _Bar(Progress):
    """A bar with a line below it."""

    below = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        table = self.make_tasks_table(self.tasks)
        yield Group(table, Text(self.below, style="dim", no_wrap=True)) if self.below else table


@contextmanager
def transfer_progress(face: Face) -> Iterator[Callable[[s.TransferDetail], None]]:
    """Show a transfer; yields what has to be called with each of its states."""
    shown = _ProviderNames(lambda: member_names(face))
    with _show(face) as show:

        def draw(state: s.TransferDetail) -> None:
            if state.state in ("done", "failed", "paused", "cancelled"):
                return  # what comes now says it
            givers = sorted(state.providers.items(), key=lambda item: -item[1])[:PROVIDERS_SHOWN]
            below = state.note or "  ".join(f"{shown.find(peer)} {format_size(n)}" for peer, n in givers if n)
            show(Step(state.state, state.done_bytes, state.bytes, state.rate_bytes_s, below))

        yield draw if not face.json else lambda state: None


@contextmanager
def share_progress(face: Face) -> Iterator[Callable[[s.ShareDetail], None]]:
    """Show a share being read; yields what has to be called with each of its states."""
    rate = _Rate()
    with _show(face) as show:

        def draw(state: s.ShareDetail) -> None:
            waits = "" if state.done_bytes else "listing the files, or other shares are read first"
            show(Step("reading", state.done_bytes, state.bytes, rate.measure(state.done_bytes), waits))

        yield draw


@contextmanager
def pin_progress(face: Face) -> Iterator[Callable[[p.Pin], None]]:
    """Show a copy being made; yields what has to be called with each of its states."""
    rate = _Rate()
    with _show(face) as show:

        def draw(state: p.Pin) -> None:
            total = state.bytes if state.chunks else None
            show(Step(state.state, state.done_bytes, total, rate.measure(state.done_bytes), state.note))

        yield draw


def member_names(face: Face) -> dict[str, str]:
    """Return the members' names by peer id, for people."""
    with face.connect() as client:
        return {m.peer_id: printable(m.name) for m in client.members().members}


@contextmanager
def _show(face: Face) -> Iterator[Callable[[Step], None]]:
    """Yield what shows a step, in the way that fits where it goes."""
    if face.json:
        yield lambda step: None
    elif not sys.stderr.isatty():
        pace = _Pace()

        def tell(step: Step) -> None:
            if pace.is_due(step.word):
                face.tell(printable(step.line()))

        yield tell
    else:
        with _make_bar() as bar:
            task = bar.add_task("", total=None, rate="", size="", left="")

            def draw(step: Step) -> None:
                bar.below = f"  {printable(step.below)}" if step.below else ""
                bar.update(
                    task,
                    description=step.word,
                    completed=step.done_bytes,
                    total=step.total_bytes,
                    size=step.size,
                    rate=step.rate,
                    left=step.left,
                )

            yield draw


class _Rate:
    """Bytes a second of the last RATE_WINDOW_S, from what is done at each look."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=RATE_SAMPLES)

    def measure(self, done_bytes: int) -> float:
        now = time.monotonic()
        if self._samples and done_bytes < self._samples[-1][1]:
            self._samples.clear()  # it began anew
        self._samples.append((now, done_bytes))
        while now - self._samples[0][0] > RATE_WINDOW_S and len(self._samples) > 2:
            self._samples.popleft()
        began, first = self._samples[0]
        return (done_bytes - first) / (now - began) if now - began > 0.1 else 0.0


class _Pace:
    """Says when a plain line is due: every LINE_INTERVAL_S, and sooner at a change of state that lasted."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._state = ""

    def is_due(self, state: str) -> bool:
        now = time.monotonic()
        if now - self._last < (LINE_INTERVAL_S if state == self._state else STATE_INTERVAL_S):
            return False
        self._state, self._last = state, now
        return True


class _ProviderNames:
    """Names of providers, asked for when one is not known, but not often."""

    def __init__(self, ask: Names) -> None:
        self._ask = ask
        self._names: dict[str, str] = {}
        self._asked_at = -NAMES_INTERVAL_S

    def find(self, peer_id: str) -> str:
        if peer_id not in self._names and time.monotonic() - self._asked_at >= NAMES_INTERVAL_S:
            self._asked_at = time.monotonic()
            self._names = self._ask()
        return self._names.get(peer_id, peer_id[:12])


def _make_bar() -> _Bar:
    """Return a bar that fits into 80 columns with the longest sizes, rates and times."""
    return _Bar(
        TextColumn("{task.description:<9}"),
        BarColumn(bar_width=14),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[size]}"),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[left]}"),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
