"""Provision store: the pages of keys that members signed, and our own cut into pages. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from shoal.core.units import MIB
from shoal.overlay.provider_index import TTL_S
from shoal.overlay.provision import PAGE_KEYS, PAGES, Provision
from shoal.wire.limits import MEMBERS

SMALL_PAGE = 32  # keys: 1.3 KiB
# of all members; the page that was replaced longest ago gives way. Bytes, so that ten thousand members with a
# few keys each all have a place: what had none would be asked for in every round of anti-entropy
KEPT_BYTES = 20 * MIB
KEPT = 2 * MEMBERS


class OwnPages:
    """Our keys, each on one page, so that a key that comes or goes, or a feed that grows, costs one page.

    Pages are filled to SMALL_PAGE first: what is broadcast for a feed that grows often should be small.
    """

    def __init__(self) -> None:
        self._pages: list[dict[bytes, int]] = []  # at most PAGES of PAGE_KEYS: entries by key
        self._page_of: dict[bytes, int] = {}
        self._dirty: dict[int, None] = {}
        self._least: dict[int, int] = {}  # seqs that have been used; at most PAGES

    def put(self, key: bytes, entries: int = 0) -> bool:
        """Provide a key; return whether that is to be told. `entries` of a feed that is ours only grow.

        What fits no page any more is not told: provider_index.py bounds keys lower.
        """
        page = self._page_of.get(key)
        if page is not None and self._pages[page][key] >= entries:
            return False
        if page is None:
            page = self._find_page()
            if page is None:
                return False
            self._page_of[key] = page
        self._pages[page][key] = entries
        self._dirty[page] = None
        return True

    def _find_page(self) -> int | None:
        for limit in (SMALL_PAGE, PAGE_KEYS):
            for page, keys in enumerate(self._pages):
                if len(keys) < limit:
                    return page
            if len(self._pages) < PAGES:
                self._pages.append({})
                return len(self._pages) - 1
        return None

    def drop(self, key: bytes) -> None:
        """Provide a key no more."""
        page = self._page_of.pop(key, None)
        if page is not None:
            del self._pages[page][key]
            self._dirty[page] = None

    def renew(self) -> None:
        """Let all pages be signed anew."""
        self._dirty.update(dict.fromkeys(range(len(self._pages))))

    def note(self, page: int, seq: int) -> None:
        """A seq of a page has been used, perhaps before a crash."""
        self._least[page] = max(seq + 1, self._least.get(page, 0))

    def take_over(self, page: int, seq: int) -> None:
        """Others have a page of ours with a seq that we do not know of: sign a higher one."""
        self.note(page, seq)
        self._dirty[page] = None

    def take_dirty(self) -> list[tuple[int, int, tuple[bytes, ...], tuple[int, ...]]]:
        """Return the pages to be signed: page, least seq, keys, entries."""
        dirty, self._dirty = self._dirty, {}
        found = []
        for page in sorted(dirty):
            keys = self._pages[page] if page < len(self._pages) else {}
            found.append((page, self._least.get(page, 0), tuple(keys), tuple(keys.values())))
        return found


class ProvisionStore:
    """The newest provision of every member and page, at most KEPT of KEPT_BYTES together.

    Each counts TTL_S from when it was signed, as far as is known here.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[bytes, int], Provision] = OrderedDict()
        self._signed: dict[tuple[bytes, int], float] = {}  # when; exactly of those
        self._bytes = 0

    def find(self, peer: bytes, page: int) -> Provision | None:
        """Return what is kept."""
        return self._kept.get((peer, page))

    def signed_at(self, peer: bytes, page: int) -> float:
        """Return when what is kept was signed."""
        return self._signed[peer, page]

    def put(self, provision: Provision, signed_at: float, now: float) -> list[bytes] | None:
        """Keep a provision if it is newer and still counts; return the keys it withdraws, or None."""
        before = self.find(provision.peer_id, provision.page)
        if not provision.is_newer(before) or signed_at + TTL_S <= now:
            return None
        slot = (provision.peer_id, provision.page)
        self._kept[slot], self._signed[slot] = provision, signed_at
        self._kept.move_to_end(slot)
        self._bytes += len(provision.packed) - (0 if before is None else len(before.packed))
        while len(self._kept) > KEPT or self._bytes > KEPT_BYTES:
            self._forget(next(iter(self._kept)))
        keys = set(provision.keys)
        return [] if before is None else [key for key in before.keys if key not in keys]

    def renew(self, provision: Provision, signed_at: float) -> bool:
        """Note that what is kept is said to be of later; return whether it is, and was thought older.

        Ages are signed by nobody: else who tells one first could end what others bring as new.
        """
        slot = (provision.peer_id, provision.page)
        if self._kept.get(slot) != provision or signed_at <= self._signed[slot]:
            return False
        self._signed[slot] = signed_at
        return True

    def drop(self, peer: bytes) -> None:
        """Forget a device."""
        for page in range(PAGES):
            self._forget((peer, page))

    def sweep(self, now: float) -> None:
        """Forget what its device has not signed anew: it is away, or provides nothing on that page."""
        for slot in [slot for slot, signed_at in self._signed.items() if signed_at + TTL_S <= now]:
            self._forget(slot)

    def _forget(self, slot: tuple[bytes, int]) -> None:
        dropped = self._kept.pop(slot, None)
        if dropped is not None:
            del self._signed[slot]
            self._bytes -= len(dropped.packed)

    def all(self) -> Iterable[Provision]:
        """Return every provision, longest kept first."""
        return self._kept.values()
