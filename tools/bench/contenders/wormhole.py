"""Magic-wormhole: its own send and receive, with a mailbox server and a transit relay on loopback.

Before the clock both ends have exchanged the code and the receiver asks "ok?"; the clock starts with the yes
and ends with the word that the file was written. Starting and ending Python is not in it.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import IO

from shoal.core.undo import undone_on_failure
from tools.bench.contenders.contender import (
    ENDS,
    RIVALS_PYTHON,
    Contender,
    clean_environment,
    end_tree,
    free_port,
    need_module,
    wait_listening,
)

WRITTEN = ("Received file written to", "Received files written to")


class Wormhole(Contender):
    """A send and a receive for every round; the two servers stay."""

    name = "magic-wormhole"
    how = "direct connection, no Tor; a folder travels as its own zip stream"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        for module in ("wormhole", "wormhole_mailbox_server", "wormhole_transit_relay"):
            need_module(module)
        self._servers: list[subprocess.Popen[bytes]] = []
        self._pair: list[subprocess.Popen[str]] = []
        self._source = root
        mailbox, relay = free_port(), free_port()
        with undone_on_failure(self.close):
            self._serve("wormhole-mailbox", mailbox, f"--channel-db={root / 'mailbox.sqlite'}")
            self._serve("transitrelay", relay)
        self._flags = [
            f"--relay-url=ws://127.0.0.1:{mailbox}/v1",
            f"--transit-helper=tcp:127.0.0.1:{relay}",
        ]

    def offer(self, source: Path) -> None:
        self._source = source

    def prepare(self, into: Path) -> None:
        code = "1-bench-loopback"
        self._pair = [self._start(self.root, "send", "--code", code, str(self._source))]
        self._pair.append(self._start(into, "receive", "-o", str(into), code))
        for end, process in zip(self.ends(), self._pair, strict=True):
            end.pids.append(process.pid)
        _read_until(self._pair[1].stdout, "ok?")

    def fetch(self, into: Path) -> None:
        stdin = self._pair[1].stdin
        assert stdin is not None
        stdin.write("y\n")
        stdin.flush()
        _read_until(self._pair[1].stdout, *WRITTEN)

    def forget(self, into: Path) -> None:
        for end, process in zip(self.ends(), self._pair, strict=True):
            process.communicate(timeout=30)
            end.pids.clear()
        self._pair = []

    def close(self) -> None:
        super().close()
        for server in self._servers:
            end_tree(server.pid)

    def _serve(self, plugin: str, port: int, *more: str) -> None:
        twist = [str(RIVALS_PYTHON), "-m", "twisted", "--log-level=error", plugin]
        server = subprocess.Popen(
            [*twist, f"--port=tcp:{port}:interface=127.0.0.1", *more],
            cwd=self.root,
            env=clean_environment(self.root),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._servers.append(server)
        wait_listening(port, plugin)

    def _start(self, directory: Path, verb: str, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [RIVALS_PYTHON, "-u", ENDS / "wormhole_end.py", *self._flags, verb, "--hide-progress", *words],
            cwd=self.root,
            env=clean_environment(self.root),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def _read_until(stream: IO[str] | None, *wanted: str) -> None:
    """Read what a process prints until one of the texts was in it. Raises: RuntimeError if it ends before."""
    assert stream is not None
    seen = ""
    while not any(text in seen for text in wanted):
        letter = stream.read(1)
        if not letter:
            raise RuntimeError(f"magic-wormhole ended after: {seen.strip()}")
        seen += letter
