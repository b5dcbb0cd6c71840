"""Latency: Shoal's ping over the control session, ten a second, without and with a transfer at full speed."""

from __future__ import annotations

import math
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from shoal.api.client import Client, connect
from shoal.core.errors import ShoalError
from shoal.core.units import MIB
from shoal.testing.trees import write_random_file
from tools.bench.contenders.shoal import Shoal, get_all
from tools.bench.settings import Settings

EVERY_S = 0.1
QUIET_SHARE = 0.25  # of the time without a transfer


class Traffic(threading.Thread):
    """Gets the offered file again and again until it is told to stop, over a connection of its own."""

    def __init__(self, shoal: Shoal, place: Path) -> None:
        super().__init__(daemon=True)
        self._shoal, self._place = shoal, place
        self._stop_now = threading.Event()
        self.fetched_bytes = 0
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            while not self._stop_now.is_set():
                into = Path(tempfile.mkdtemp(prefix="got-", dir=self._place))
                with connect(str(self._shoal.homes[1])) as client:
                    self.fetched_bytes += get_all(client, self._shoal.link, into)
                self._shoal.forget(into)
                shutil.rmtree(into)
        except (OSError, RuntimeError, ShoalError) as error:
            self.error = error

    def stop(self) -> None:
        """End after the transfer that runs. Raises: what made one fail."""
        self._stop_now.set()
        self.join()
        if self.error is not None:
            raise self.error


def run(settings: Settings) -> dict[str, Any]:
    """Ping from the receiver to the sender, first in silence, then under load."""
    source = settings.place / "offered" / "large.bin"
    source.parent.mkdir()
    write_random_file(source, settings.size_mib * MIB)
    shoal = Shoal(settings.place / "shoal")
    try:
        shoal.offer(source)
        with connect(str(shoal.homes[1])) as client:
            quiet = send_pings(client, settings.seconds * QUIET_SHARE)
            traffic = Traffic(shoal, settings.place)
            traffic.start()
            began = time.perf_counter()
            loaded = send_pings(client, settings.seconds)
            traffic.stop()
            rate = traffic.fetched_bytes / MIB / (time.perf_counter() - began)
    finally:
        shoal.close()
    rows = {"quiet": summary(quiet), "full transfer": summary(loaded)}
    for name, row in rows.items():
        settings.say(
            f"{name}: p50 {row['p50_ms']:.1f} ms, p99 {row['p99_ms']:.1f} ms of {row['pings']} pings"
        )
    return {"rows": rows, "mib_s": round(rate, 1)}


def send_pings(client: Client, seconds: float) -> list[float]:
    """Ping every 100 ms; returns the round trips in milliseconds. A ping without an answer raises."""
    (peer,) = client.peers()
    found: list[float] = []
    began = time.monotonic()
    for number in range(round(seconds / EVERY_S)):
        time.sleep(max(0.0, began + number * EVERY_S - time.monotonic()))
        answer = client.ping(peer.peer_id)
        if answer.rtt_ms is None:
            raise RuntimeError(f"a ping had no answer: {answer.why}")
        found.append(answer.rtt_ms)
    return found


def percentile(values: list[float], share: float) -> float:
    """Return the smallest value that at least `share` of all do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def summary(values: list[float]) -> dict[str, float]:
    """Return what is reported of the round trips."""
    return {
        "pings": len(values),
        "p50_ms": percentile(values, 0.5),
        "p99_ms": percentile(values, 0.99),
        "worst_ms": max(values),
    }
