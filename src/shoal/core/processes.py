"""Processes: whether one of this user's still runs."""

from __future__ import annotations

import os


def is_alive(pid: int) -> bool:
    """Say whether a process still runs; one that is dead but not waited for does not."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] != b"Z"
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not os.path.exists("/proc/self")  # where there is no /proc, kill has said that it lives
    except OSError:
        return True
