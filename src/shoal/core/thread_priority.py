"""Thread priority: lets a thread stand back behind those that move bytes; background work for the disk too.

There is no way back without privileges, so such work has threads of its own. What the system does not offer
is left out in silence: then the thread runs as any other.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
import threading

NICE = 10  # about a tenth of the share of a thread with 0
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "i686": 289, "armv7l": 314, "riscv64": 30}  # Linux, by machine
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_LOWEST = 2 << 13 | 7  # best effort, lowest level: never starved, unlike the idle class
_PRIO_DARWIN_THREAD, _PRIO_DARWIN_BACKGROUND = 3, 0x1000  # macOS, sys/resource.h: CPU and disk


def yield_cpu() -> None:
    """Put the calling thread behind the others for CPU alone, for the rest of its life; on Linux only.

    A get of 1 GiB on two cores, while its provider hashes: 268 MiB/s without, 467 with nice 5, 522 with 10;
    568 to 590 when nobody hashes.
    """
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def lower_thread_priority() -> None:
    """Put the calling thread behind the others, for the rest of its life."""
    with contextlib.suppress(OSError):
        if sys.platform == "darwin":
            os.setpriority(_PRIO_DARWIN_THREAD, 0, _PRIO_DARWIN_BACKGROUND)
        elif sys.platform.startswith("linux"):
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, NICE)
            number = _IOPRIO_SET.get(platform.machine())
            if number is not None:
                ctypes.CDLL(None).syscall(number, _IOPRIO_WHO_PROCESS, thread, _IOPRIO_LOWEST)
