"""Sealer: the port through which values that carry keys are sealed before they reach the database."""

from __future__ import annotations

from typing import Protocol


class Sealer(Protocol):
    """Seals under a key outside the database; identity.keystore is one."""

    def seal_value(self, value: bytes) -> bytes:
        """Return `value` encrypted and authenticated."""
        ...

    def open_value(self, sealed: bytes) -> bytes:
        """Return what was sealed. Raises: ConfigFault where key and value do not fit."""
        ...
