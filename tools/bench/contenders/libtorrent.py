"""Libtorrent: two sessions in processes of their own, TCP without uTP and encryption, v1 or v2 torrents."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tools.bench.contenders.contender import ENDS, RIVALS_PYTHON, Contender, clean_environment, need_module


class Libtorrent(Contender):
    """A seed and a getter; the seed is connected before; the clock ends when all is verified and written."""

    name = "libtorrent"
    how = "v2 torrent (SHA-256), high-performance preset, TCP, uTP and encryption off, connected before"
    version = 2

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        need_module("libtorrent")
        self._processes = self._start(), self._start()
        for end, process in zip(self.ends(), self._processes, strict=True):
            end.pids.append(process.pid)
        self._torrent = root / "offered.torrent"
        self._port = 0

    def offer(self, source: Path) -> None:
        self._port = self._tell(0, self._make("seed", source, self._torrent))["port"]

    def index(self, source: Path) -> bool:
        self._tell(0, self._make("make", source, self.root / "only.torrent"))
        return True

    def prepare(self, into: Path) -> None:
        self._tell(1, {"do": "add", "torrent": str(self._torrent), "into": str(into), "peer": self._port})

    def fetch(self, into: Path) -> None:
        self._tell(1, {"do": "get"})

    def forget(self, into: Path) -> None:
        self._tell(1, {"do": "remove"})

    def close(self) -> None:
        super().close()
        for process in self._processes:
            process.communicate()

    def _make(self, verb: str, source: Path, torrent: Path) -> dict[str, Any]:
        return {"do": verb, "path": str(source), "torrent": str(torrent), "version": self.version}

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [RIVALS_PYTHON, ENDS / "libtorrent_end.py"],
            env=clean_environment(self.root),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _tell(self, number: int, command: dict[str, Any]) -> dict[str, Any]:
        process = self._processes[number]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(command) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"libtorrent ended while it was to {command['do']}")
        answer: dict[str, Any] = json.loads(line)
        return answer


class LibtorrentV1(Libtorrent):
    """The same with a v1 torrent: small files share pieces, and SHA-1 is cheaper (and broken)."""

    name = "libtorrent-v1"
    how = "the same with a v1 torrent (SHA-1)"
    version = 1
