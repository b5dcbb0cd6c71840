"""Boot: which start of the operating system this is, and which plugging in of a disk.

What was written without fsync is whole as long as the machine did not restart (also after kill -9) and nobody
pulled the disk out; after that it has to be verified again.
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


def read_disk_id(fd: int) -> bytes:
    """Return bytes that differ when an open file or folder lies on another disk, in another place on it, or
    (Linux from 5.15 on) when the disk was pulled out and put in again. Raises: OSError.
    """
    info = os.fstat(fd)
    return f"{info.st_dev} {info.st_ino} {_read_sequence(info.st_dev)}".encode()


def _read_sequence(device: int) -> str:
    """Return the number that the kernel gave the disk when it appeared, nothing where there is none."""
    where = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    for path in (f"{where}/diskseq", f"{where}/../diskseq"):  # of a disk, of the disk of a partition
        try:
            with open(path, encoding="ascii") as file:
                return file.read().strip()
        except OSError:
            continue
    return ""


def _read_text() -> str:
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
        return subprocess.run(command, capture_output=True, text=True, timeout=2, check=True).stdout
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read()
