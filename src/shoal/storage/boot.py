"""Boot: which start of the operating system this is.

What was written without fsync is whole as long as the machine did not restart (also after kill -9); after
another boot it has to be verified again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import lru_cache
from uuid import UUID

BOOT_ID_BYTES = 16


@lru_cache(maxsize=1)
def read_boot_id() -> bytes:
    """Return 16 bytes that change with every start of the machine; random where it does not tell them."""
    try:
        return UUID(_read_text().strip()).bytes
    except (OSError, ValueError, subprocess.SubprocessError):
        return os.urandom(BOOT_ID_BYTES)  # equal to no other: everything is verified again


def _read_text() -> str:
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
        return subprocess.run(command, capture_output=True, text=True, timeout=2, check=True).stdout
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read()
