"""Follow measurement: how long a change takes to be seen in a copy that follows; two daemons on loopback.

    .venv/bin/python -m tools.measure_follow [--files 10000] [--changes 40]

A file of a watched tree is rewritten; the clock stops when the copy has the new bytes under the final name.
The bar of issue 3 is p95 <= 3 s with 10,000 files.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
import time
from pathlib import Path

from shoal.testing.processes import Device
from shoal.testing.trees import find_difference

WAIT_S = 60.0


def wait_for(condition: object, what: str) -> None:
    """Wait until `condition()` is true. Raises: SystemExit after WAIT_S."""
    limit = time.monotonic() + WAIT_S
    while not condition():  # type: ignore[operator]
        if time.monotonic() > limit:
            raise SystemExit(f"{what} did not happen within {WAIT_S:.0f} s")
        time.sleep(0.01)


def measure(base: Path, files: int, changes: int, rng: random.Random) -> list[float]:
    """Return the delay of each change, in seconds."""
    tree, dest = base / "tree", base / "copy"
    for number in range(files):
        folder = tree / f"folder {number % 100}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file {number}").write_bytes(rng.randbytes(rng.randrange(100, 8000)))
    delays: list[float] = []
    with Device(base / "a", "anna") as anna, Device(base / "b", "bert") as bert:
        anna.up()
        bert.join(anna.run("invite")["ticket"])
        link = anna.run("share", "--watch", "--wait", str(tree))["link"]
        wait_for(lambda: not anna.run("shares")["shares"][0]["note"], "the watch")
        bert.run("follow", link, str(dest), "--wait")
        for number in range(changes):
            time.sleep(rng.uniform(0.5, 4.0))
            chosen = rng.randrange(files)
            path = f"folder {chosen % 100}/file {chosen}"
            data = b"change %d " % number + rng.randbytes(2000)
            started = time.monotonic()
            (tree / path).write_bytes(data)
            copy = dest / "tree" / path
            wait_for(lambda copy=copy, data=data: copy.exists() and copy.read_bytes() == data, path)
            delays.append(time.monotonic() - started)
        wait_for(lambda: bert.run("follows")["follows"][0]["state"] == "current", "the last version")
        if difference := find_difference(tree, dest / "tree"):
            raise SystemExit(difference)
    return sorted(delays)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--changes", type=int, default=40)
    parser.add_argument("--base", default="/dev/shm" if os.path.isdir("/dev/shm") else None)
    arguments = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="shoal-follow-", dir=arguments.base))
    try:
        delays = measure(base, arguments.files, arguments.changes, random.Random(1))
    finally:
        shutil.rmtree(base, ignore_errors=True)
    print(f"{arguments.files} files, {len(delays)} changes, seconds until a follower sees them:")
    rank = max(0, -(-len(delays) * 95 // 100) - 1)
    print(f"  median {delays[len(delays) // 2]:.2f}, p95 {delays[rank]:.2f}, worst {delays[-1]:.2f}")


if __name__ == "__main__":
    main()
