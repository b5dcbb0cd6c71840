"""Settings: what one run of the bench was asked to do, and where it puts its files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Everything that a workload needs to know. `say` prints one line of progress."""

    place: Path  # an empty directory of this run, on the filesystem that is measured
    rounds: int
    rivals: tuple[str, ...]
    size_mib: int
    files: int
    file_bytes: int
    seconds: float  # how long pings are sent
    moving_mib: int
    many_files: int
    say: Callable[[str], None]
