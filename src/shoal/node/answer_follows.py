"""Answers about follows: the operations on copies that follow their share."""

from __future__ import annotations

import math

from shoal.api import schema as s
from shoal.api.faults import find_fault, make_body
from shoal.api.paths import decode_path
from shoal.apps.files.status import FollowStatus
from shoal.content.link import Link
from shoal.content.paths import display_path
from shoal.core.errors import LocalMisuse
from shoal.core.units import MAX_DURATION_S
from shoal.identity.ids import format_share_id
from shoal.node.parts import Parts

KEEP_COUNT = 100_000  # versions folders of one copy
ID_CHARACTERS = 8  # fewer are no beginning of a share id, but a name
NAMED = 5  # copies that an error lists


class FollowAnswers:
    """The part of `NodeApi` that is about follows."""

    _parts: Parts

    async def follow(self, request: s.FollowRequest) -> s.Follow:
        """Begin to follow, or change the bounds of a follow."""
        fits = math.isfinite(request.keep_s) and 0 <= request.keep_s <= MAX_DURATION_S
        if not fits or not 0 <= request.keep_count <= KEEP_COUNT:
            raise LocalMisuse(
                "Nothing is followed",
                cause="how long or how many replaced files are kept is out of range",
                next_step=f"use at most ten years, and 0 to {KEEP_COUNT}",
            )
        status = await self._parts.files.follows.follow(
            Link.parse(request.link),
            decode_path(request.dest),
            overwrite=request.overwrite,
            keep_s=request.keep_s,
            keep_count=request.keep_count,
        )
        return _follow(status)

    async def follows(self, request: s.Nothing) -> s.Follows:
        """List what follows."""
        return s.Follows([_follow(status) for status in self._parts.files.follows.statuses()])

    async def unfollow(self, request: s.UnfollowRequest) -> s.Follow:
        """End a follow."""
        return _follow(await self._parts.files.follows.unfollow(self._find(request)))

    def _find(self, request: s.UnfollowRequest) -> bytes:
        found = self._parts.files.follows.statuses()
        text = (request.follow or "").strip()
        if request.path is not None:
            path = decode_path(request.path)
            matches = [x for x in found if x.dest == path]
            shown = display_path(path)
        elif text.lower().startswith("shl1"):
            share_id = Link.parse(text).share_id
            matches = [x for x in found if x.share_id == share_id]
            shown = "the link"
        else:  # an id before a name, which others chose
            matches = [
                x
                for x in found
                if len(text) >= ID_CHARACTERS and format_share_id(x.share_id).startswith(text.lower())
            ] or [x for x in found if text and x.name == text]
            shown = repr(text[:80])
        if len(matches) == 1:
            return matches[0].share_id
        several = ", ".join(display_path(x.dest) for x in matches[:NAMED])
        more = f" and {len(matches) - NAMED} more" if len(matches) > NAMED else ""
        raise LocalMisuse(
            "Nothing was changed",
            cause=f"{shown} names {f'several: {several}{more}' if matches else 'no copy that follows'}",
            next_step="name the folder of one" if matches else "see them: shoal follows",
            code="ambiguous_follow" if matches else "unknown_follow",
        )


def _follow(x: FollowStatus) -> s.Follow:
    return s.Follow(
        share_id=format_share_id(x.share_id),
        name=x.name,
        dest=display_path(x.dest),
        state=x.state,
        version=x.version,
        newest=x.newest,
        lag_s=round(x.lag_s, 3),
        why=x.why,
        error=make_body(x.error) if x.error is not None else None,
        fault=find_fault(x.error) if x.error is not None else None,
    )
