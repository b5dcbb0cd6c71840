"""Resume measurement: a get killed at 90 % and started again, by the bar of issue 3, with real daemons.

    .venv/bin/python -m tools.measure_resume [--size-gib 10] [--dir DIRECTORY]

The getter's daemon ends by SIGKILL and is started by `shoal up`. Measured is the time from the start of that
command until more bytes have come from the provider, and how many bytes came twice. The machine goes on
running, so what is recorded is not read again; after another boot all of it is, before the rest is fetched.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from shoal.api.client import Client, connect
from shoal.api.operations import TRANSFER
from shoal.api.schema import TransferDetail, TransferRequest
from shoal.core.units import GIB, MIB, format_size
from shoal.testing.processes import Device
from shoal.testing.trees import find_difference, write_random_file

KILL_AT = 0.9
LOOK_S = 0.005
LIMIT_S = 120.0
SPARE_BYTES = GIB
BAR_S = 2.0
BAR_BYTES = 32 * MIB


@dataclass(frozen=True)
class Resumed:
    """What came of it. Seconds from the start of `up`: until the command returned, until bytes came."""

    done_bytes: int
    up_s: float
    moving_s: float
    refetched_bytes: int

    @property
    def is_met(self) -> bool:
        """Whether this is within the bar."""
        return self.moving_s <= BAR_S and self.refetched_bytes <= BAR_BYTES


def measure(directory: Path, size_bytes: int) -> Resumed:
    """Share a file of `size_bytes`, get it, kill the getter at 90 %, go on. Raises: SystemExit."""
    source, into = directory / "offered" / "file", directory / "got"
    source.parent.mkdir()
    into.mkdir()
    write_random_file(source, size_bytes)
    with Device(directory / "a", "sender") as one, Device(directory / "b", "receiver") as two:
        one.up()
        two.join(one.run("invite")["ticket"])
        two.wait_peers(1)
        link = one.run("share", str(source), "--wait", timeout_s=LIMIT_S)["link"]
        client = connect(str(two.home))
        started = client.start_get(link, str(into))
        killed = wait_bytes(client, started.id, int(KILL_AT * size_bytes))
        two.kill()
        began = time.monotonic()
        two.up()
        up_s = time.monotonic() - began
        client = connect(str(two.home))
        before = look(client, started.id)
        moving_s = up_s
        if before.state != "done":
            wait_bytes(client, started.id, received(before) + 1)
            moving_s = time.monotonic() - began
        result = client.wait_transfer(look(client, started.id))
    if difference := find_difference(source, into / source.name):
        raise SystemExit(difference)
    return Resumed(received(killed), up_s, moving_s, result.refetched_bytes)


def look(client: Client, transfer_id: str) -> TransferDetail:
    """Return a transfer as it is now."""
    return client.call(TRANSFER, TransferRequest(id=transfer_id))


def received(transfer: TransferDetail) -> int:
    """Return how many bytes of chunks came from providers, as far as they are recorded."""
    return sum(transfer.providers.values())


def wait_bytes(client: Client, transfer_id: str, size_bytes: int) -> TransferDetail:
    """Return a transfer once so much of it came. Raises: TimeoutError."""
    limit = time.monotonic() + LIMIT_S
    while received(transfer := look(client, transfer_id)) < size_bytes:
        if time.monotonic() > limit:
            raise TimeoutError(
                f"{received(transfer)} of {size_bytes} bytes: {transfer.state}, {transfer.note}"
            )
        time.sleep(LOOK_S)
    return transfer


def main(size_gib: float, base: Path | None) -> int:
    """Measure and print; 1 if the bar is missed."""
    size_bytes = int(size_gib * GIB)
    directory = Path(tempfile.mkdtemp(prefix="shoal-resume-", dir=base))
    try:
        if shutil.disk_usage(directory).free < 2 * size_bytes + SPARE_BYTES:
            raise SystemExit(
                f"{directory} has no room for twice {format_size(size_bytes)}; try --dir, --size-gib"
            )
        found = measure(directory, size_bytes)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(f"killed after {format_size(found.done_bytes)} of {format_size(size_bytes)}")
    print(f"transferring again {found.moving_s:.2f} s after the start of `up`, which took {found.up_s:.2f} s")
    print(f"fetched twice: {format_size(found.refetched_bytes)}")
    print(f"{'met' if found.is_met else 'MISSED'}: at most {BAR_S:.0f} s and {format_size(BAR_BYTES)}")
    return 0 if found.is_met else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure how a get goes on after kill -9.")
    parser.add_argument("--size-gib", type=float, default=10.0)
    parser.add_argument("--dir", type=Path, default=None, help="where files and homes go; 2 x the size")
    arguments = parser.parse_args()
    sys.exit(main(arguments.size_gib, arguments.dir))
