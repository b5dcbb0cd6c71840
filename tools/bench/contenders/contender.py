"""Contender: what every program in the race can be asked, whatever it is made of."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from tools.bench.measuring import End, find_tree, read_processes

ROOT = Path(__file__).resolve().parents[3]
RIVALS_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
ENDS = ROOT / "tools" / "bench" / "ends"
TIMEOUT_S = 180.0  # longest that any single step may take
END_TIMEOUT_S = 10.0
POLL_S = 0.01


class Absent(Exception):
    """A contender cannot be had on this machine; the text says what is missing, in a few words."""


class Contender(ABC):
    """One program with a sender and a receiver of its own on loopback, in a directory of its own.

    The order is: construct (Absent if it cannot be had), `offer` once, then for every round `prepare`, the
    clock around `fetch`, `settle`, `forget`; `close` at the end, whatever happened. Only `fetch` is measured.
    Nothing listens beyond loopback; every process is ended by its id.
    """

    name = ""
    how = ""  # the settings that matter, for the report

    def __init__(self, root: Path) -> None:
        """`root`: an empty directory for homes, configurations and keys."""
        self.root = root
        self.sender, self.receiver = End(), End()
        root.mkdir(parents=True, exist_ok=True)

    @abstractmethod
    def offer(self, source: Path) -> None:
        """Hash, scan and serve `source`, a file or folder that is alone in its parent."""

    def index(self, source: Path) -> bool:
        """Read and hash `source`, and forget it; False if this contender has no such step."""
        return False

    def prepare(self, into: Path) -> None:  # noqa: B027 - many have nothing to do here
        """Do what comes before the bytes of the next fetch into the empty folder `into`."""

    @abstractmethod
    def fetch(self, into: Path) -> None:
        """Fetch into `into`; return when everything has its final name."""

    def settle(self) -> None:  # noqa: B027 - as `prepare`
        """Wait until helpers of the last fetch have ended; after the clock, before CPU seconds are read."""

    def forget(self, into: Path) -> None:  # noqa: B027 - as `prepare`
        """Make sure that the next fetch fetches everything again; `into` is removed after this."""

    def ends(self) -> tuple[End, End]:
        """Return the sender's and the receiver's processes."""
        return self.sender, self.receiver

    def stages(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return the CPU seconds of both ends by stage so far; empty where the contender does not say."""
        return {}, {}

    def close(self) -> None:
        """End all processes."""
        for end in self.ends():
            for pid in end.pids:
                end_tree(pid)
            end.pids.clear()


def need_program(name: str, package: str) -> str:
    """Return the path of a program. Raises: Absent with the package that has it."""
    found = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Absent(f"{name} is not installed (Debian: apt-get install {package})")
    return found


def need_module(name: str) -> None:
    """Raises: Absent if the rivals' environment lacks a Python module."""
    if not RIVALS_PYTHON.exists():
        raise Absent("the rivals' environment .venv-bench is missing; make bench makes it")
    done = subprocess.run([RIVALS_PYTHON, "-c", f"import {name}"], capture_output=True, check=False)
    if done.returncode != 0:
        raise Absent(f"{name} is not in .venv-bench")


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """Return an environment in which nothing of this user's own settings is found."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LC_ALL")}
    return kept | {"HOME": str(home), "TMPDIR": str(home)} | more


def free_port() -> int:
    """Return a port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Wait for a condition. Raises: TimeoutError that says for what."""
    limit = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > limit:
            raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(POLL_S)


def wait_listening(port: int, what: str, timeout_s: float = 30.0) -> None:
    """Wait until something on loopback accepts connections. Raises: TimeoutError."""

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(answers, f"{what} on port {port}", timeout_s)


def end_tree(pid: int) -> None:
    """End a process and its descendants, each by its id: politely, then with SIGKILL; then wait for ours."""
    tree = find_tree(pid, read_processes())
    for number in (signal.SIGTERM, signal.SIGKILL):
        for member in tree:
            try:
                os.kill(member, number)
            except ProcessLookupError:
                continue
        limit = time.monotonic() + END_TIMEOUT_S
        while time.monotonic() < limit:
            _reap(pid)
            if not any(_runs(member) for member in tree):
                return
            time.sleep(POLL_S)


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return  # no child of ours, or waited for already


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
