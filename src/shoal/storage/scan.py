"""Scan: walks what a person wants to share and lists it in share order; reads no content.

Symbolic links are listed, never followed, except that a path given by the person may be one. What cannot be
shared (sockets, devices, unreadable folders, what vanishes meanwhile, Shoal's own folders) is listed as
skipped with the reason; what `.shoalignore` files leave out (ignore.py) is counted.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from shoal.content.manifest import ENTRY_LIMIT, EntryKind, permissions
from shoal.content.paths import (
    COMPONENT_BYTES,
    PART_PREFIX,
    VERSIONS_NAME,
    display_path,
    find_path_problem,
    find_top_problem,
)
from shoal.core.errors import LocalMisuse, Unavailable
from shoal.identity.keystore import DEVICE_FILE, DIRECTORY
from shoal.storage.entry_table import TIME_REASON, EntryTable, ScannedEntry, is_time_in_range
from shoal.storage.extents import Extents, find_extents
from shoal.storage.faults import fault_of_os_error
from shoal.storage.ignore import IgnoreRules, read_rules
from shoal.storage.system_folders import SystemFolders
from shoal.storage.tree_handles import DIRECTORY_FLAGS, READ_FLAGS

SKIPPED_LIMIT: Final = 10_000  # listed; more are counted
TOP_LIMIT: Final = 1024  # paths in one share
ROOT_NAME: Final = b"root"  # what "/" is called in a share
HOME_KEY: Final = os.path.join(DIRECTORY, DEVICE_FILE)  # what tells a home from other folders
HOME_REASON: Final = "it is the home of a Shoal node, with its keys"
SYSTEM_REASON: Final = "it shows the state of the system, not files"


class Skipped(NamedTuple):
    """What is not in the share, or was not written by a getter, and why."""

    path: bytes
    reason: str


@dataclass
class ScanResult:
    """Everything that a share will hold, in share order, if it does not change before it is read."""

    roots: dict[bytes, bytes] = field(default_factory=dict)  # top name -> absolute path without links
    entries: EntryTable = field(default_factory=EntryTable)
    skipped: list[Skipped] = field(default_factory=list)
    skipped_count: int = 0
    ignored_count: int = 0  # a folder counts once, whatever is in it
    total_bytes: int = 0
    data_bytes: int = 0

    def skip(self, path: bytes, reason: str) -> None:
        """List a path as skipped."""
        self.skipped_count += 1
        if len(self.skipped) < SKIPPED_LIMIT:
            self.skipped.append(Skipped(path, reason))


def scan(
    paths: Sequence[bytes], *, avoid: Sequence[bytes] = (), cancelled: threading.Event | None = None
) -> ScanResult:
    """List what lies at absolute `paths`, which become the top names of a share. Use a thread.

    `avoid` are folders that are never shared (the node's home). Raises: LocalMisuse for paths that cannot be
    shared at all or together, StorageFault for unreadable ones, Unavailable (code "cancelled").
    """
    return _Scanner(avoid, cancelled or threading.Event()).run(paths)


def check_root(path: bytes) -> None:
    """Check that a path that a person named can be shared at all, as `scan` would; looks at nothing below it.

    Raises: LocalMisuse, StorageFault.
    """
    _Scanner((), threading.Event()).check_root(*_resolve(path))


class _Scanner:
    def __init__(self, avoid: Sequence[bytes], cancelled: threading.Event) -> None:
        self._result = ScanResult()
        self._cancelled = cancelled
        self._system = SystemFolders()
        self._homes: set[tuple[int, int]] = set()
        for path in avoid:
            try:
                info = os.stat(path)
            except OSError:
                continue  # what is not there cannot be shared by accident
            self._homes.add((info.st_dev, info.st_ino))

    def run(self, paths: Sequence[bytes]) -> ScanResult:
        if not paths or len(paths) > TOP_LIMIT:
            raise LocalMisuse("Nothing to share", cause=f"1 to {TOP_LIMIT} paths are expected")
        roots: dict[bytes, bytes] = {}
        for path in paths:
            name, real = _resolve(path)
            if roots.setdefault(name, real) != real:
                raise LocalMisuse(
                    f"These paths cannot be one share: two of them are called {display_path(name)}",
                    cause=f"{display_path(roots[name])} and {display_path(real)}",
                    next_step="share them one by one, or share the folder above them",
                )
        for name in sorted(roots):
            self._add_root(name, roots[name])
        self._result.roots = roots
        return self._result

    def _find_reason(self, info: os.stat_result) -> str | None:
        """Return why a folder is not shared, or None."""
        if self._system.has(info):
            return SYSTEM_REASON
        return HOME_REASON if (info.st_dev, info.st_ino) in self._homes else None

    def check_root(self, name: bytes, real: bytes) -> os.stat_result:
        """Return what a top name is, if it can be shared. Raises: LocalMisuse, StorageFault."""
        what = f"{display_path(real)} cannot be shared"
        problem = find_top_problem(name)
        if problem is not None:
            raise LocalMisuse(what, cause=problem, next_step="share what lies in it, or rename it")
        try:
            info = os.stat(real, follow_symlinks=False)
            reason = self._find_reason(info)
            if reason is not None:
                raise LocalMisuse(what, cause=reason, next_step="share another folder", code="no_files")
            if stat.S_ISDIR(info.st_mode):
                fd = os.open(real, DIRECTORY_FLAGS)
                try:
                    if _is_home(fd):
                        raise LocalMisuse(what, cause=HOME_REASON, next_step="share another folder")
                    read_rules(fd, name, None)
                finally:
                    os.close(fd)
                return info
            if not stat.S_ISREG(info.st_mode):
                raise LocalMisuse(what, cause="it is neither a file nor a folder")
            os.close(os.open(real, READ_FLAGS))
            return info
        except FileNotFoundError as error:
            raise LocalMisuse(
                what, cause="it does not exist", next_step="check the path", code="not_found"
            ) from error
        except OSError as error:
            raise fault_of_os_error(error, what, display_path(real)) from error

    def _add_root(self, name: bytes, real: bytes) -> None:
        info = self.check_root(name, real)
        if stat.S_ISDIR(info.st_mode):
            self._add_directory(name, real, None, info, None)
        else:
            self._add_file(name, real, None, info)

    def _add_directory(
        self,
        path: bytes,
        name: bytes,
        parent: int | None,
        info: os.stat_result,
        above: IgnoreRules | None,
    ) -> None:
        if self._cancelled.is_set():
            raise Unavailable("Scanning was stopped", code="cancelled")
        try:
            fd = os.open(name, DIRECTORY_FLAGS, dir_fd=parent)
        except OSError as error:
            self._result.skip(path, reason_of(error))
            return
        try:
            if _is_home(fd):  # of another network, perhaps: its keys must not leave this machine
                self._result.skip(path, HOME_REASON)
                return
            try:
                rules = read_rules(fd, path, above)
            except (LocalMisuse, OSError) as error:
                cause = reason_of(error) if isinstance(error, OSError) else error.cause
                self._result.skip(path, f"what to leave out of it is not known: {cause}")
                return
            folder = ScannedEntry(path, EntryKind.DIR, permissions(info.st_mode), info.st_mtime_ns)
            if not self._append(folder):
                return
            for child, child_info in self._list(path, fd):
                child_path = path + b"/" + child
                problem = find_path_problem(child_path)
                if problem is not None:
                    self._result.skip(child_path, problem)
                elif rules is not None and rules.ignores(child_path, stat.S_ISDIR(child_info.st_mode)):
                    self._result.ignored_count += 1
                elif stat.S_ISDIR(child_info.st_mode):
                    reason = self._find_reason(child_info)
                    if reason is not None:
                        self._result.skip(child_path, reason)
                    elif child.startswith(PART_PREFIX):
                        self._result.skip(child_path, "it is an unfinished transfer of Shoal's")
                    elif child == VERSIONS_NAME:
                        self._result.skip(child_path, "it holds what a follow copy replaced")
                    else:
                        self._add_directory(child_path, child, fd, child_info, rules)
                elif stat.S_ISREG(child_info.st_mode):
                    self._add_file(child_path, child, fd, child_info)
                elif stat.S_ISLNK(child_info.st_mode):
                    self._add_link(child_path, child, fd, child_info)
                else:
                    self._result.skip(child_path, "it is neither a file nor a folder nor a link")
        finally:
            os.close(fd)

    def _list(self, path: bytes, fd: int) -> Iterator[tuple[bytes, os.stat_result]]:
        """Yield names and stats of a folder's children, sorted by name as bytes."""
        names: list[bytes] = []  # no stats: a folder may have a million children
        try:
            with os.scandir(fd) as children:
                names.extend(os.fsencode(child.name) for child in children)
        except OSError as error:
            self._result.skip(path, reason_of(error))
        names.sort()
        for name in names:
            try:
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except OSError as error:
                self._result.skip(path + b"/" + name, reason_of(error))
                continue
            yield name, info

    def _add_file(self, path: bytes, name: bytes, parent: int | None, info: os.stat_result) -> None:
        size = info.st_size
        extents: Extents | None = None
        if info.st_blocks * 512 < size:  # perhaps sparse: ask
            try:
                fd = os.open(name, READ_FLAGS, dir_fd=parent)
            except OSError as error:
                self._result.skip(path, reason_of(error))
                return
            try:
                found = find_extents(fd, os.fstat(fd))
                extents = found if sum(length for _, length in found) != size else None
            except OSError as error:
                self._result.skip(path, reason_of(error))
                return
            finally:
                os.close(fd)
        self._append(
            ScannedEntry(
                path,
                EntryKind.FILE,
                permissions(info.st_mode),
                info.st_mtime_ns,
                size,
                extents=extents,
            )
        )

    def _add_link(self, path: bytes, name: bytes, parent: int, info: os.stat_result) -> None:
        try:
            target = os.readlink(name, dir_fd=parent)
        except OSError as error:
            self._result.skip(path, reason_of(error))
            return
        self._append(
            ScannedEntry(path, EntryKind.SYMLINK, permissions(info.st_mode), info.st_mtime_ns, target=target)
        )

    def _append(self, entry: ScannedEntry) -> bool:
        """Take an entry in; False if it had to be skipped."""
        result = self._result
        if len(result.entries) >= ENTRY_LIMIT:
            raise LocalMisuse(
                "This is too much for one share",
                cause=f"it holds more than {ENTRY_LIMIT} files and folders",
                next_step="share its folders one by one",
            )
        if not is_time_in_range(entry.mtime_ns):
            result.skip(entry.path, TIME_REASON)
            return False
        result.entries.append(entry)
        result.total_bytes += entry.size
        result.data_bytes += entry.data_bytes
        return True


def _is_home(folder: int) -> bool:
    """Whether an open folder is the home of a node: it has the key of a device."""
    try:
        return stat.S_ISREG(os.stat(HOME_KEY, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _resolve(path: bytes) -> tuple[bytes, bytes]:
    """Return (top name, absolute path without links) of a path that a person gave."""
    if not path.startswith(b"/") or b"\x00" in path:
        raise LocalMisuse(f"{display_path(path)} is not an absolute path")
    name = os.path.basename(os.path.normpath(path)) or ROOT_NAME
    if len(name) > COMPONENT_BYTES:
        raise LocalMisuse(f"{display_path(path)} cannot be shared", cause="its name is too long")
    try:
        real = os.path.realpath(path, strict=True)
    except FileNotFoundError as error:
        raise LocalMisuse(
            f"{display_path(path)} cannot be shared",
            cause="it does not exist",
            next_step="check the path",
            code="not_found",
        ) from error
    except OSError as error:
        raise fault_of_os_error(
            error, f"{display_path(path)} cannot be shared", display_path(path)
        ) from error
    return name, real


def reason_of(error: OSError) -> str:
    """Say for people why something below a share was skipped."""
    if isinstance(error, FileNotFoundError):
        return "it vanished while it was read"
    if isinstance(error, PermissionError):
        return "it may not be read"
    return f"it could not be read: {error.strerror or error}"
