"""Search: who provides a key, asked of the index and then of every session.

Pure; a part of the full mesh machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from shoal.overlay.messages import Query
from shoal.overlay.provider_index import PROVIDERS
from shoal.overlay.steps import Cancel, Effect, Emit, Located, Result, Send, SetTimer

SEARCHES = 256  # at once; the oldest gives way
CONNECTED = "every connected peer was asked; members that are offline were not"


@dataclass(slots=True)
class _Search:
    key: bytes
    began_at: float
    asked: set[bytes] = field(default_factory=set)
    answered: set[bytes] = field(default_factory=set)
    heard: dict[bytes, None] = field(default_factory=dict)  # providers named by others, at most PROVIDERS
    messages: int = 0


class Searches:
    """The searches under way. `find` gives the providers the index knows, connected ones first."""

    def __init__(
        self, find: Callable[[float, bytes], list[bytes]], is_member: Callable[[bytes], bool]
    ) -> None:
        self._find = find
        self._is_member = is_member
        self._open: dict[int, _Search] = {}

    def start(
        self, now: float, search: int, key: bytes, budget_s: float, sessions: set[bytes], settling: bool
    ) -> list[Effect]:
        """Answer from the index, or ask every session and whoever connects before the budget is spent."""
        effects: list[Effect] = []
        if len(self._open) >= SEARCHES:
            effects += self._end(now, next(iter(self._open)))
        found = _Search(key, now)
        self._open[search] = found
        if self._find(now, key):
            found.asked |= sessions
            found.answered |= sessions  # they told before they were asked
            return [*effects, *self._end(now, search)]
        effects.append(SetTimer(now + budget_s, ("search", search)))
        for peer in sorted(sessions):
            effects += self._ask(search, found, peer)
        return [*effects, *self._end_if_done(now, search, settling)]

    def on_session_up(self, peer: bytes) -> list[Effect]:
        """Ask the peer too."""
        effects: list[Effect] = []
        for search, found in self._open.items():
            effects += self._ask(search, found, peer)
        return effects

    def on_session_down(self, now: float, peer: bytes, settling: bool) -> list[Effect]:
        """Do not wait for the peer any longer."""
        effects: list[Effect] = []
        for search, found in list(self._open.items()):
            found.asked.discard(peer)
            effects += self._end_if_done(now, search, settling)
        return effects

    def on_answer(
        self, now: float, peer: bytes, search: int, providers: list[bytes], settling: bool
    ) -> list[Effect]:
        """Take an answer. The first providers that are found end the search."""
        if not self.expects(peer, search):
            return []
        found = self._open[search]
        found.answered.add(peer)
        found.messages += 1
        for provider in providers:
            if self._is_member(provider) and len(found.heard) < PROVIDERS:
                found.heard[provider] = None
        return self._end_if_done(now, search, settling)

    def expects(self, peer: bytes, search: int) -> bool:
        """Tell whether a peer was asked in this search and has not answered."""
        found = self._open.get(search)
        return found is not None and peer in found.asked and peer not in found.answered

    def look_again(self, now: float, settling: bool) -> list[Effect]:
        """End the searches that have an answer now, for instance because somebody announced."""
        return [effect for search in list(self._open) for effect in self._end_if_done(now, search, settling)]

    def on_timer(self, now: float, search: int) -> list[Effect]:
        """The budget is spent."""
        return self._end(now, search)

    def __len__(self) -> int:
        return len(self._open)

    def _ask(self, search: int, found: _Search, peer: bytes) -> list[Effect]:
        if peer in found.asked:
            return []
        found.asked.add(peer)
        found.messages += 1
        return [Send(peer, Query(search, found.key))]

    def _end_if_done(self, now: float, search: int, settling: bool) -> list[Effect]:
        found = self._open[search]
        all_answered = bool(found.asked) and found.asked <= found.answered and not settling
        if all_answered or found.heard or self._find(now, found.key):
            return self._end(now, search)
        return []

    def _end(self, now: float, search: int) -> list[Effect]:
        found = self._open.pop(search, None)
        if found is None:
            return []
        hits = list(dict.fromkeys([*self._find(now, found.key), *found.heard]))
        answered = len(found.answered & found.asked)
        result = Result(
            hits,
            asked=len(found.asked),
            answered=answered,
            messages=found.messages,
            elapsed_s=now - found.began_at,
            guarantee=CONNECTED if found.asked <= found.answered else "some peers did not answer in time",
        )
        return [Cancel(("search", search)), Emit(Located(search, result))]
