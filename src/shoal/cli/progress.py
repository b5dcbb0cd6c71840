"""Progress: what a person sees while a share is read or a transfer runs.

On a terminal a bar with rate, time left and bytes by provider; elsewhere a plain line now and then; with
--json nothing at all. It goes to stderr: stdout is for results.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from shoal.api import schema as s
from shoal.cli.face import Face, printable
from shoal.core.units import format_duration, format_size

LINE_INTERVAL_S = 5.0  # between plain lines
STATE_INTERVAL_S = 1.0  # between plain lines that tell of another state
PROVIDERS_SHOWN = 4
NAMES_INTERVAL_S = 5.0  # names are asked for again for a provider that is not known yet

Names = Callable[[], dict[str, str]]


class _Bar(Progress):
    """A bar with a line of providers below it."""

    below = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        table = self.make_tasks_table(self.tasks)
        yield Group(table, Text(self.below, style="dim", no_wrap=True)) if self.below else table


@contextmanager
def transfer_progress(face: Face, names: Names) -> Iterator[Callable[[s.TransferDetail], None]]:
    """Show a transfer; yields what has to be called with each of its states."""
    shown = _ProviderNames(names)

    def line_of(state: s.TransferDetail) -> str:
        return "  ".join(
            f"{shown.find(peer)} {format_size(count)}"
            for peer, count in sorted(state.providers.items(), key=lambda item: -item[1])[:PROVIDERS_SHOWN]
        )

    if face.json:
        yield lambda state: None
    elif not sys.stderr.isatty():
        pace = _Pace()

        def tell(state: s.TransferDetail) -> None:
            if pace.is_due(state.state):
                total = format_size(state.bytes) if state.bytes is not None else "?"
                face.tell(
                    f"{state.state} {format_size(state.done_bytes)} of {total}, "
                    f"{format_size(state.rate_bytes_s)}/s  {line_of(state)}".rstrip()
                )

        yield tell
    else:
        with _make_bar() as bar:
            task = bar.add_task("", total=None, rate="", size="")

            def draw(state: s.TransferDetail) -> None:
                bar.below = "  " + (printable(state.note) if state.note else line_of(state))
                _update(bar, task, state.state, state.done_bytes, state.bytes, state.rate_bytes_s)

            yield draw


@contextmanager
def share_progress(face: Face) -> Iterator[Callable[[s.ShareDetail], None]]:
    """Show a share being read; yields what has to be called with each of its states."""
    if face.json:
        yield lambda state: None
        return
    started = time.monotonic()
    pace = _Pace()
    with _make_bar() as bar:
        task = bar.add_task("", total=None, rate="", size="")

        def draw(state: s.ShareDetail) -> None:
            rate = state.done_bytes / max(time.monotonic() - started, 0.001)
            if sys.stderr.isatty():
                _update(bar, task, "reading", state.done_bytes, state.bytes, rate)
            elif pace.is_due(state.state):
                face.tell(f"reading {format_size(state.done_bytes)} after {format_duration(pace.age_s)}")

        yield draw


class _Pace:
    """Says when a plain line is due: every LINE_INTERVAL_S, and sooner at a change of state that lasted."""

    def __init__(self) -> None:
        self._started = self._last = time.monotonic()
        self._state = ""

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._started

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
    return _Bar(
        TextColumn("{task.description:<9}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[size]:>10}"),
        TextColumn("{task.fields[rate]:>12}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )


def _update(bar: _Bar, task: TaskID, word: str, done: int, total: int | None, rate: float) -> None:
    bar.update(
        task,
        description=word,
        completed=done,
        total=total,
        size=format_size(total) if total is not None else "",
        rate=f"{format_size(rate)}/s" if rate else "",
    )
