"""What a get says that it fetched, where two providers bring the same chunk."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from tests.support.files_nodes import files_world
from tests.support.liars import release_when

from shoal.core.units import MIB
from shoal.storage.transfers import TransferState
from shoal.testing.liar import Lie, make_liar

SIZE_BYTES = 8 * MIB


async def test_what_two_bring_counts_for_both_and_as_fetched_again(tmp_path: Path) -> None:
    """One stops in its first chunk, so the other one is asked for it too; it comes from both while the last
    one is still missing.
    """
    (tmp_path / "file").write_bytes(random.Random(5).randbytes(SIZE_BYTES))
    async with files_world(tmp_path) as world:
        ada, ben, cem = [await world.add() for _ in range(3)]
        share = await ada.share(tmp_path / "file")
        assert (await ben.get(share.link, tmp_path / "ben")).state is TransferState.DONE
        offer = ben.swarm.find_offer(share.share_id)
        assert offer is not None
        (late,) = make_liar(ada.swarm, share.share_id, Lie.SILENT)
        (last,) = make_liar(ben.swarm, share.share_id, Lie.SILENT, offer.versions[1].total - 1)
        done, _ = await asyncio.gather(
            cem.get(share.link, tmp_path / "cem"), release_when(late, lambda: late.told > 0 and last.told > 0)
        )
        last.release()
        assert done.state is TransferState.DONE
        result = done.result
        assert result is not None
        assert result.refetched_bytes > 0
        assert result.fetched_bytes - result.refetched_bytes == SIZE_BYTES
        assert sum(result.providers.values()) == result.fetched_bytes
        assert done.done_bytes == SIZE_BYTES
