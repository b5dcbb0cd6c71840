"""Offer: one share as this node serves it, and who may take it.

Whoever proved the link on a session may read the feed, follow versions and open a lane. A version may be
incomplete: a getter offers what it has and tells its followers what comes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shoal.content.feed import DRAFTS
from shoal.core.errors import StorageFault
from shoal.swarm.chunk_set import bits, to_set
from shoal.swarm.claims import Claims
from shoal.swarm.messages import PAGE_CHUNKS, RUNS, Followed, Have, Taken
from shoal.swarm.serve import ChunkSource, FindObject

if TYPE_CHECKING:
    from shoal.transport.session import Session

VERSIONS = 2  # of one share that are served at once: the newest, and one for who is just getting it


@dataclass(slots=True)
class OfferedVersion:
    """Chunks of one version: where they are read, and which there are. `fresh` are not announced yet.

    Of a draft (a number from DRAFTS on) `total` grows; nobody serves its gaps.
    """

    version: int
    total: int
    source: ChunkSource
    have: int
    fresh: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether every chunk is there."""
        return self.have.bit_count() == self.total

    def page(self, number: int) -> Followed:
        """Return one page of the have-map."""
        if self.is_complete:
            return Followed(True, True, self.total, b"")
        part = self.have >> number * PAGE_CHUNKS & (1 << PAGE_CHUNKS) - 1
        return Followed(True, False, self.total, part.to_bytes((part.bit_length() + 7) // 8, "little"))


@dataclass(slots=True)
class Offer:
    """A share that is served. `read_feed(first)` returns some entries from a number on (at least one if
    there are any). `find_object(id)` is called by lanes' threads; what it finds is sealed, so that an object
    of another share tells nobody anything. `on_fault(version, ordinal, error)` hears of chunks that could
    not be read.
    """

    share_id: bytes
    read_key: bytes = field(repr=False)
    read_feed: Callable[[int], Awaitable[list[bytes]]]
    find_object: FindObject
    on_fault: Callable[[int, int, StorageFault], None]
    entries: int = 0
    background: bool = False  # what is sent of it gives way to what is sent of others
    versions: dict[int, OfferedVersion] = field(default_factory=dict)
    followers: dict[Session, set[int]] = field(default_factory=dict)  # proved the link -> versions followed
    claims: dict[int, Claims[Session]] = field(default_factory=dict)  # by version, while several follow it

    @property
    def newest(self) -> int:
        """The newest version that has chunks here, 0 without one; drafts do not count."""
        return max((number for number in self.versions if number < DRAFTS), default=0)

    def put_version(self, version: OfferedVersion) -> None:
        """Serve a version, or serve it from another place; the oldest beyond VERSIONS is given up.

        Chunks that followers were not told of yet still have to be announced.
        """
        earlier = self.versions.get(version.version)
        if earlier is not None:
            version.fresh |= earlier.fresh & version.have
        self.versions[version.version] = version
        while len(self.versions) > VERSIONS:
            del self.versions[min(self.versions)]

    def add_chunks(self, version: int, ordinals: list[int], total: int = 0) -> None:
        """Note chunks that can be served from now on; `take_news` announces them. Of a draft `total` are
        known now.
        """
        offered = self.versions.get(version)
        if offered is None:
            return
        offered.total = max(offered.total, total)
        added = 0
        for ordinal in ordinals:
            added |= 1 << ordinal
        offered.have |= added
        offered.fresh |= added

    def take_news(self) -> list[Have]:
        """Return what followers were not told yet, by version, in messages of at most RUNS runs."""
        news: list[Have] = []
        for version in self.versions.values():
            runs = make_runs(version.fresh)
            version.fresh = 0
            for start in range(0, len(runs), RUNS):
                news.append(Have(self.share_id, version.version, runs[start : start + RUNS]))
        return news

    def claim(self, getter: Session, version: int, ordinals: list[int]) -> bool:
        """Note what a getter is given of a version; return whether others have to hear of it.

        Only of a version that is complete here: for the rest there are others to ask anyhow.
        """
        followers = sum(version in versions for versions in self.followers.values())
        if followers < 2 or not self.versions[version].is_complete:
            self.claims.pop(version, None)
            return False
        claims = self.claims.setdefault(version, Claims())
        claims.claim(getter, to_set(ordinals, self.versions[version].total))
        return True

    def take_claims(self) -> list[tuple[Session, Taken]]:
        """Return whom to tell what others were given."""
        told: list[tuple[Session, Taken]] = []
        for version, claims in list(self.claims.items()):
            if version not in self.versions:
                del self.claims[version]
                continue
            followers = [session for session, versions in self.followers.items() if version in versions]
            for session, taken in claims.take_news(followers):
                runs = make_runs(taken)
                for start in range(0, len(runs), RUNS):
                    told.append((session, Taken(self.share_id, version, runs[start : start + RUNS])))
        return told


def make_runs(ordinals: int) -> list[tuple[int, int]]:
    """Return a set as (first, count) runs."""
    runs: list[tuple[int, int]] = []
    for ordinal in bits(ordinals):
        if runs and runs[-1][0] + runs[-1][1] == ordinal:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((ordinal, 1))
    return runs
