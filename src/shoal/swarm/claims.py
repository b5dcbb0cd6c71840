"""Claims: which chunks of a version a provider has promised to whom, so that it need not send them twice.

Getters that choose by themselves ask one provider for the same chunks: of 200 MB for eight getters it sent
290 before it was done (tools/measure_swarm.py). So the first who wants a chunk claims it; the others are told
that it is taken, ask for what nobody has yet, and get it from who took it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

G = TypeVar("G")  # how a getter is known


class Claims(Generic[G]):
    """The claims of one version, as sets of chunks. A claim lasts as long as the object: who took a chunk and
    went away only puts it behind others.

    Bounded by the chunks of the version; what is news by the getters that claim between two `take_news`.
    """

    def __init__(self) -> None:
        self._taken = 0
        self._claimed: dict[G, int] = {}  # first claims that were not told yet
        self._late: dict[G, int] = {}  # what a getter wanted or may want, and others claimed before

    def claim(self, getter: G, ordinals: int) -> None:
        """Note that a getter wants chunks."""
        if late := ordinals & self._taken:
            self._late[getter] = self._late.get(getter, 0) | late
        if first := ordinals & ~self._taken:
            self._taken |= first
            self._claimed[getter] = self._claimed.get(getter, 0) | first

    def greet(self, getter: G) -> None:
        """Let a newcomer hear of all claims with the next news."""
        self._late[getter] = self._taken

    def take_news(self, getters: Iterable[G]) -> list[tuple[G, int]]:
        """Return what each getter was not told yet: claims of others."""
        everybodys = 0
        for claimed in self._claimed.values():
            everybodys |= claimed
        news = [(g, everybodys & ~self._claimed.get(g, 0) | self._late.get(g, 0)) for g in getters]
        self._claimed.clear()
        self._late.clear()
        return [(getter, taken) for getter, taken in news if taken]
