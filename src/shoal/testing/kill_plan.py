"""Kill plan: what one round of the kill series does, out of one number.

The same seed is always the same round: operation, who is killed, when, every byte of its trees. Any 60 seeds
in a row hold every operation six times, one of them with all three devices killed at once.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from shoal.core.units import MIB

DEVICES: Final = ("ada", "ben", "cem")
# from the start of an operation to the kill: a little longer than it takes alone on a quick machine
LONGEST_DELAY_S: Final = {
    "share": 0.12,
    "copy": 0.5,
    "watch": 1.8,
    "get": 1.2,
    "only": 0.7,
    "follow": 0.9,
    "pin": 0.7,
    "gc": 0.08,
    "scrub": 0.6,
    "migrate": 0.6,
}
OPERATIONS: Final = tuple(LONGEST_DELAY_S)
TREE_BYTES: Final = {
    "share": 64 * MIB,
    "get": 80 * MIB,
    "only": 64 * MIB,
    "watch": 4 * MIB,
    "follow": 8 * MIB,
    "migrate": 4 * MIB,
}
OTHER_TREE_BYTES: Final = 24 * MIB
# what an operation would be too short for a kill in its middle without
UPLOAD: Final = {"follow": "6 MB/s", "pin": "30 MB/s", "scrub": "10 MB/s"}
OTHER_UPLOAD: Final = "100 MB/s"
ALL_AT_ONCE: Final = 6  # every sixth round of an operation kills all three devices


@dataclass(frozen=True)
class Plan:
    """One round. `author` shares; `keeper` gets, follows or keeps a copy; `reader` looks at what is there."""

    seed: int
    operation: str
    author: str
    keeper: str
    reader: str
    victims: tuple[str, ...]
    delay_s: float
    tree_bytes: int
    upload: str  # limit of the author while it is killed

    def rng(self) -> random.Random:
        """Return the source of everything else that is random in this round."""
        return random.Random(f"{self.seed} {self.operation}")  # noqa: S311 - test data

    def __str__(self) -> str:
        who = "all three" if len(self.victims) == len(DEVICES) else " and ".join(self.victims)
        return f"seed {self.seed}: {self.operation}, {who} killed after {self.delay_s:.3f} s"


def make_plan(seed: int, only: str | None = None) -> Plan:
    """Return the round that belongs to a seed; `only` makes it another operation's."""
    operation = only or OPERATIONS[seed % len(OPERATIONS)]
    rng = random.Random(seed)  # noqa: S311 - test data
    author, keeper, reader = rng.sample(DEVICES, 3)
    number = seed if only else seed // len(OPERATIONS) + seed % len(OPERATIONS)
    victims: tuple[str, ...]
    if number % ALL_AT_ONCE == 0:
        victims = DEVICES
    elif operation in ("share", "copy", "watch"):
        victims = (author,)
    elif operation in ("gc", "scrub", "migrate"):
        victims = (keeper,)
    else:
        victims = (rng.choice((author, keeper, keeper, reader)),)
    return Plan(
        seed=seed,
        operation=operation,
        author=author,
        keeper=keeper,
        reader=reader,
        victims=victims,
        delay_s=rng.uniform(0.0, LONGEST_DELAY_S[operation]),
        tree_bytes=TREE_BYTES.get(operation, OTHER_TREE_BYTES),
        upload=UPLOAD.get(operation, OTHER_UPLOAD),
    )
