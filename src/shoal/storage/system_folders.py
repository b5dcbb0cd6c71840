"""System folders: what shows the state of the system, and has no files that anybody could share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

FOLDERS: Final = (b"/proc", b"/sys", b"/dev")
MOUNTS: Final = "/proc/self/mountinfo"  # Linux; elsewhere FOLDERS have to do
# not autofs: a disk that is mounted when somebody looks into it is shown as that until then
TYPES: Final = frozenset(
    [
        "binfmt_misc",
        "bpf",
        "cgroup",
        "cgroup2",
        "configfs",
        "debugfs",
        "devpts",
        "devtmpfs",
        "efivarfs",
        "fusectl",
        "mqueue",
        "nsfs",
        "proc",
        "pstore",
        "rpc_pipefs",
        "securityfs",
        "selinuxfs",
        "sysfs",
        "tracefs",
    ]
)


class SystemFolders:
    """What the system shows now: its folders as (device, number), and its file systems by device."""

    def __init__(self, mounts: str = MOUNTS, folders: Sequence[bytes] = FOLDERS) -> None:
        self._folders: set[tuple[int, int]] = set()
        for folder in folders:
            try:
                info = os.stat(folder)
            except OSError:
                continue  # what is not there cannot be shared by accident
            self._folders.add((info.st_dev, info.st_ino))
        self._devices = _find_devices(mounts)

    def has(self, info: os.stat_result) -> bool:
        """Whether a file or folder is one of these, or lies in one."""
        return info.st_dev in self._devices or (info.st_dev, info.st_ino) in self._folders


def _find_devices(mounts: str) -> set[int]:
    """Return the devices of mounted file systems that are none. proc(5): `36 35 98:0 / /mnt rw - ext3 ...`"""
    devices: set[int] = set()
    try:
        with open(mounts, "rb") as file:
            for line in file:
                before, _, after = line.partition(b" - ")
                if after.split(b" ", 1)[0].decode("ascii", "replace") in TYPES:
                    major, minor = before.split(b" ")[2].split(b":")
                    devices.add(os.makedev(int(major), int(minor)))
    except (OSError, ValueError, IndexError):
        return devices  # another system, or one that says it otherwise
    return devices
