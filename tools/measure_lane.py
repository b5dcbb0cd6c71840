"""Measure lane: MiB/s and CPU seconds a GiB of one lane on loopback, sender and receiver in one process.

    .venv/bin/python -m tools.measure_lane [--mib 1024] [--rounds 5]

Record sizes are interleaved over the rounds, so that a slow moment of the machine meets all of them; medians
are printed. Nothing is read, hashed or written: this is the ceiling that a transfer's pipeline stands under.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time

from shoal.core.units import KIB, MIB
from shoal.testing.lanes import make_lane_pair

SIZES = (128 * KIB, 512 * KIB, MIB)


def measure(record_bytes: int, total_bytes: int) -> tuple[float, float]:
    """Send `total_bytes` in records of one size; return MiB/s and CPU seconds a GiB (both ends)."""
    sender, receiver = make_lane_pair()
    sender.plaintext[:record_bytes] = os.urandom(record_bytes)

    def send() -> None:
        for _ in range(total_bytes // record_bytes):
            sender.send(record_bytes)
        sender.finish()

    thread = threading.Thread(target=send)
    cpu, started = time.process_time(), time.monotonic()
    thread.start()
    while receiver.receive() is not None:
        pass
    thread.join()
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    received = receiver.received_bytes
    sender.close()
    receiver.close()
    return received / seconds / MIB, cpu / (received / (1024 * MIB))


def main() -> None:
    """Print one line a record size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mib", type=int, default=1024, help="MiB a round and size")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    results: dict[int, list[tuple[float, float]]] = {size: [] for size in SIZES}
    for _ in range(options.rounds):
        for size in SIZES:
            results[size].append(measure(size, options.mib * MIB))
    print("record KiB  MiB/s  (lowest)  CPU s/GiB")
    for size, rows in results.items():
        rates = [rate for rate, _ in rows]
        cpu = statistics.median(cpu for _, cpu in rows)
        print(f"{size // KIB:10d}  {statistics.median(rates):5.0f}  {min(rates):8.0f}  {cpu:9.2f}")


if __name__ == "__main__":
    main()
