"""Free memory: gives memory that was used for a while back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Final

from shoal.core.units import MIB

KEPT_FREE_BYTES: Final = 4 * MIB  # a larger buffer gets pages of its own. Lanes' buffers are smaller
KEPT_END_BYTES: Final = 16 * MIB  # of the heap, until `return_memory`; with 4 a transfer took 5 % more CPU
_TRIM_THRESHOLD: Final = -1  # numbers of mallopt(3)
_MMAP_THRESHOLD: Final = -3
_ARENA_MAX: Final = -8


def settle_memory() -> None:
    """Take what is there now as there to stay, so that later collections look only at what came after it.

    Once, when everything is loaded; 10 ms. A collection takes that long without it, and 1 ms with it.
    """
    gc.collect()
    gc.freeze()


def return_memory() -> None:
    """Return what Python and the C library keep of freed memory; a few milliseconds.

    A collection not only frees cycles: what Python keeps for reuse (tuples, frames) lies scattered after long
    work, and each piece holds a whole MiB of its heap. Measured after hashing 100,000 files: 16 MiB of that,
    of a node that held 38.
    """
    gc.collect()
    if _trim is not None:
        _trim(0)


def bound_free_memory() -> None:
    """Let the C library keep little of what is freed, and all of it in one heap; Linux only. Before other
    threads begin.

    By itself it learns from large buffers that come and go (those of hashing) to keep up to 64 MiB at the
    end of each thread's heap. `return_memory` reaches the end of the first heap only, so there are no others:
    what moves bytes allocates too little for threads to stand in each other's way (transfers are as fast).
    """
    set_option = getattr(_libc, "mallopt", None)
    if set_option is not None:
        set_option(_ARENA_MAX, 1)
        set_option(_MMAP_THRESHOLD, KEPT_FREE_BYTES)
        set_option(_TRIM_THRESHOLD, KEPT_END_BYTES)


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_trim = getattr(_libc, "malloc_trim", None)  # glibc's own; nothing where it cannot be asked
