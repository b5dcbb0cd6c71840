"""Home check: whether a directory may be used as a home, and what to do where it may not."""

from __future__ import annotations

import os
import pwd
import stat

from shoal.core.errors import ConfigFault, StorageFault
from shoal.storage.faults import ascii_path, fault_of_os_error

HOME_VERSION = 1
VERSION_PREFIX = "shoal home "
# what may lie in a directory that becomes a home: what people write before the first start, and what a
# start that was killed half-way leaves
_MAY_PRECEDE = frozenset({"config.toml", "lock", "log", "version.new"})


def check_directory(where: str) -> None:
    """Check kind, owner, mode and writability of a home. Raises: ConfigFault, each with its own code."""
    shown = ascii_path(where)
    try:
        status = os.stat(where)
    except FileNotFoundError:
        raise no_home(where) from None
    except OSError as error:
        raise not_writable(where, error) from error
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigFault(
            f"The home {shown} cannot be used",
            cause="it is not a directory",
            next_step="choose another with --home or SHOAL_HOME",
            code="home_kind",
        )
    if status.st_uid != os.geteuid():
        raise ConfigFault(
            f"The home {shown} cannot be used",
            cause=f"it belongs to {_user_name(status.st_uid)}, and this is {_user_name(os.geteuid())}",
            next_step="run shoal as that user, or choose another home with --home or SHOAL_HOME",
            code="home_owner",
        )
    if status.st_mode & 0o077:
        raise ConfigFault(
            f"The home {shown} cannot be used",
            cause=f"other users can get into it: its mode is {stat.S_IMODE(status.st_mode):04o}, not 0700",
            next_step=f"chmod 700 {shown}",
            code="home_permissions",
        )
    if not os.access(where, os.R_OK | os.W_OK | os.X_OK):
        raise not_writable(where, None)


def read_version(where: str) -> int | None:
    """Return a home's version, None where there is none yet. Raises: ConfigFault, StorageFault."""
    try:
        with open(os.path.join(where, "version"), encoding="ascii", errors="replace") as file:
            text = file.read(64).strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise fault_of_os_error(error, "The home's version was not read", where) from error
    number = text.removeprefix(VERSION_PREFIX)
    if not text.startswith(VERSION_PREFIX) or not number.isdecimal():
        raise ConfigFault(
            f"The home {ascii_path(where)} cannot be used",
            cause=f"its file `version` does not say {VERSION_PREFIX!r} and a number",
            next_step=f"restore that file; homes of this release say '{VERSION_PREFIX}{HOME_VERSION}'",
            code="home_version",
        )
    return int(number)


def check_unused(where: str) -> None:
    """Check that a directory without version holds nothing but what may precede one. Raises: ConfigFault."""
    strange = sorted(set(os.listdir(where)) - _MAY_PRECEDE)
    if strange:
        raise ConfigFault(
            f"The home {ascii_path(where)} cannot be used",
            cause=f"it is not a home of shoal and holds other files, e.g. {ascii_path(strange[0])}",
            next_step="choose an empty or new directory with --home or SHOAL_HOME",
            code="home_foreign",
        )


def no_home(where: str) -> ConfigFault:
    """Return the fault of a directory that is no home."""
    return ConfigFault(
        f"There is no network in {ascii_path(where)}",
        cause="it is not a home of shoal",
        next_step="make a network with `shoal up`, join one with `shoal join`, or name the right home "
        "with --home or SHOAL_HOME",
        code="no_home",
    )


def not_writable(where: str, error: OSError | None) -> ConfigFault | StorageFault:
    """Return the fault of a home that cannot be written, or of its full disk."""
    if error is not None and fault_of_os_error(error, "", where).code == "disk_full":
        return fault_of_os_error(error, f"The home {ascii_path(where)} cannot be used", where)
    reason = (error.strerror if error else None) or "no permission to read and write it"
    return ConfigFault(
        f"The home {ascii_path(where)} cannot be used",
        cause=reason,
        next_step="make it readable and writable for you, or choose another with --home or SHOAL_HOME",
        code="home_not_writable",
    )


def _user_name(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user number {uid}"
