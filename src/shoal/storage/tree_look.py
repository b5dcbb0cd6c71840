"""Tree look: whether the files of a shared tree are what was hashed, by size and time; reads no content."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import NamedTuple

from shoal.content.manifest import EntryKind, Manifest
from shoal.core.errors import Unavailable
from shoal.storage.tree_reader import is_same_time


class TreeLook(NamedTuple):
    """What a look found: how many files are gone or otherwise, and the first of them with its fault."""

    gone: int
    changed: int
    path: bytes = b""
    fault: str = ""


def look_at_tree(
    roots: Mapping[bytes, bytes], manifest: Manifest, cancelled: threading.Event | None = None
) -> TreeLook:
    """Compare every file with a manifest: 3 microseconds each from memory. Use a thread.

    `roots` = for each top name the absolute path where it lies. Raises: Unavailable (code "cancelled").
    """
    gone = changed = 0
    first, fault = b"", ""
    for index in manifest.iter_kind(EntryKind.FILE):
        if cancelled is not None and cancelled.is_set():
            raise Unavailable("The look was stopped", code="cancelled")
        path = manifest.path(index)
        top, slash, below = path.partition(b"/")
        why = ""
        try:
            info = os.stat(roots.get(top, b"/\0") + slash + below, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            gone += 1
            why = "it is gone"
        except OSError as error:
            changed += 1
            why = error.strerror or str(error)
        else:
            if info.st_size != manifest.size(index) or not is_same_time(
                info.st_mtime_ns, manifest.mtime_ns(index)
            ):
                changed += 1
                why = "it was changed"
        if why and not first:
            first, fault = path, why
    return TreeLook(gone, changed, first, fault)
