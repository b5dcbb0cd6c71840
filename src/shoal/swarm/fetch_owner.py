"""Fetch owner: who wanted a share that fetch.py gets, as the fetch sees it."""

from __future__ import annotations

from typing import Protocol

from shoal.core.errors import StorageFault


class FetchOwner(Protocol):
    """Who wanted the share; called on the loop, must be short."""

    @property
    def entry_count(self) -> int:
        """How many feed entries are known: the next one to read."""
        ...

    def on_entries(self, peer: bytes, entries: list[bytes]) -> None:
        """Take feed entries, the first of number `entry_count`, or one that is known, to be compared.

        Raises: RemoteFault if they do not verify.
        """
        ...

    def on_chunks(self, peer: bytes, ordinals: list[int], size_bytes: int) -> None:
        """Note that chunks from a peer are written; another one may have brought them before."""
        ...

    def on_blamed(self, peer: bytes) -> None:
        """A peer sent wrong data and is not asked any more."""
        ...

    def on_fault(self, error: StorageFault) -> None:
        """The disk refused a chunk; nothing more will be asked for."""
        ...

    def on_finished(self) -> None:
        """Every chunk is written. A thread may still write one a second time until `close` returns."""
        ...
