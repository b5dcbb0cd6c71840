"""A program that writes to a home's database until it is killed, and says what was acknowledged.

    python -m tests.support.storage_writer DATABASE

Prints `e <author> <seq>` for each acknowledged entry and `c <count>` for each flushed state of a chunk
ledger in which the chunks 0 .. count-1 are marked.
"""

from __future__ import annotations

import asyncio
import sys

from tests.support.stores import PlainSealer

from shoal.storage.database import Database
from shoal.storage.entries import EntryRow
from shoal.storage.stores import Stores, make_stores
from shoal.storage.transfers import TransferRow

LOG = b"l" * 32
TRANSFER = b"t" * 16
WRITERS = 16
CHUNKS = 1_000_000


def make_entry(author: int, seq: int) -> EntryRow:
    """Return the entry that writer `author` writes as its `seq`th."""
    mark = author.to_bytes(4, "big") + seq.to_bytes(4, "big")
    return EntryRow(mark * 4, LOG, bytes([author]) * 32, seq, mark * 100)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def _write_entries(stores: Stores, author: int) -> None:
    tip = await stores.entries.find_tip(LOG, bytes([author]) * 32)
    seq = 0 if tip is None else tip[0] + 1
    while True:
        await stores.entries.append([make_entry(author, seq)], own=True)
        _say(f"e {author} {seq}")
        seq += 1


async def _mark_chunks(stores: Stores) -> None:
    if await stores.transfers.find(TRANSFER) is None:
        await stores.transfers.add(TransferRow(TRANSFER, b"s" * 32, "link", b"/x", 0.0, 0.0))
    ledger = await stores.transfers.open_ledger(TRANSFER, 1, CHUNKS)
    count = ledger.count
    while True:
        ledger.mark(range(count, count + 50), done_bytes=count + 50)
        count += 50
        await ledger.flush()
        _say(f"c {count}")


async def main(path: str) -> None:
    """Write until killed."""
    database = Database(path)
    await database.open()
    stores = make_stores(database, PlainSealer())
    await asyncio.gather(_mark_chunks(stores), *(_write_entries(stores, i) for i in range(WRITERS)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
