"""Free memory: gives memory that was used for a while back to the system."""

from __future__ import annotations

import ctypes
import sys


def return_memory() -> None:
    """Return what the C library keeps of freed memory; a few milliseconds. Nothing where it cannot be asked.

    Measured with 100,000 files, twice: 18 MiB less of what a sharer holds afterwards, 9 MiB less of a getter.
    """
    if _trim is not None:
        _trim(0)


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_trim = getattr(_libc, "malloc_trim", None)  # glibc's own
