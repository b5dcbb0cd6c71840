"""Journal: which chunks of a transfer were received since the ledger was last saved, exact across kill -9.

Four bytes a chunk, big endian, appended by the receiving thread right before the chunk is written. Nothing is
fsynced: like the chunk itself, an append survives the death of the process, and neither is trusted after
another boot. What the journal names and the ledger does not is verified when the transfer resumes: right
chunks are kept, the others are lost. Those are carried over to the next journal, with the highest bit set, so
that they count as `refetched` when they come again, after any number of crashes.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterable

from shoal.core.errors import StorageFault
from shoal.storage.faults import fault_of_os_error

_ORDINAL = struct.Struct(">I")
LOST = 1 << 31


class ReceiptJournal:
    """The journal of one transfer. `note` may be called by several threads at once."""

    def __init__(self, path: bytes) -> None:
        self._path = path
        self._fd = -1

    def read(self, total: int) -> tuple[set[int], set[int]]:
        """Return the ordinals below `total` that were noted, and those that were lost already before.

        Raises: StorageFault.
        """
        try:
            with open(self._path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return set(), set()
        except OSError as error:
            raise _fault(error, self._path) from error
        words = [word for (word,) in _ORDINAL.iter_unpack(data[: len(data) // 4 * 4])]
        noted = {word for word in words if word < total}
        lost = {word ^ LOST for word in words if word & LOST and word ^ LOST < total}
        return noted, lost

    def touched_ns(self) -> int:
        """Return when something was noted last; 0 without a journal. Raises: StorageFault."""
        try:
            return os.stat(self._path).st_ctime_ns
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise _fault(error, self._path) from error

    def start(self, lost: Iterable[int] = ()) -> None:
        """Begin anew: forget what is noted but for what is `lost`. Raises: StorageFault."""
        fresh = self._path + b".new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            os.makedirs(os.path.dirname(self._path), 0o700, exist_ok=True)
            self._fd = os.open(fresh, flags, 0o600)
            os.write(self._fd, b"".join(_ORDINAL.pack(ordinal | LOST) for ordinal in lost))
            os.rename(fresh, self._path)
        except OSError as error:
            raise _fault(error, self._path) from error

    def note(self, ordinal: int) -> None:
        """Note a chunk that is about to be written. Raises: StorageFault."""
        try:
            os.write(self._fd, _ORDINAL.pack(ordinal))
        except OSError as error:
            raise _fault(error, self._path) from error

    def close(self) -> None:
        """Stop noting; the file stays, and says that part files were ours until now. Idempotent."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):  # then they are looked at once more
                os.utime(self._fd)
            os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """Close and delete the file; idempotent."""
        self.close()
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise _fault(error, self._path) from error


def _fault(error: OSError, path: bytes) -> StorageFault:
    return fault_of_os_error(error, "The transfer's journal was not written", os.fsdecode(path))
