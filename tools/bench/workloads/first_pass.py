"""First pass: what it costs to make 1 GiB ready to be served: read, cut, hash, record.

Each round has a file of its own that nobody has seen. Contenders without such a step take no part.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from shoal.core.units import MIB
from shoal.testing.trees import write_random_file
from tools.bench.race import Series, order, start_contenders
from tools.bench.settings import Settings

TAKE_PART = ("libtorrent", "libtorrent-v1")


def run(settings: Settings) -> dict[str, Any]:
    """Let Shoal share and libtorrent make a torrent."""
    absent: dict[str, str] = {}
    names = ("shoal", *(name for name in settings.rivals if name in TAKE_PART))
    folder = settings.place / "offered"
    folder.mkdir()
    with start_contenders(settings, names, absent) as contenders:
        series = {name: Series("the sender only") for name in contenders}
        for number in range(settings.rounds + 1):
            for name in order(list(contenders), number):
                source = folder / f"{name}-{number}.bin"
                write_random_file(source, settings.size_mib * MIB)
                sender, _ = contenders[name].ends()
                before, began = sender.cpu_s(), time.perf_counter()
                contenders[name].index(source)
                took_s, used_s = time.perf_counter() - began, sender.cpu_s() - before
                source.unlink()
                settings.say(f"{'round' if number else 'not counted'} {number}: {name} {took_s:.2f} s")
                if number:
                    series[name].seconds.append(took_s)
                    series[name].sender_cpu_s.append(used_s)
                    series[name].receiver_cpu_s.append(0.0)
                    series[name].peak_bytes[0] = max(series[name].peak_bytes[0], sender.pss_bytes())
    facts = {"bytes": settings.size_mib * MIB, "files": 1}
    return {**facts, "contenders": {n: asdict(s) for n, s in series.items()}, "absent": absent}
