"""Doctor: looks for what keeps a node from working, before anything runs: permissions, disk, clock, ports.

`examine` needs no running node; what only a running one can know is its `diagnose` operation.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import stat
import time

from shoal.api.schema import Check
from shoal.core.errors import LocalMisuse, ShoalError
from shoal.core.units import GIB, MIB, format_size, format_time
from shoal.node.config import NodeConfig, load_config
from shoal.node.listen import describe_fault, find_fault
from shoal.storage.home import Home, find_daemon, has_home

RELEASED_AT = 1_795_000_000  # November 2026: no right clock shows less than the age of this code
CLOCK_SKEW_WARN_S = 60.0  # security.md, D23
SPACE_WARN_BYTES = 1 * GIB  # wild guess
SPACE_FAIL_BYTES = 64 * MIB  # what the database's log may take before a checkpoint
FILES_WARN = 1024


def examine(home: str) -> list[Check]:
    """Run every check that needs no node, in the order in which a fault hides the next."""
    checks = [
        _check_home(home),
        *_check_settings(home),
        _check_disk(home),
        _check_clock(home),
        _check_files(),
    ]
    with contextlib.suppress(ShoalError):  # bad settings have been reported
        if find_daemon(home) is None:
            checks += _check_ports(load_config(home))
    return checks


def _check_home(home: str) -> Check:
    if not has_home(home) and not os.path.exists(home):
        return Check(
            "home", "warn", f"{home} has no network yet", "shoal up makes one, shoal join enters one"
        )
    try:
        Home.open(home, lock=False).close()
        _check_private(home)
    except ShoalError as error:
        return Check("home", "fail", error.cause or error.message, error.next_step)
    pid = find_daemon(home)
    running = f"process {pid} runs its node" if pid else "no node runs"
    return Check("home", "ok", f"{home}, only yours; {running}")


def _check_private(home: str) -> None:
    """Raises: LocalMisuse that names the first file of keys or data that others can read."""
    keys = os.path.join(home, "keys")
    secret = [os.path.join(keys, name) for name in sorted(os.listdir(keys))] if os.path.isdir(keys) else []
    for path in (keys, *secret, os.path.join(home, "shoal.db"), os.path.join(home, "log")):
        with contextlib.suppress(FileNotFoundError):
            mode = stat.S_IMODE(os.lstat(path).st_mode)
            if mode & 0o077:
                raise LocalMisuse(
                    f"{path} is open to others",
                    cause=f"{path} has mode {mode:04o}",
                    next_step=f"chmod go= {path}",
                )


def _check_settings(home: str) -> list[Check]:
    try:
        config = load_config(home)
    except ShoalError as error:
        return [Check("settings", "fail", f"{error.message}: {error.cause}", error.next_step)]
    given = [key for key, origin in config.origins.items() if origin != "default"]
    return [Check("settings", "ok", f"{len(given)} of {len(config.origins)} are set by file or environment")]


def _check_disk(home: str) -> Check:
    place = home
    while not os.path.exists(place):
        place = os.path.dirname(place)
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Check(
            "disk", "fail", f"{place}: {error.strerror}", "check that the disk is mounted and healthy"
        )
    text = f"{format_size(free)} free for {home}"
    if free < SPACE_FAIL_BYTES:
        return Check("disk", "fail", text, "make room: the node cannot write its database")
    if free < SPACE_WARN_BYTES:
        return Check("disk", "warn", text, "make room soon")
    return Check("disk", "ok", text)


def _check_clock(home: str) -> Check:
    now = time.time()
    newest = RELEASED_AT
    for name in ("shoal.db", "shoal.db-wal", "version"):
        with contextlib.suppress(OSError):
            newest = max(newest, int(os.stat(os.path.join(home, name)).st_mtime))
    if now < newest - CLOCK_SKEW_WARN_S:
        return Check(
            "clock",
            "fail",
            f"it shows {format_time(now)}, but this home was written to at {format_time(newest)}",
            "set the clock, best by a time service (timedatectl set-ntp true)",
        )
    return Check("clock", "ok", format_time(now))


def _check_files() -> Check:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES_WARN:
        return Check(
            "open files", "warn", f"at most {hard} at once", "raise the limit: ulimit -n, or limits.conf"
        )
    return Check("open files", "ok", "no limit" if hard == resource.RLIM_INFINITY else f"at most {hard}")


def _check_ports(config: NodeConfig) -> list[Check]:
    """Try to listen where the settings say; only sensible while no node does."""
    fixed = config.origins["listen"] != "default"
    checks = []
    for address in config.listen_addresses:
        fault = find_fault(address)
        if fault is None:
            checks.append(Check("port", "ok", f"{address} can be listened on"))
        elif fixed:
            step = "stop what uses it, or choose another: shoal config set listen 0.0.0.0:0"
            checks.append(Check("port", "fail", f"{address}: {describe_fault(fault)}", step))
        else:
            checks.append(
                Check("port", "ok", f"{address}: {describe_fault(fault)}; the node does without it")
            )
    return checks
