"""Journal: which chunks of a transfer were received since the ledger was last saved, exact across kill -9.

Four bytes a chunk, big endian, appended by the receiving thread right before the chunk is written. Nothing is
fsynced: like the chunk itself, an append survives the death of the process, and neither is trusted after
another boot. What the journal names and the ledger does not is verified when the transfer resumes: right
chunks are kept, the others count as `refetched`.
"""

from __future__ import annotations

import os
import struct
from array import array

from shoal.core.errors import StorageFault
from shoal.storage.faults import fault_of_os_error

_ORDINAL = struct.Struct(">I")


class ReceiptJournal:
    """The journal of one transfer. `note` may be called by several threads at once."""

    def __init__(self, path: bytes) -> None:
        self._path = path
        self._fd = -1

    def read(self, total: int) -> list[int]:
        """Return the ordinals below `total` that are noted, each once, in order of arrival."""
        try:
            with open(self._path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _fault(error, self._path) from error
        ordinals = array("I", data[: len(data) // 4 * 4])
        if ordinals.itemsize != 4:
            return []
        ordinals.byteswap() if _is_little() else None
        return [o for o in dict.fromkeys(ordinals) if o < total]

    def start(self) -> None:
        """Forget what is noted and begin to note. Raises: StorageFault."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            os.makedirs(os.path.dirname(self._path), 0o700, exist_ok=True)
            self._fd = os.open(self._path, flags, 0o600)
        except OSError as error:
            raise _fault(error, self._path) from error

    def note(self, ordinal: int) -> None:
        """Note a chunk that is about to be written. Raises: StorageFault."""
        try:
            os.write(self._fd, _ORDINAL.pack(ordinal))
        except OSError as error:
            raise _fault(error, self._path) from error

    def close(self) -> None:
        """Stop noting; the file stays. Idempotent."""
        if self._fd >= 0:
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


def _is_little() -> bool:
    return array("I", [1]).tobytes()[0] == 1


def _fault(error: OSError, path: bytes) -> StorageFault:
    return fault_of_os_error(error, "The transfer's journal was not written", os.fsdecode(path))
