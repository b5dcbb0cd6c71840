"""Shoal: two daemons with the defaults of every node; the second gets what the first has shared."""

from __future__ import annotations

import time
from pathlib import Path

from shoal.api.client import Client, connect
from shoal.api.operations import DIAGNOSE
from shoal.api.schema import Nothing, TransferDetail
from shoal.core.undo import undone_on_failure
from shoal.testing.processes import Device
from tools.bench.contenders.contender import TIMEOUT_S, Contender


class Shoal(Contender):
    """Two members of one network; the clock is around `get` of the Python client."""

    name = "shoal"
    how = "defaults; TLS 1.3 sessions, AES-256-GCM lanes, every chunk verified with BLAKE3"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._one, self._two = Device(root / "a", "sender"), Device(root / "b", "receiver")
        with undone_on_failure(self.close):
            self._one.up()
            self._two.join(self._one.run("invite")["ticket"])
            self._two.wait_peers(1)
        self._clients = connect(str(self._one.home)), connect(str(self._two.home))
        for device, end in zip((self._one, self._two), self.ends(), strict=True):
            assert device.pid is not None
            end.pids.append(device.pid)
        self._link = ""

    @property
    def clients(self) -> tuple[Client, Client]:
        """The sender's and the receiver's API."""
        return self._clients

    @property
    def homes(self) -> tuple[Path, Path]:
        """The sender's and the receiver's home."""
        return self._one.home, self._two.home

    @property
    def link(self) -> str:
        """What is offered."""
        return self._link

    def offer(self, source: Path) -> None:
        self._link = self._one.run("share", str(source), "--wait", timeout_s=TIMEOUT_S)["link"]

    def index(self, source: Path) -> bool:
        self._clients[0].share(str(source), wait=True)
        self._clients[0].unshare(path=str(source))
        return True

    def fetch(self, into: Path) -> None:
        get_all(self._clients[1], self._link, into)

    def forget(self, into: Path) -> None:
        self._clients[1].unshare(self._link)

    def stages(self) -> tuple[dict[str, float], dict[str, float]]:
        ours, theirs = (client.call(DIAGNOSE, Nothing()).stages for client in self._clients)
        return ours, theirs

    def close(self) -> None:
        for device in (self._one, self._two):
            device.kill()


def get_all(client: Client, link: str, into: Path) -> int:
    """Get a link and return how many bytes came. Raises: TimeoutError, RuntimeError if some were there."""
    limit = time.monotonic() + TIMEOUT_S

    def check_time(transfer: TransferDetail) -> None:
        if time.monotonic() > limit:
            raise TimeoutError(f"shoal: {transfer.state} after {TIMEOUT_S:.0f} s: {transfer.note}")

    result = client.get(link, str(into), on_progress=check_time)
    if result.reused_bytes:
        raise RuntimeError(f"{result.reused_bytes} bytes were there already: this was no measurement")
    return result.fetched_bytes
