"""Checks: what is refused at once, before anything of a share or a get is begun."""

from __future__ import annotations

import os
from collections.abc import Mapping

from shoal.apps.files.context import FilesContext
from shoal.apps.files.served import ServedShare
from shoal.content.link import Link
from shoal.content.paths import display_path
from shoal.core.errors import LocalMisuse, Refused, StorageFault
from shoal.storage.scan import check_root
from shoal.storage.shares import SHARE_LIMIT


def check_paths(context: FilesContext, roots: list[bytes]) -> None:
    """Raises: LocalMisuse, Refused (code "own_home"), StorageFault for paths that cannot be shared."""
    if not roots:
        raise LocalMisuse("Nothing to share", cause="no path was given")
    for path in roots:
        if not os.path.isabs(path):
            raise LocalMisuse(f"{display_path(path)} is not an absolute path")
        if _is_in_home(context, path):
            raise Refused(
                f"{display_path(path)} cannot be shared",
                cause="it is Shoal's own home, or inside of it: its keys are there",
                next_step="share another folder",
                code="own_home",
            )
        if not os.path.exists(path):
            raise LocalMisuse(
                f"{display_path(path)} cannot be shared",
                cause="it does not exist" if not os.path.islink(path) else "it is a link to nothing",
                next_step="check the path",
                code="not_found",
            )
        if not (os.path.isfile(path) or os.path.isdir(path)):
            raise LocalMisuse(
                f"{display_path(path)} cannot be shared",
                cause="it is neither a file nor a folder",
                next_step="share files and folders",
            )
        if not os.access(path, os.R_OK):
            raise StorageFault(
                f"{display_path(path)} cannot be shared",
                cause="the user that runs shoal may not read it",
                next_step="give that user access to it",
                code="permission",
            )
        check_root(path)
    _check_names(roots)


def check_get(context: FilesContext, shares: Mapping[bytes, ServedShare], link: Link, dest: bytes) -> None:
    """Raises: LocalMisuse, Refused, StorageFault for a link that cannot be got here, or not into `dest`.

    `shares` are those that this node serves.
    """
    if link.network_id != context.network.network_id:
        raise Refused(
            "This link is for another network",
            cause="a link works only for members of the network it was made in",
            next_step="use the home that belongs to that network (--home)",
            code="foreign_network",
        )
    share = shares.get(link.share_id)
    if share is not None and share.is_own:
        raise Refused(
            "Nothing was fetched",
            cause=f"this device shares it itself: {display_path(share.row.roots[0])}",
            next_step="copy it, or get the link on another device",
            code="own_share",
        )
    if share is None and len(shares) >= SHARE_LIMIT:  # or it would fail at its very end
        raise Refused(
            "Nothing was fetched",
            cause=f"this node serves {SHARE_LIMIT} shares already, fetched ones among them: its limit",
            next_step="stop serving some: shoal shares, then shoal unshare",
            code="too_many_shares",
        )
    if not os.path.isabs(dest):
        raise LocalMisuse(f"{display_path(dest)} is not an absolute path")
    if _is_in_home(context, dest):
        raise Refused(
            "Nothing is written into Shoal's own home",
            cause=f"{display_path(dest)} is inside of it",
            next_step="choose another DEST",
            code="dest_home",
        )
    _check_folder(dest)


def _check_names(roots: list[bytes]) -> None:
    """Raises: LocalMisuse (code "same_name") for two things that would have one name in the share."""
    named: dict[bytes, bytes] = {}
    for path in roots:
        name, real = os.path.basename(path), os.path.realpath(path)
        if named.setdefault(name, real) != real:
            raise LocalMisuse(
                f"These paths cannot be one share: two of them are called {display_path(name)}",
                cause=f"{display_path(named[name])} and {display_path(real)}",
                next_step="share them one by one, or share the folder above them",
                code="same_name",
            )


def _check_folder(dest: bytes) -> None:
    """Raises: StorageFault (code "not_a_folder") if what is at `dest`, or above it, is no folder."""
    path = dest
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    if not os.path.isdir(path):
        raise StorageFault(
            "Nothing was fetched",
            cause=f"{display_path(path)} is {'a file' if os.path.isfile(path) else 'no folder'}, and DEST is "
            "the folder that a share is put into",
            next_step="name a folder; it is made if it is not there",
            code="not_a_folder",
        )


def _is_in_home(context: FilesContext, path: bytes) -> bool:
    home = os.path.realpath(context.home)
    real = os.path.realpath(path)
    return real == home or real.startswith(home + b"/")
