"""Placement: gives a complete part tree its final names, modes and times.

Order, so that a crash at any point loses nothing and shows no half-written file: attributes of files, links,
comparison with what lies there, attributes of folders, sync, renames, attributes that would have been in the
way (folders that may not be written to), sync. Running it again after a crash ends in the same tree; when it
returns every file and every folder with its names is on the disk.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from shoal.content.comparison import iter_gone
from shoal.content.manifest import EntryKind, FileEntry, Manifest
from shoal.content.paths import display_path, find_target_problem, top_name
from shoal.core.errors import Refused
from shoal.storage.destination import Destination, Place
from shoal.storage.disk_space import rename_new, sync_file_system
from shoal.storage.part_tree import OWN_DIRECTORY, OWN_FILE, PartTree, sync_faults
from shoal.storage.scan import SKIPPED_LIMIT, Skipped
from shoal.storage.selected_chunks import SelectedChunks
from shoal.storage.tree_handles import DIRECTORY_FLAGS, READ_FLAGS, TreeHandles
from shoal.storage.tree_reader import is_same_time
from shoal.storage.versions_folder import VersionsFolder

SYNC_EACH_LIMIT: Final = 32  # with more files and folders one sync of the whole file system is faster


class Placement:
    """Finishes one transfer. One thread; nothing may be written to the part tree meanwhile."""

    def __init__(
        self,
        chunks: SelectedChunks,
        part: PartTree,
        destination: Destination,
        base: int,
        versions: VersionsFolder | None = None,
        owned: Manifest | None = None,
    ) -> None:
        """With `versions` what is replaced moves there, and what only `owned`, the version before, has."""
        self._chunks = chunks
        self._manifest = chunks.manifest
        self._part = part
        self._destination = destination
        self._base = base
        self._versions = versions
        self._owned = owned
        self._syncs_each = self._can_sync_each()
        self.skipped: list[Skipped] = []

    def run(self, *, overwrite: bool) -> None:
        """Do all of it. Raises: OSError, StorageFault; Refused (code "exists") before anything is renamed."""
        self._destination.refuse_changed()
        self._complete()
        self._settle(overwrite=overwrite)
        self._dress_folders(self._part.handles, free=True)
        if not self._syncs_each:
            with sync_faults():
                sync_file_system(self._part.fd)
        self._rename_all(overwrite=overwrite)
        self._remove_gone()
        self._dress_folders(self._destination.handles, free=False)
        self._dress_kept()
        if self._syncs_each:
            os.fsync(self._base)
            self._sync_above()
        else:
            sync_file_system(self._base)

    def _can_sync_each(self) -> bool:
        count = self._chunks.file_count()
        if (
            self._versions is not None or count > SYNC_EACH_LIMIT
        ):  # what moves away leaves many folders changed
            return False
        folders = self._manifest.iter_kind(EntryKind.DIR)
        return count + sum(self._chunks.has(index) for index in folders) <= SYNC_EACH_LIMIT

    def _sync_above(self) -> None:
        """Save the name of DEST, which may be new."""
        try:
            above = os.open("..", DIRECTORY_FLAGS, dir_fd=self._base)
        except PermissionError:  # it may be passed through but not read
            sync_file_system(self._base)
            return
        try:
            os.fsync(above)
        finally:
            os.close(above)

    def _complete(self) -> None:
        """Make files, links and what has no data, with their attributes, in the part tree."""
        manifest, places = self._manifest, self._destination.places
        for index in self._part.iter_unfinished():
            if places[index] in (Place.SAME, Place.OUT):
                continue
            kind = manifest.kind(index)
            if kind is EntryKind.FILE:
                self._part.complete(index, sync=self._syncs_each)
            elif kind is EntryKind.SYMLINK:
                self._make_link(manifest.entry(index))

    def _make_link(self, entry: FileEntry) -> None:
        problem = find_target_problem(entry.path, entry.target)
        if problem is None:
            self._part.make_link(entry)
        elif len(self.skipped) < SKIPPED_LIMIT:
            self.skipped.append(Skipped(entry.path, f"link not created: {problem}"))

    def _settle(self, *, overwrite: bool) -> None:
        """Compare files of which it is not known yet whether they are the same as those that lie there."""
        destination, part = self._destination, self._part
        for index in destination.iter_at(Place.UNKNOWN):
            path = self._manifest.path(index)
            destination.note(index)
            fd = part.handles.open(path)
            try:
                same = destination.compare(index, fd)
            finally:
                os.close(fd)
            destination.places[index] = Place.SAME if same else Place.DIFFERENT
            if same:
                with part.handles.parent_of(path) as (parent, name):
                    os.unlink(name, dir_fd=parent)
        if not overwrite:
            destination.refuse_different()

    def _rename_all(self, *, overwrite: bool) -> None:
        manifest, destination = self._manifest, self._destination
        index, next_index = 0, 0
        while (index := next_index) < len(manifest):
            next_index = index + 1
            place = destination.places[index]
            if place in (Place.SAME, Place.OUT):
                continue
            path = manifest.path(index)
            kind = manifest.kind(index)
            if kind is EntryKind.SYMLINK and find_target_problem(path, manifest.entry(index).target):
                continue
            next_index = manifest.find_below(index)  # all that is below a folder goes with it
            replace = place == Place.DIFFERENT and (
                overwrite or (bool(destination.ours[index]) and destination.is_untouched(index))
            )
            self._rename(path, replace=replace)

    def _rename(self, path: bytes, *, replace: bool) -> None:
        part, destination = self._part.handles, self._destination.handles
        with part.parent_of(path) as (source, name), destination.parent_of(path) as (target, _):
            if source is None or target is None:  # both trees have a base
                raise AssertionError
            try:
                if replace and self._versions is not None:
                    try:
                        self._versions.move(path, name, target)
                    except FileNotFoundError:
                        pass  # it is gone by itself
                    destination.forget(path)
                    rename_new(name, name, source_dir=source, target_dir=target)
                elif replace:
                    os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
                else:
                    rename_new(name, name, source_dir=source, target_dir=target)
            except FileExistsError as error:
                raise Refused(
                    f"{display_path(path)} was not written",
                    cause="something appeared there meanwhile",
                    next_step="move it away and run the same command again; nothing is fetched twice",
                    code="exists",
                ) from error
        part.forget(path)

    def _remove_gone(self) -> None:
        """Move what the earlier version had and this one has not to the versions folder; folders that are
        empty then are removed, others hold what is not ours.
        """
        if self._versions is None or self._owned is None:
            return
        owned, handles = self._owned, self._destination.handles
        for index in iter_gone(owned, self._manifest):
            path = owned.path(index)
            try:
                with handles.parent_of(path) as (parent, name):
                    if parent is None:
                        raise AssertionError
                    if owned.kind(index) is EntryKind.DIR:
                        handles.forget(path)
                        os.rmdir(name, dir_fd=parent)
                    else:
                        self._versions.move(path, name, parent)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST):
                    raise

    def _dress_folders(self, handles: TreeHandles, *, free: bool) -> None:
        """Give folders mode and time, deepest first: before the rename those that are renamed as part of a
        whole and stay writable, after it all others. Where each is synced, this is what saves their names.
        """
        manifest = self._manifest
        for index in reversed(list(manifest.iter_kind(EntryKind.DIR))):
            if not self._chunks.has(index):
                continue
            entry = manifest.entry(index)
            is_free = (
                top_name(entry.path) in self._destination.free_tops
                and entry.mode & OWN_DIRECTORY == OWN_DIRECTORY
            )
            if is_free != free:
                continue
            fd = handles.open(entry.path, DIRECTORY_FLAGS)
            try:
                _dress(fd, entry, forgive=not free)
                if self._syncs_each:
                    self._sync_folder(fd, is_before=free)
            finally:
                os.close(fd)

    def _sync_folder(self, fd: int, *, is_before: bool) -> None:
        """Save a folder; before the renames a fault means that what was written cannot be trusted."""
        if not is_before:
            os.fsync(fd)
            return
        with sync_faults():
            os.fsync(fd)

    def _dress_kept(self) -> None:
        """Give files that lay there already the share's mode and time, where we may."""
        manifest, destination = self._manifest, self._destination
        for index in destination.iter_at(Place.SAME):
            if manifest.kind(index) is not EntryKind.FILE:
                continue
            try:
                fd = destination.handles.open(manifest.path(index), READ_FLAGS)
            except OSError:
                continue  # it is served only if it can be read
            try:
                if _dress(fd, manifest.entry(index), forgive=True) and self._syncs_each:
                    os.fsync(fd)
            finally:
                os.close(fd)
            destination.note(index)


def _dress(fd: int, entry: FileEntry, *, forgive: bool) -> bool:
    """Give an open file or folder mode and time; return whether it had others."""
    info = os.fstat(fd)
    is_new = stat.S_IMODE(info.st_mode) != entry.mode
    try:
        if is_new:
            os.fchmod(fd, entry.mode)
        if not is_same_time(info.st_mtime_ns, entry.mtime_ns):
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
            is_new = True
    except PermissionError:
        if not forgive:
            raise
    return is_new


assert OWN_FILE & 0o077 == 0
assert OWN_DIRECTORY & 0o077 == 0
