"""Memory: the proportional set size of Shoal's daemons, idle with four sessions, moving 4 GiB, many files."""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from shoal.core.units import KIB, MIB
from shoal.testing.processes import Device
from shoal.testing.trees import write_random_file
from tools.bench.contenders.shoal import Shoal
from tools.bench.measuring import End, find_difference, free_bytes, watch_memory
from tools.bench.settings import Settings
from tools.bench.workloads.small import write_small_files

DEVICES = 5
MANY_FILE_BYTES = KIB
SPARE_BYTES = 1024 * MIB
SETTLE_S = 5.0  # what is needed no more has been let go of by then


def run(settings: Settings) -> dict[str, Any]:
    """Measure the three; one that has no room is left out with a word."""
    rows: dict[str, dict[str, float]] = {"idle, 4 sessions": measure_idle(settings)}
    absent: dict[str, str] = {}
    wanted = {
        f"moving {settings.moving_mib} MiB": (settings.moving_mib * MIB, False),
        f"{settings.many_files} files": (settings.many_files * 8 * KIB, True),
    }
    for name, (size_bytes, many) in wanted.items():
        if free_bytes(settings.place) < 2 * size_bytes + SPARE_BYTES:
            absent[name] = "not enough room where the files go"
            settings.say(f"{name}: skipped, {absent[name]}")
            continue
        rows[name] = measure_moving(settings, many=many)
        settings.say(f"{name}: " + ", ".join(f"{k} {v:.0f}" for k, v in rows[name].items()))
    return {"rows": rows, "absent": absent}


def measure_idle(settings: Settings) -> dict[str, float]:
    """Return the largest PSS among five devices that all have sessions with each other, in MiB."""
    with ExitStack() as stack:
        devices = [
            stack.enter_context(Device(settings.place / f"idle-{number}", f"device-{number}"))
            for number in range(DEVICES)
        ]
        devices[0].up()
        for device in devices[1:]:
            device.join(devices[0].run("invite")["ticket"])
        for device in devices:
            device.wait_peers(DEVICES - 1)
        ends = [End([device.pid]) for device in devices if device.pid is not None]
        found = [end.pss_bytes() / MIB for end in ends]
    settings.say(f"idle, {DEVICES - 1} sessions: at most {max(found):.0f} MiB")
    return {"smallest_mib": min(found), "largest_mib": max(found)}


def measure_moving(settings: Settings, *, many: bool) -> dict[str, float]:
    """Return the peaks of both ends while one shares and the other gets, and what stays then, in MiB."""
    place = settings.place / ("many" if many else "moving")
    source = place / "offered" / "source"
    source.parent.mkdir(parents=True)
    if many:
        write_small_files(source, settings.many_files, MANY_FILE_BYTES)
    else:
        write_random_file(source, settings.moving_mib * MIB)
    shoal = Shoal(place / "shoal")
    try:
        sender, receiver = shoal.ends()
        with watch_memory(sender) as hashing:
            shoal.offer(source)
        with watch_memory(sender, receiver) as moving:
            into = place / "got"
            into.mkdir()
            shoal.fetch(into)
        time.sleep(SETTLE_S)
        after = [end.pss_bytes() for end in (sender, receiver)]
        _check(source, into / source.name)
    finally:
        shoal.close()
        shutil.rmtree(place)
    return {
        "sharing_mib": hashing[0] / MIB,
        "sender_mib": moving[0] / MIB,
        "receiver_mib": moving[1] / MIB,
        "sender_afterwards_mib": after[0] / MIB,
        "receiver_afterwards_mib": after[1] / MIB,
    }


def _check(source: Path, got: Path) -> None:
    if (difference := find_difference(source, got)) is not None:
        raise RuntimeError(f"shoal delivered something else: {difference}")
