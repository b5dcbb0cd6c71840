"""Heads: hears how long the feed of a share is now, wherever its author is in the network."""

from __future__ import annotations

from collections.abc import Callable

from shoal.apps.files.context import FilesContext
from shoal.apps.files.finding import find_location
from shoal.content.link import Link
from shoal.core.errors import Unavailable


def listen_to_head(
    context: FilesContext,
    link: Link,
    find_author: Callable[[], bytes | None],
    on_news: Callable[[int], None],
    who: str = "",
) -> None:
    """Call `on_news(entries)` when the author of a share says how many entries its feed has.

    While the author is not known anybody may say so. Without the secret that names it nothing is heard.
    """

    def on_head(peer: bytes, entries: int) -> None:
        if find_author() in (None, peer):
            on_news(entries)

    try:
        context.overlay.listen(find_location(context, link), on_head, who)
    except Unavailable:
        return  # whoever listens looks now and then, too


def end_listening(context: FilesContext, link: Link, who: str = "") -> None:
    """Listen no more; idempotent."""
    try:
        context.overlay.listen(find_location(context, link), None, who)
    except Unavailable:
        return
