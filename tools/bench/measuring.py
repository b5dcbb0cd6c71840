"""Measuring: CPU seconds and memory of whole process trees, syncfs, and whether two trees are the same.

Linux only: everything is read from /proc.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from shoal.core.units import KIB, MIB
from shoal.testing.trees import has_same_bytes

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
SAMPLE_S = 0.1  # between two readings of memory; one reading takes about a millisecond
WARM_PART_BYTES = 64 * MIB
RESERVE_S = 0.02  # between two looks at how much was written
RESERVE_LEAD_BYTES = 128 * MIB  # how much of a reserve is free before it is asked for


@dataclass
class End:
    """One end of a contender: its processes, and what those that ended already have used."""

    pids: list[int] = field(default_factory=list)
    spent_s: float = 0.0

    def cpu_s(self) -> float:
        """Return the user and system seconds of this end's process trees so far."""
        processes = read_processes()
        return self.spent_s + sum(tree_cpu_s(pid, processes) for pid in self.pids)

    def pss_bytes(self) -> int:
        """Return the proportional set size of this end's process trees."""
        processes = read_processes()
        found = {pid for root in self.pids for pid in find_tree(root, processes)}
        return sum(read_pss_bytes(pid) for pid in found)


@dataclass(frozen=True)
class Process:
    """One line of /proc: the parent, and the CPU seconds of a process with those of its reaped children."""

    parent: int
    cpu_s: float


def parse_stat(text: str) -> Process:
    """Read /proc/PID/stat (proc(5)): fields 4, and 14 to 17. The name may hold blanks and brackets."""
    fields = text.rpartition(")")[2].split()
    return Process(int(fields[1]), sum(int(ticks) for ticks in fields[11:15]) / CLOCK_TICKS)


def read_processes() -> dict[int, Process]:
    """Return every process of this machine by its id."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile
                found[int(name)] = parse_stat(Path(f"/proc/{name}/stat").read_text(errors="replace"))
    return found


def find_tree(root: int, processes: dict[int, Process]) -> list[int]:
    """Return a process and all its descendants that still run, parents first."""
    children: dict[int, list[int]] = {}
    for pid, process in processes.items():
        children.setdefault(process.parent, []).append(pid)
    found = [root] if root in processes else []
    for pid in found:  # grows while it is read
        found += children.get(pid, [])
    return found


def tree_cpu_s(root: int, processes: dict[int, Process]) -> float:
    """Return the CPU seconds of a process, its descendants, and their children that were waited for."""
    return sum(processes[pid].cpu_s for pid in find_tree(root, processes))


def read_pss_bytes(pid: int) -> int:
    """Return the proportional set size of a process; 0 of one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * KIB for line in lines if line.startswith("Pss:")), 0)


@contextlib.contextmanager
def watch_memory(*ends: End) -> Iterator[list[int]]:
    """Sample memory in a thread; the list holds the largest PSS of each end when the block is left."""
    peaks = [end.pss_bytes() for end in ends]
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(SAMPLE_S):
            for number, end in enumerate(ends):
                peaks[number] = max(peaks[number], end.pss_bytes())

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        stop.set()
        thread.join()


def sync_filesystem(path: Path) -> None:
    """`syncfs` of the filesystem that holds `path`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), "syncfs")
    finally:
        os.close(descriptor)


def filesystem_of(path: Path, mounts: str | None = None) -> str:
    """Return the kind of filesystem that holds `path`, such as tmpfs or ext4."""
    text = mounts if mounts is not None else Path("/proc/self/mounts").read_text()
    place, best, kind = str(path.resolve()) + "/", "", "unknown"
    for line in text.splitlines():
        words = line.split()
        point = words[1].rstrip("/") + "/"
        if place.startswith(point) and len(point) >= len(best):
            best, kind = point, words[2]
    return kind


def warm_up_memory(place: Path, size_bytes: int) -> float:
    """Write and remove a file, so that a virtual machine's memory is there before it is measured.

    Returns the seconds that it took: memory that was never touched is several times slower.
    """
    began = time.perf_counter()
    target = place / "warm-up"
    part = mmap.mmap(-1, WARM_PART_BYTES)
    with target.open("wb") as file:
        for _ in range(size_bytes // WARM_PART_BYTES):
            file.write(part)
    target.unlink()
    part.close()
    return time.perf_counter() - began


class MemoryReserve:
    """Memory that was touched a moment ago, handed over as fast as a contender fills files; tmpfs only.

    Many virtual machines give free memory back to their host after a second, and pay for it when it is used
    again: whoever writes next is up to three times slower than whoever wrote just before. So a file of the
    size that will be written is made before the clock, and shortened while others grow. What that costs
    (about 0.1 CPU seconds a GiB) everybody pays by the byte, and it is nobody's CPU time.
    """

    def __init__(self, place: Path, size_bytes: int) -> None:
        """`place` is on the filesystem that will be written to; `size_bytes`: how much will be."""
        self._place = place
        self._size = size_bytes if filesystem_of(place) == "tmpfs" else 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> MemoryReserve:
        if not self._size:
            return self
        path = self._place / "reserve"
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        path.unlink()
        part = memoryview(bytes(WARM_PART_BYTES))
        for offset in range(0, self._size, WARM_PART_BYTES):
            os.pwrite(self._fd, part[: self._size - offset], offset)
        os.ftruncate(self._fd, max(0, self._size - RESERVE_LEAD_BYTES))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._size:
            self._stop.set()
            self._thread.join()
            os.close(self._fd)

    def _run(self) -> None:
        left = max(0, self._size - RESERVE_LEAD_BYTES)
        before = _used_bytes(self._place) - left
        while left and not self._stop.wait(RESERVE_S):
            grown = _used_bytes(self._place) - left - before
            keep = max(0, self._size - RESERVE_LEAD_BYTES - grown)
            if keep < left:
                os.ftruncate(self._fd, keep)
                left = keep


def _used_bytes(place: Path) -> int:
    found = os.statvfs(place)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def free_bytes(place: Path) -> int:
    """Return how much may be written: what the filesystem has, and on tmpfs no more than the free memory."""
    found = os.statvfs(place)
    space = found.f_bavail * found.f_frsize
    if filesystem_of(place) != "tmpfs":
        return space
    lines = Path("/proc/meminfo").read_text().splitlines()
    return min(space, next(int(line.split()[1]) * KIB for line in lines if line.startswith("MemAvailable")))


def find_difference(left: Path, right: Path) -> str | None:
    """Compare two files or trees: names and every byte. Returns the first difference.

    Not modes and times, which some contenders do not keep; names with a dot in front are a contender's own.
    """
    if left.is_dir() != right.is_dir() or not right.exists():
        return f"{right}: missing, or of another kind"
    if not left.is_dir():
        return None if has_same_bytes(left, right) else f"{right}: other bytes"
    names, others = (sorted(n for n in os.listdir(p) if not n.startswith(".")) for p in (left, right))
    if names != others:
        return f"{right}: other names"
    return next((found for name in names if (found := find_difference(left / name, right / name))), None)
