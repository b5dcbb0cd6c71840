"""Sites: where nodes are, and how long a message between two of them takes (overlay.md, "Simulator").

RTT = 4 ms + km / 75 between two cities, and a height of access for each end, lognormal(8 ms, 0.9), in which
lines at home differ from data centres; jitter lognormal 0.15; loss 0.1 to 2 % of a way, which TCP repairs.
"""

from __future__ import annotations

import math

from shoal.core.chance import Chance
from shoal.sim.latency import find_retransmission_us

BASE_US = 4_000.0
KM_MS = 75.0  # kilometres a millisecond of a round trip: light in glass, there and back, with detours
HEIGHT_US, HEIGHT_SIGMA = 8_000.0, 0.9
JITTER_SIGMA = 0.15
LOSS_LOW, LOSS_HIGH = 0.0005, 0.01  # of one end's half of a way
EARTH_KM = 6371.0

CITIES = (  # latitude, longitude, share of nodes
    (52.5, 13.4, 3),  # Berlin
    (51.5, -0.1, 3),  # London
    (48.9, 2.4, 3),  # Paris
    (40.4, -3.7, 1),  # Madrid
    (59.3, 18.1, 1),  # Stockholm
    (52.2, 21.0, 1),  # Warsaw
    (40.7, -74.0, 3),  # New York
    (41.9, -87.6, 2),  # Chicago
    (37.8, -122.4, 3),  # San Francisco
    (43.7, -79.4, 1),  # Toronto
    (-23.6, -46.6, 2),  # Sao Paulo
    (6.5, 3.4, 1),  # Lagos
    (-26.2, 28.0, 1),  # Johannesburg
    (19.1, 72.9, 2),  # Mumbai
    (1.4, 103.8, 2),  # Singapore
    (35.7, 139.7, 2),  # Tokyo
    (37.6, 127.0, 1),  # Seoul
    (-33.9, 151.2, 1),  # Sydney
)


class SiteLatency:
    """One way between nodes in cities; `loss` of a way for all, None: each end its own."""

    def __init__(self, count: int, seed: int, stream: int, loss: float | None = None) -> None:
        chance = Chance(seed, 2**32 + 1, stream)
        self._chance = Chance(seed, 2**32 + 2, stream)
        places = [place for place, city in enumerate(CITIES) for _ in range(city[2])]
        self._sites = bytes(chance.pick(places) for _ in range(count))
        self._heights = [HEIGHT_US * math.exp(HEIGHT_SIGMA * chance.normal()) for _ in range(count)]
        spread = math.log(LOSS_HIGH / LOSS_LOW)
        self._losses = [
            LOSS_LOW * math.exp(spread * chance.fraction()) if loss is None else loss / 2
            for _ in range(count)
        ]
        self._round_trips = [
            [BASE_US + 1000 * _find_km(one, other) / KM_MS for other in CITIES] for one in CITIES
        ]

    def one_way_us(self, here: int, there: int) -> int:
        """See `Latency`."""
        chance = self._chance
        steady = self._round_trips[self._sites[here]][self._sites[there]]
        round_trip_us = steady + self._heights[here] + self._heights[there]
        under_way_us = int(round_trip_us / 2 * math.exp(JITTER_SIGMA * chance.normal()))
        loss = self._losses[here] + self._losses[there]
        return under_way_us + find_retransmission_us(under_way_us, loss, chance)


def _find_km(one: tuple[float, float, int], other: tuple[float, float, int]) -> float:
    """Return the way over the earth's surface (haversine)."""
    lat, lat2 = math.radians(one[0]), math.radians(other[0])
    lon = math.radians(other[1] - one[1])
    part = math.sin((lat2 - lat) / 2) ** 2 + math.cos(lat) * math.cos(lat2) * math.sin(lon / 2) ** 2
    return 2 * EARTH_KM * math.asin(math.sqrt(part))
