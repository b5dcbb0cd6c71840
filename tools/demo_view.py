"""Demo view: live progress of several transfers, and the table at the end."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from shoal.core.units import MIB, format_size

PLAIN_INTERVAL_S = 2.0  # a pipe or file gets a line that often instead of moving bars


@dataclass
class Row:
    """One transfer as it is shown."""

    device: str
    what: str
    total_bytes: int = 0
    done_bytes: int = 0
    rate_bytes_s: float = 0.0
    state: str = "waiting"
    providers: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """One finished transfer, for the table at the end."""

    device: str
    what: str
    files: int
    size_bytes: int
    seconds: float
    refetched_bytes: int
    saved_bytes: int
    providers: dict[str, int]


class Board:
    """Shows rows while they change: bars on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.rows: list[Row] = []
        self._live = (
            Live(console=console, refresh_per_second=8, transient=True) if console.is_terminal else None
        )
        self._printed_at = 0.0

    def __enter__(self) -> Board:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self) -> None:
        """Draw the rows as they are now."""
        if self._live is not None:
            self._live.update(self._table())
        elif time.monotonic() - self._printed_at > PLAIN_INTERVAL_S:
            self._printed_at = time.monotonic()
            for what in sorted({row.what for row in self.rows}):
                parts = [f"{r.device} {_percent(r)} {r.state}" for r in self.rows if r.what == what]
                self.console.print(f"    {what}: " + ", ".join(parts))

    def say(self, text: str) -> None:
        """Print a line of the story above the bars."""
        self.console.print(text)

    def _table(self) -> Group:
        table = Table.grid(padding=(0, 1))
        for row in self.rows:
            table.add_row(
                Text(f"    {row.device}", style="bold"),
                row.what,
                ProgressBar(total=max(1, row.total_bytes), completed=row.done_bytes, width=20),
                _percent(row),
                f"{row.rate_bytes_s / MIB:.0f} MiB/s" if row.state == "fetching" else row.state,
                Text(shares_text(row.providers), style="dim"),
            )
        return Group(table)


def print_outcomes(console: Console, outcomes: Iterable[Outcome]) -> None:
    """Print the final table: bytes, rate, share from each provider, bytes saved by resuming."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("device", "what"):
        table.add_column(column)
    for column in ("files", "size", "MiB/s", "saved"):
        table.add_column(column, justify="right")
    table.add_column("from")
    for one in outcomes:
        table.add_row(
            one.device,
            one.what,
            str(one.files),
            format_size(one.size_bytes),
            f"{one.size_bytes / MIB / one.seconds:.0f}" if one.seconds > 0 else "-",
            format_size(one.saved_bytes) if one.saved_bytes else "-",
            shares_text(one.providers) or ("what it had" if one.saved_bytes else "-"),
        )
    console.print(table)


def shares_text(providers: dict[str, int]) -> str:
    """Write who gave how much: `ada 62 % ben 38 %`, largest first; who gave nothing is left out."""
    total = sum(providers.values())
    if not total:
        return ""
    ordered = sorted(providers.items(), key=lambda item: -item[1])
    return " ".join(f"{name} {100 * given / total:.0f}%" for name, given in ordered if given)


def _percent(row: Row) -> str:
    return f"{100 * row.done_bytes / row.total_bytes:.0f} %" if row.total_bytes else "0 %"
