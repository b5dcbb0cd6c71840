"""Removals: a version of a watched share that has lost nearly all of its files is held back.

A disk that is not mounted, a folder emptied by mistake, a `.shoalignore` that matches everything: every
follower would take away what it has. Who shares it says so if it is meant.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from shoal.content.manifest import EntryKind, Manifest
from shoal.core.errors import Refused
from shoal.storage.ignore import IGNORE_NAME

LEAST_FILES: Final = 10  # shares with fewer may lose all but one of them; wild guess
LEFT_PART: Final = 10  # held back is what leaves less than a tenth; wild guess


def check_removals(before: Manifest, now: Manifest) -> None:
    """Raises: Refused (code "emptied") if all files of a version are gone, or nearly all of them."""
    if now.file_count >= max(LEAST_FILES, before.file_count // LEFT_PART + 1):
        return
    names = set(_iter_files(now))  # less than a tenth of those before, or a few
    there, left = sum(1 for _ in _iter_files(before)), len(names)
    if not there or (left and (there < LEAST_FILES or left * LEFT_PART >= there)):
        return
    lost = there - sum(path in names for path in _iter_files(before))
    gone = "all files are gone" if lost == there else f"{lost} of {there} files are gone"
    raise Refused(
        "No new version was made",
        cause=f"{gone}: the disk may not be there, or .shoalignore leave out too much",
        next_step="bring them back; or if it is meant: shoal share --accept-removals PATH",
        code="emptied",
    )


def _iter_files(manifest: Manifest) -> Iterator[bytes]:
    """Yield the paths of files, without those that only say what is left out."""
    paths = (manifest.path(index) for index in manifest.iter_kind(EntryKind.FILE))
    return (path for path in paths if path.rpartition(b"/")[2] != IGNORE_NAME)
