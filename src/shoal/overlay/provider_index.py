"""Provider index: who announced which key. Pure; every dimension of it is bounded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

KEYS = 65_536  # the least recently announced gives way
PROVIDERS = 64  # of one key; further ones are ignored
KEYS_OF_A_PROVIDER = 8_192  # further ones are ignored, so that one peer fills at most an eighth
TTL_S = 3 * 3600.0  # of an announcement; overlay.md, "refresh / expiry"


class ProviderIndex:
    """Announcements of all peers; each counts TTL_S unless it is renewed."""

    def __init__(self) -> None:
        self._providers: OrderedDict[bytes, dict[bytes, float]] = OrderedDict()
        self._keys: dict[bytes, set[bytes]] = {}  # provider -> keys; exactly the other map read backwards

    def __len__(self) -> int:
        return len(self._providers)

    def announce(self, provider: bytes, keys: Iterable[bytes], now: float) -> int:
        """Note that a peer provides keys; return how many were ignored because of the limits."""
        ignored = 0
        own = self._keys.setdefault(provider, set())
        for key in keys:
            providers = self._providers.setdefault(key, {})
            if provider not in providers:
                if len(own) >= KEYS_OF_A_PROVIDER or len(providers) >= PROVIDERS:
                    ignored += 1
                    if not providers:
                        del self._providers[key]
                    continue
                own.add(key)
            providers[provider] = now + TTL_S
            self._providers.move_to_end(key)
        while len(self._providers) > KEYS:
            self._drop_key(next(iter(self._providers)))
        if not self._keys.get(provider):
            self._keys.pop(provider, None)
        return ignored

    def retract(self, provider: bytes, keys: Iterable[bytes]) -> None:
        """Note that a peer no longer provides keys."""
        for key in keys:
            self._drop_pair(key, provider)

    def drop_provider(self, provider: bytes) -> None:
        """Forget everything a peer announced."""
        for key in list(self._keys.get(provider, ())):
            self._drop_pair(key, provider)

    def find(self, key: bytes, now: float) -> list[bytes]:
        """Return who provides a key, latest announcement first."""
        providers = self._providers.get(key, {})
        live = [(until, provider) for provider, until in providers.items() if until > now]
        return [provider for _, provider in sorted(live, reverse=True)]

    def sweep(self, now: float) -> None:
        """Drop what was not renewed."""
        for key, providers in list(self._providers.items()):
            for provider in [p for p, until in providers.items() if until <= now]:
                self._drop_pair(key, provider)

    def _drop_key(self, key: bytes) -> None:
        for provider in list(self._providers.get(key, ())):
            self._drop_pair(key, provider)

    def _drop_pair(self, key: bytes, provider: bytes) -> None:
        providers = self._providers.get(key)
        if providers is None or providers.pop(provider, None) is None:
            return
        if not providers:
            del self._providers[key]
        keys = self._keys[provider]
        keys.discard(key)
        if not keys:
            del self._keys[provider]
