"""Processes: devices as real processes with a home each, driven through the command line as a person would.

Used by the demo, the crash runs and the end-to-end tests. Every process is ended by the id that its own
`status` told, never by name; nothing listens beyond loopback unless the caller says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from shoal.core.processes import is_alive

COMMAND_TIMEOUT_S = 120.0
END_TIMEOUT_S = 10.0

Json = dict[str, Any]


class CommandFailed(Exception):
    """A command ended with another code than 0. Holds everything that it said."""

    def __init__(self, args: list[str], code: int, stdout: str, stderr: str) -> None:
        self.code = code
        self.stdout = stdout
        self.stderr = stderr
        super().__init__(f"shoal {' '.join(args)} ended with {code}\n{stdout}\n{stderr}")

    @property
    def error(self) -> Json:
        """The `error` object that --json printed; empty if there was none."""
        try:
            found = json.loads(self.stdout).get("error", {})
        except (ValueError, AttributeError):
            return {}
        return found if isinstance(found, dict) else {}


class Device:
    """One device of a network: a directory with its home, and the daemon in it while it runs.

    Expects a directory of its own. `up` and `join` start the daemon detached; `stop` ends it properly, `kill`
    with SIGKILL, and leaving the `with` ends whatever still runs.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        *,
        listen: str = "127.0.0.1:0",
        lan: bool = False,
        prefix: list[str] | None = None,
    ) -> None:
        """`prefix`: words before every command, such as `ip netns exec NAME`."""
        self.name = name
        self.prefix = prefix or []
        self.directory = directory
        self.home = directory / "home"
        self.listen = listen
        self.lan = lan
        self.pid: int | None = None
        directory.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def environment(self) -> dict[str, str]:
        """An environment in which nothing of this user's own settings is found."""
        kept = {
            k: v
            for k, v in os.environ.items()
            if k in ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "VIRTUAL_ENV")
        }
        return kept | {
            "HOME": str(self.directory),
            "SHOAL_HOME": str(self.home),
            "NO_COLOR": "1",
            "COLUMNS": "80",
        }

    def command(self, *args: str) -> list[str]:
        """Return the command line of `shoal ARGS`."""
        return [*self.prefix, sys.executable, "-m", "shoal", *args]

    def call(
        self,
        *args: str,
        timeout_s: float = COMMAND_TIMEOUT_S,
        stdin: str | None = None,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end and return what it printed, whatever its exit code."""
        return subprocess.run(
            self.command(*args),
            env=self.environment,
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            timeout=timeout_s,
            cwd=cwd or self.directory,
            check=False,
        )

    def run(
        self,
        *args: str,
        timeout_s: float = COMMAND_TIMEOUT_S,
        stdin: str | None = None,
        cwd: Path | None = None,
    ) -> Json:
        """Run a command with --json and return its object. Raises: CommandFailed for a code other than 0."""
        done = self.call(*args, "--json", timeout_s=timeout_s, stdin=stdin, cwd=cwd)
        if done.returncode != 0:
            raise CommandFailed(list(args), done.returncode, done.stdout, done.stderr)
        result: Json = json.loads(done.stdout)
        return result

    def popen(self, *args: str, cwd: Path | None = None) -> subprocess.Popen[str]:
        """Start a command with --json and return the process; the caller ends it."""
        return subprocess.Popen(
            self.command(*args, "--json"),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd or self.directory,
        )

    def up(self, *extra: str) -> Json:
        """Start the daemon detached; returns its `status`."""
        return self._launched(self.run("up", "--detach", *self._flags(), *extra))

    def join(self, ticket: str, *extra: str) -> Json:
        """Join with a ticket and start the daemon detached; returns its `status`."""
        return self._launched(self.run("join", ticket, "--detach", *self._flags(), *extra))

    def stop(self) -> None:
        """End the daemon with `down` and wait until its process is gone."""
        if self.pid is not None:
            self.run("down")
            self._wait_gone()

    def signal(self, number: int) -> None:
        """Send a signal to the daemon; nothing if none runs."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End the daemon with SIGKILL and wait until its process is gone; nothing if none runs."""
        if self.pid is not None:
            self.signal(signal.SIGKILL)
            self._wait_gone()

    def wait_peers(self, count: int, timeout_s: float = 30.0) -> None:
        """Wait until at least `count` sessions are up. Raises: TimeoutError."""
        limit = time.monotonic() + timeout_s
        while (have := self.run("status")["peers"]) < count:
            if time.monotonic() > limit:
                raise TimeoutError(f"{self.name} has {have} of {count} peers after {timeout_s:.0f} s")
            time.sleep(0.1)

    def _flags(self) -> list[str]:
        flags = ["--listen", self.listen, "--name", self.name]
        return flags if self.lan else [*flags, "--no-lan"]

    def _launched(self, status: Json) -> Json:
        self.pid = status["pid"]
        return status

    def _wait_gone(self) -> None:
        assert self.pid is not None
        limit = time.monotonic() + END_TIMEOUT_S
        while is_alive(self.pid):
            if time.monotonic() > limit:
                raise TimeoutError(
                    f"process {self.pid} of {self.name} did not end within {END_TIMEOUT_S:.0f} s"
                )
            time.sleep(0.02)
        self.pid = None
