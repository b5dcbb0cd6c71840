"""Content schema: looking into a share, and pipes into and out of one, as JSON."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from shoal.api.paths import PathValue
from shoal.api.schema import Request

LIST_LIMIT = 1000  # entries of a page if nobody says another number
LIST_MOST = 10_000

EntryKindName = Literal["file", "folder", "link"]


class ListRequest(Request, frozen=True, kw_only=True):
    """Look into a share. `path`: an entry, which means what is below it too, or the beginning of paths."""

    link: str
    path: PathValue = ""
    limit: int = LIST_LIMIT


class ListedEntry(Struct, frozen=True, kw_only=True):
    """One entry. `path` is escaped for people; where that is not its name, `raw` is. `bytes` of files."""

    path: str
    kind: EntryKindName
    bytes: int | None
    mtime: str
    mode: str
    target: str | UnsetType = UNSET
    raw: PathValue | UnsetType = UNSET


class ListPage(Struct, frozen=True, kw_only=True):
    """What a share holds at a path: `entries` are the first ones, `more` follow. `files` and `bytes` count
    all of it.
    """

    share_id: str
    name: str
    version: int
    content_id: str
    files: int
    bytes: int
    entries: list[ListedEntry]
    more: int


class ShareStreamRequest(Request, frozen=True, kw_only=True):
    """Share what comes as the body, as a file of that name. It is kept in the home until it is unshared."""

    name: PathValue
    background: bool = False


class GetStreamRequest(Request, frozen=True, kw_only=True):
    """Ask for the one file that a link names, or that `only` selects of it, from its beginning to its end."""

    link: str
    only: tuple[PathValue, ...] = ()
    wait_s: float | None = 0.0
    background: bool = False


class StreamResult(Struct, frozen=True, kw_only=True):
    """What a stream was, all of it."""

    name: str
    bytes: int
    fetched_bytes: int
    seconds: float
    providers: dict[str, int]
