"""Complete: what the shell is offered for words that only the running node knows; nothing where none runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from shoal.cli.face import ID_SHOWN
from shoal.core.errors import ShoalError

if TYPE_CHECKING:
    from shoal.api.client import Client


def peers(incomplete: str) -> list[str]:
    """Offer the names of members."""
    return _offer(incomplete, lambda node: (m.name for m in node.members().members if m.state == "active"))


def transfers(incomplete: str) -> list[str]:
    """Offer the ids of transfers, as `transfers` shows them."""
    return _offer(incomplete, lambda node: (x.id[:ID_SHOWN] for x in node.transfers()))


def shares(incomplete: str) -> list[str]:
    """Offer the names of shares."""
    return _offer(incomplete, lambda node: (x.name for x in node.shares()))


def pins(incomplete: str) -> list[str]:
    """Offer the names of kept copies."""
    return _offer(incomplete, lambda node: (x.name for x in node.pins()))


def follows(incomplete: str) -> list[str]:
    """Offer the folders of copies that follow."""
    return _offer(incomplete, lambda node: (x.dest for x in node.follows()))


def settings(incomplete: str) -> list[str]:
    """Offer the keys that `config set` takes."""
    from shoal.node.config import PLAIN_KEYS

    return [key for key in PLAIN_KEYS if key.startswith(incomplete)]


def _offer(incomplete: str, ask: Callable[[Client], Iterable[str]]) -> list[str]:
    """Return what begins like that, of what a shell can show and type."""
    from shoal.api.client import connect  # costs a tenth of a second, which other commands save

    try:
        with connect() as node:
            found = list(ask(node))
    except ShoalError:
        return []
    return sorted({word for word in found if word.startswith(incomplete) and word.isprintable()})
