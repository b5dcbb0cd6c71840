"""Errors: the whole tree, sorted by whose fault it is.

    ShoalError
      LocalMisuse        our caller broke the contract
      RemoteFault        a peer broke the protocol
        MalformedMessage   bytes that do not decode
        LimitExceeded      more than a limit allows
      Unavailable        the network could not do it now
      StorageFault       disk full, corrupt, permission
      ConfigFault        names file, key and allowed values
      Refused            policy said no

What a person sees has three parts: `message` (what did not happen), `cause` and `next_step`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Exit codes of every command; scripts rely on them."""

    OK = 0
    USAGE = 2
    CONFIG = 3
    REFUSED = 4
    UNAVAILABLE = 5
    STORAGE = 6
    REMOTE_FAULT = 7
    INTERRUPTED = 130


class ShoalError(Exception):
    """Base of all errors a person may see. `code` is a stable word for scripts."""

    exit_code: ClassVar[ExitCode] = ExitCode.USAGE
    default_code: ClassVar[str] = "error"

    def __init__(self, message: str, *, cause: str = "", next_step: str = "", code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.cause = cause
        self.next_step = next_step
        self.code = code or self.default_code

    def __str__(self) -> str:
        return f"{self.message} ({self.cause})" if self.cause else self.message


class LocalMisuse(ShoalError):
    """Our caller broke the contract: wrong argument, wrong order, wrong state."""

    exit_code = ExitCode.USAGE
    default_code = "misuse"


class RemoteFault(ShoalError):
    """A peer broke the protocol. `peer` is its key where known; the fault becomes an observation."""

    exit_code = ExitCode.REMOTE_FAULT
    default_code = "remote_fault"

    def __init__(
        self,
        message: str,
        *,
        peer: bytes | None = None,
        cause: str = "",
        next_step: str = "",
        code: str = "",
    ) -> None:
        super().__init__(message, cause=cause, next_step=next_step, code=code)
        self.peer = peer


class MalformedMessage(RemoteFault):
    """Bytes that do not decode as what they claim to be."""

    default_code = "malformed"


class LimitExceeded(RemoteFault):
    """A peer sent or declared more than a limit allows."""

    default_code = "limit_exceeded"


class Unavailable(ShoalError):
    """The network could not do it now; the same call may work later."""

    exit_code = ExitCode.UNAVAILABLE
    default_code = "unavailable"

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        cause: str = "",
        next_step: str = "",
        code: str = "",
    ) -> None:
        super().__init__(message, cause=cause, next_step=next_step, code=code)
        self.retry_after_s = retry_after_s


class StorageFault(ShoalError):
    """The disk could not do it: full, corrupt, permission."""

    exit_code = ExitCode.STORAGE
    default_code = "storage"


class ConfigFault(ShoalError):
    """A setting, the home or its keys are not usable. The message names file, key and allowed values."""

    exit_code = ExitCode.CONFIG
    default_code = "config"


class Refused(ShoalError):
    """Policy said no: not a member, not allowed, already so."""

    exit_code = ExitCode.REFUSED
    default_code = "refused"
