"""Large: one file of 1 GiB that nothing can shorten, from one provider to one getter.

After every round the steps of Shoal's pipeline are measured alone, for its efficiency.
"""

from __future__ import annotations

from typing import Any

from shoal.core.units import MIB
from shoal.testing.trees import write_random_file
from tools.bench.primitives import PRIMITIVES, measure_primitives
from tools.bench.race import run_race
from tools.bench.settings import Settings


def run(settings: Settings) -> dict[str, Any]:
    """Let everybody fetch it."""
    source = settings.place / "offered" / "large.bin"
    source.parent.mkdir()
    write_random_file(source, settings.size_mib * MIB)
    primitives: dict[str, list[float]] = {name: [] for name in PRIMITIVES}

    def after_round() -> None:
        for name, value in measure_primitives(source, settings.place).items():
            primitives[name].append(value)

    result = run_race(settings, source, {"bytes": settings.size_mib * MIB, "files": 1}, after_round)
    return result | {"primitives_s_gib": primitives}
